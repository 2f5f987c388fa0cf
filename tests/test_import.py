"""Importing the package leaves `tf.keras` as it was, in every order of imports."""

import os
import subprocess
import sys

import pytest

TFMOT = "tensorflow_model_optimization"
ORDERS = [
    ("tf_seqattn", "tensorflow"),
    *(
        # Each runs for many seconds, in its own process.
        pytest.param(order, marks=pytest.mark.slow)
        for order in (
            ("tensorflow", "tf_seqattn"),
            ("keras", "tf_seqattn"),
            ("tf_keras", "tf_seqattn"),
            ("tf_seqattn", "tf_keras", "keras"),
        )
    ),
]
USE = """
import os, sys, keras, tf_keras, numpy as np, tensorflow as tf, tf_seqattn as sa
schedule = sa.SequentialAttentionSchedule(0.5, end_step=4, cycles=1)
for library in (keras, tf_keras):
    model = library.Sequential([library.Input((16,)), library.layers.Dense(16)])
    pruned = sa.prune(model, schedule, (1, 1))
    pruned.compile("adam", "mse")
    x = np.ones((8, 16), "float32")
    pruned.fit(x, x, epochs=4, verbose=0, callbacks=[sa.UpdatePruningStep()])
    stripped = sa.strip_pruning(pruned)
    assert np.mean(stripped.layers[-1].kernel.numpy() == 0) == 0.5
"""


def run(code, **environment):
    inherited = {k: v for k, v in os.environ.items() if k != "TF_USE_LEGACY_KERAS"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**inherited, **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.exhaustive
@pytest.mark.parametrize("order", ORDERS, ids=str)
def test_tf_keras_means_what_it_meant(order):
    imports = "".join(f"import {name}\n" for name in order)
    check = f"""
import os, sys, tensorflow as tf
assert "TF_USE_LEGACY_KERAS" not in os.environ
assert {TFMOT!r} not in sys.modules
assert tf.keras.layers.Dense.__module__.startswith("keras.src")
"""
    run(imports + USE + check)


def test_only_linear_models_need_scikit_learn():
    run(
        """
import sys
sys.modules["sklearn"] = None
import tf_seqattn as sa
assert not hasattr(sa, "quadratic")
try:
    sa.linear
except ImportError as error:
    assert "pip install 'tf-seqattn[linear]'" in str(error)
else:
    raise AssertionError
"""
    )


def test_whoever_asked_for_keras_2_gets_it():
    """The user's choice in the environment holds, and both Keras versions work."""
    check = """
assert os.environ["TF_USE_LEGACY_KERAS"] == "1"
assert tf.keras.layers.Dense.__module__.startswith("tf_keras")
"""
    run(USE + check, TF_USE_LEGACY_KERAS="1")


@pytest.mark.parametrize("before", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_tfmot_beside_it(before):
    """Only tfmot changes the environment, and both orders of import work."""
    imports = f"import {TFMOT}\n"
    run(imports + USE if before else USE + imports + USE)
