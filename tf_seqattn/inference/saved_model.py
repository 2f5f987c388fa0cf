"""Writes SavedModels with a serving signature that XLA compiles."""

import logging
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tf_seqattn.files import Path, check_folder_path, replace_folder
from tf_seqattn.inference.agreement import (
    allowed_rounding,
    check_comparable,
    disagreement,
    rows_and_outputs,
)
from tf_seqattn.inference.layer_plan import LayerPlan
from tf_seqattn.inference.packed_model import pack_with_plans, print_plans, stripped
from tf_seqattn.inference.signatures import (
    input_names,
    input_specs,
    output_names,
    save,
    serving_function,
)

logger = logging.getLogger("tf_seqattn")

TOLERANCE = 1e-4
# The file that marks the folder of a SavedModel, and what else may be in one.
_ENTRIES = (
    "saved_model.pb",
    ("variables", "assets", "assets.extra", "fingerprint.pb", "keras_metadata.pb"),
)


def export_saved_model(
    model: Any,
    path: Path,
    block_size: Sequence[int | None] | None = None,
    batch_size: int = 64,
    choose: str = "model",
    tolerance: float = TOLERANCE,
    print_fn: Callable[[str], object] = logger.info,
) -> list[LayerPlan]:
    """Writes a SavedModel that computes on the kept blocks, compiled by XLA.

    The signature "serving_default" takes any batch size. XLA compiles it once for each
    size. Mixed precision is kept. The written model is loaded and compared with Keras.

    Args:
      model: a built model. If it is still pruned, it is stripped first. A subclassed
        model is packed in place (see `sa.pack`).
      path: the folder to write. An empty folder or a SavedModel is replaced. Any other
        folder is an error.
      block_size: as in `sa.pack`.
      batch_size: as in `sa.pack`.
      choose: as in `sa.pack`.
      tolerance: largest difference allowed in an output, relative to its largest value.
        For integers and booleans, it is the share of values that may differ. Mixed
        precision may add ten times the change that it makes in Keras.
      print_fn: called with each line of the report.

    Returns:
      The plan of each kernel, a list of `LayerPlan`.

    Raises:
      ValueError: if an argument is out of range, `path` cannot be written, or the model
        gives NaN.
      OSError: if the disk is full. Nothing changes at `path`.
      RuntimeError: if the written model disagrees with Keras. Nothing changes at
        `path`.

    Example:

    >>> import pathlib, tempfile
    >>> import numpy as np
    >>> model = keras.Sequential([keras.layers.Dense(64, input_shape=(64,))])
    >>> model.set_weights([np.kron(np.eye(4), np.ones((16, 16))), np.zeros(64)])
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "served"
    >>> plans = export_saved_model(model, path, choose="always")
    >>> serve = tf.saved_model.load(str(path)).signatures["serving_default"]
    >>> [output.shape.as_list() for output in serve(tf.ones((2, 64))).values()]
    [[2, 64]]
    """
    path = check_folder_path(path, *_ENTRIES)
    model = stripped(model)
    inputs = input_specs(model)
    names = input_names(inputs)
    batch, expected = rows_and_outputs(model, inputs)
    check_comparable(model, expected)
    rounding = allowed_rounding(model, batch, expected)
    packed, plans = pack_with_plans(model, block_size, batch_size, "xla", choose)
    serve = serving_function(packed, inputs, jit_compile=True)
    module = tf.Module()
    module.model = packed

    def write(folder: pathlib.Path) -> None:
        save(module, folder, serve)
        loaded = tf.saved_model.load(str(folder))
        results = loaded.signatures["serving_default"](
            **{name: tf.constant(v) for name, v in zip(names, batch, strict=True)}
        )
        found = [results[name].numpy() for name in output_names(len(expected))]
        wrong = disagreement(expected, found, tolerance, rounding)
        if wrong:
            raise RuntimeError(
                f"The SavedModel disagrees with the Keras model and was not written: "
                f"{wrong}."
            )

    replace_folder(path, write, *_ENTRIES)
    print_plans(plans, print_fn)
    return plans
