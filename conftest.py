"""Names that the examples in docstrings use without importing them."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pytest
import tensorflow as tf
import tf_keras

import tf_seqattn as sa


@pytest.fixture(autouse=True)
def _names_of_the_examples(doctest_namespace):
    doctest_namespace.update(keras=tf_keras, np=np, sa=sa, tf=tf)
