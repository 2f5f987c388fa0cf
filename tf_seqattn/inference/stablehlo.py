"""Writes block-sparse models as StableHLO, for other runtimes than TensorFlow."""

import logging
import re
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import (
    convert_variables_to_constants_v2,
)

from tf_seqattn.files import Path, check_file_path, write_whole
from tf_seqattn.inference.agreement import (
    allowed_rounding,
    check_comparable,
    disagreement,
    rows_and_outputs,
)
from tf_seqattn.inference.layer_plan import LayerPlan
from tf_seqattn.inference.packed_model import pack_with_plans, print_plans, stripped
from tf_seqattn.inference.signatures import input_specs
from tf_seqattn.keras_api import arguments

logger = logging.getLogger("tf_seqattn")

TOLERANCE = 1e-4

# The place of an operation in Python. It is full of paths, and useless elsewhere.
_LOCATION = re.compile(r" loc\((?:[^()]|\([^()]*\))*\)|^#loc.*\n", re.MULTILINE)


def export_stablehlo(
    model: Any,
    path: Path,
    batch_size: int = 64,
    block_size: Sequence[int | None] | None = None,
    choose: str = "model",
    print_fn: Callable[[str], object] = logger.info,
) -> list[LayerPlan]:
    """Writes a StableHLO module with its weights, in the text form of MLIR.

    Any runtime of StableHLO compiles it: JAX and PyTorch on CPU, GPU and TPU, or IREE.
    Its function `main` takes the inputs of the model, in order, for one batch size.

    Args:
      model: a built model. If it is still pruned, it is stripped first. A subclassed
        model is packed in place (see `sa.pack`).
      path: the file to write, such as `model.mlir`.
      batch_size: samples in one call, the only number that the module takes.
      block_size: as in `sa.pack`.
      choose: as in `sa.pack`.
      print_fn: called with each line of the report.

    Returns:
      The plan of each kernel, a list of `LayerPlan`.

    Raises:
      ValueError: if an argument is out of range, `path` cannot be written, an input has
        an unknown size other than the batch, or the model gives NaN.
      RuntimeError: if the module, run by XLA, disagrees with Keras. Then nothing is
        written.

    Example:

    >>> import pathlib, tempfile
    >>> model = keras.Sequential([keras.layers.Dense(8, input_shape=(8,))])
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "model.mlir"
    >>> plans = export_stablehlo(model, path, batch_size=2)
    >>> "stablehlo.dot" in path.read_text()
    True
    """
    path = check_file_path(path)
    model = stripped(model)
    shapes = [(batch_size, *spec.shape[1:]) for spec in input_specs(model)]
    if any(size is None for shape in shapes for size in shape):
        raise ValueError(
            "StableHLO needs inputs of known sizes, but for the batch. The inputs of "
            f"model {model.name!r} have shapes {shapes}. Build it with known sizes, or "
            "use `sa.export_saved_model`."
        )
    specs = [
        tf.TensorSpec(shape, spec.dtype)
        for shape, spec in zip(shapes, input_specs(model), strict=True)
    ]
    batch, expected = rows_and_outputs(model, specs)
    check_comparable(model, expected)
    rounding = allowed_rounding(model, batch, expected)
    packed, plans = pack_with_plans(model, block_size, batch_size, "xla", choose)

    def compute(*inputs: Any) -> list[tf.Tensor]:
        outputs = packed(*arguments(packed, list(inputs)), training=False)
        return tf.nest.flatten(outputs)

    frozen = convert_variables_to_constants_v2(
        tf.function(compute).get_concrete_function(*specs)
    )
    compiled = tf.function(lambda *inputs: frozen(*inputs), jit_compile=True)
    found = [value.numpy() for value in compiled(*map(tf.constant, batch))]
    wrong = disagreement(expected, found, TOLERANCE, rounding)
    if wrong:
        raise RuntimeError(
            "The StableHLO module disagrees with the Keras model and was not written: "
            f"{wrong}."
        )
    text = compiled.experimental_get_compiler_ir(*specs)(stage="stablehlo")
    write_whole(path, _LOCATION.sub("", text))
    print_plans(plans, print_fn)
    return plans
