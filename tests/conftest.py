"""Shared by all tests."""

import collections
import gc
import importlib
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras as keras3
import matplotlib

matplotlib.use("Agg")

import hypothesis
import pytest
import tf_keras as keras2

# What is imported stays: no later collection need look at it.
gc.collect()
gc.freeze()

# There are no deadlines: the first call of a tf.function is slow.
hypothesis.settings.register_profile("tf_seqattn", deadline=None)
hypothesis.settings.load_profile("tf_seqattn")


# A test that runs on both Keras versions with more cases than this is exhaustive.
_FEW_CASES = 3


# Before pytest leaves out what is slow.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Leaves three of four cases of an exhaustive test to `make test-all`."""
    cases = collections.Counter(getattr(item, "function", None) for item in items)
    seen = collections.Counter()
    for item in items:
        function = getattr(item, "function", None)
        on_both = "keras" in getattr(item, "fixturenames", ())
        many = on_both and cases[function] > _FEW_CASES
        if many or item.get_closest_marker("exhaustive"):
            if seen[function] % 4:
                item.add_marker(pytest.mark.slow)
            seen[function] += 1


@pytest.fixture(autouse=True)
def _same_start():
    """Every test starts from the same seed and a clean Keras state."""
    keras2.backend.clear_session()
    # To collect garbage after every test takes a third of the time of all tests.
    keras3.backend.clear_session(free_memory=False)
    for library in (keras2, keras3):
        library.utils.set_random_seed(0)
    yield
    keras2.mixed_precision.set_global_policy("float32")
    keras3.mixed_precision.set_dtype_policy("float32")


@pytest.fixture(autouse=True, scope="module")
def _collected_garbage():
    """The models of a file do not outlive it."""
    yield
    gc.collect()


@pytest.fixture(params=["tf_keras", "keras"])
def keras(request, monkeypatch):
    """The Keras under test. A test that uses this fixture runs on both.

    The helpers of a test file find it as the file's own `keras` and `layers`.
    """
    library = importlib.import_module(request.param)
    monkeypatch.setattr(request.module, "keras", library, raising=False)
    if hasattr(request.module, "layers"):
        monkeypatch.setattr(request.module, "layers", library.layers)
    return library
