"""Shared by all tests."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import matplotlib

matplotlib.use("Agg")

import pytest
import tf_keras as keras


@pytest.fixture(autouse=True)
def _same_start():
    """Every test starts from the same seed and a clean Keras state."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(0)
    yield
    keras.mixed_precision.set_global_policy("float32")
