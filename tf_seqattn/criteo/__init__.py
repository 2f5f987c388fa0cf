"""Click-through models through TFRS, pruned with SequentialAttention++.

Run it with `python -m tf_seqattn.criteo --output out/criteo`. `criteo.keras_rs` has the
same models for Keras 3.

TensorFlow Recommenders (TFRS) needs `tf.keras` to mean Keras 2, which TensorFlow
decides when `tf.keras` is first touched. Importing this package makes that choice.
"""

import os

import tensorflow as tf

from tf_seqattn.experiments.command_line import require_extra


def _make_tf_keras_keras_2() -> None:
    """Lets `tf.keras` mean Keras 2, or raises an error that says why it cannot."""
    os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
    version = getattr(tf.keras, "version", None)
    if version is not None and version().startswith("3."):
        raise ImportError(
            f"tf.keras is Keras {version()} in this process already, but "
            "tf_seqattn.criteo uses TensorFlow Recommenders, which needs Keras 2. "
            "Set the environment variable TF_USE_LEGACY_KERAS=1 before starting "
            "Python, or import tf_seqattn.criteo before anything that uses tf.keras."
        )


require_extra(
    "recommenders",
    "tensorflow_recommenders",
    "polars",
    "sklearn",
    "tqdm",
    "matplotlib",
)
_make_tf_keras_keras_2()
