"""Writing TFLite files that are checked before they are trusted."""

import dataclasses
import json
import logging
import re
import tempfile
import warnings

import numpy as np
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import (
    convert_variables_to_constants_v2,
)

from tf_seqattn.files import check_file_path, write_whole
from tf_seqattn.inference import flatbuffer, litert
from tf_seqattn.inference.layer_plan import LayerPlan
from tf_seqattn.inference.packed_model import pack_with_plans, print_plans, stripped
from tf_seqattn.inference.signatures import (
    CHECKED_SAMPLES,
    input_names,
    input_specs,
    output_names,
    outputs_of,
    random_batch,
    serving_function,
    signature_of,
)
from tf_seqattn.inference.unroll import unrolled
from tf_seqattn.keras_api import (
    arranged,
    classes,
    computing_in_float32,
    is_keras3,
    keras,  # noqa: F401  (the example)
    named_in_scope,
    sublayers,
)

logger = logging.getLogger("tf_seqattn")

LAYOUTS = ("packed", "sparse", "dense")
# Largest difference from Keras, relative to the largest output, by precision.
TOLERANCES = {None: 1e-4, "float16": 1e-2, "dynamic": 0.1, "int8": 0.1}
METADATA = "tf_seqattn.blocks"
# The converter's sparse kernels take so many inputs at a time, and drop the rest.
_SPARSE_RUN = 4


@dataclasses.dataclass(frozen=True)
class TFLiteReport:
    """What was written.

    Attributes:
      path: the file.
      num_bytes: its size.
      plans: what was decided for each kernel (see `sa.pack`); empty unless packed.
      differences: largest absolute difference from Keras, by kind of interpreter.
      largest_output: largest absolute output of Keras on the same rows.
    """

    path: str
    num_bytes: int
    plans: list[LayerPlan]
    differences: dict[str, float]
    largest_output: float


def _check_arguments(layout, quantization, representative_dataset):
    if layout not in LAYOUTS:
        raise ValueError(f"`layout` must be one of {LAYOUTS}. Received: {layout!r}")
    if quantization not in TOLERANCES:
        raise ValueError(
            f"`quantization` must be one of {tuple(TOLERANCES)}. Received: "
            f"quantization={quantization!r}"
        )
    if quantization == "int8" and representative_dataset is None:
        raise ValueError(
            'quantization="int8" needs `representative_dataset`: an iterable of '
            "batches like those the model will see, which give the ranges."
        )
    if layout == "sparse" and quantization is not None:
        raise ValueError(
            f'layout="sparse" with quantization={quantization!r} gives wrong results: '
            "runtimes misread TFLite's sparse encoding at that precision. Use "
            'layout="packed", which is right and faster, or quantization=None.'
        )


def _check_sparse_widths(model):
    """Refuses kernels of which the sparse kernels would drop the last inputs."""
    for layer in sublayers(model):
        if not isinstance(layer, classes("Dense")):
            continue
        kernel = layer.kernel.numpy()
        if kernel.shape[0] % _SPARSE_RUN and np.mean(kernel == 0) > 0.3:
            raise ValueError(
                f'layout="sparse" would silently drop inputs of layer {layer.name!r}: '
                f"its {kernel.shape[0]} inputs are no multiple of {_SPARSE_RUN}. Use "
                'layout="packed", or pad the inputs with zeros.'
            )


def _as_list(batch) -> list[np.ndarray]:
    if isinstance(batch, dict):
        batch = list(batch.values())
    values = batch if isinstance(batch, (list, tuple)) else [batch]
    return [np.asarray(value) for value in values]


def _representative_batches(dataset, specs) -> list[list[np.ndarray]]:
    """The batches of a representative dataset, checked against the inputs."""
    batches = [_as_list(b) for b in (dataset() if callable(dataset) else dataset)]
    if not batches:
        raise ValueError("`representative_dataset` is empty.")
    for number, batch in enumerate(batches):
        shapes = [value.shape for value in batch]
        fits = len(batch) == len(specs) and all(
            value.ndim > 0 and spec.shape[1:].is_compatible_with(value.shape[1:])
            for value, spec in zip(batch, specs, strict=True)
        )
        if not fits:
            wanted = [tuple(spec.shape) for spec in specs]
            raise ValueError(
                f"Batch {number} of `representative_dataset` has shapes {shapes}, but "
                f"the model's inputs have {wanted}. Give one array (batch, ...) for "
                "each input."
            )
    return batches


def _convert(model, layout, quantization, batches, original) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        converter = _converter(model, original, folder)
        return _converted(converter, layout, quantization, batches, original)


def _converter(model, original, folder: str):
    # The converter takes no model of Keras 3, gives the inputs of a subclassed one the
    # dtype they were cast to, and of a SavedModel it leaves the variables of Keras 3
    # variables: they are made constants before.
    specs = input_specs(original)
    with unrolled(model):
        frozen = convert_variables_to_constants_v2(
            serving_function(model, specs).get_concrete_function()
        )
    module = tf.Module()

    @tf.function(input_signature=signature_of(specs))
    def serve(*inputs):
        outputs = frozen(*inputs)
        return dict(zip(_output_names(original, len(outputs)), outputs, strict=True))

    # Only training needs the gradients, which may read what is not in the graph.
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
    tf.saved_model.save(module, folder, {"serving_default": serve}, options)
    return tf.lite.TFLiteConverter.from_saved_model(folder)


def _converted(converter, layout, quantization, batches, original) -> bytes:
    if layout == "sparse":
        converter.optimizations = [tf.lite.Optimize.EXPERIMENTAL_SPARSITY]
    elif quantization is not None:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if quantization == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if quantization == "int8":
        converter.representative_dataset = lambda: (
            [row[None] for row in rows]
            for batch in batches
            for rows in zip(*batch, strict=True)
        )
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    try:
        with warnings.catch_warnings():
            # Every file says so of its float inputs.
            warnings.filterwarnings("ignore", message="Statistics for quantized")
            return converter.convert()
    except Exception as error:
        missing = sorted(set(_MISSING_OPERATOR.findall(str(error))))
        layers = _layers_that_use(original, missing)
        raise ValueError(
            f"Model {original.name!r} cannot be written as TFLite"
            f"{_listed(' (layer ', layers, ')')}: there is no built-in operator for "
            f"{', '.join(missing) or 'a part of it'}. Replace what needs it, "
            f"{_ABOUT_LOOPS if 'TensorListReserve' in missing else ''}or use "
            "`sa.export_saved_model`. The converter's error is above."
        ) from error


_ABOUT_LOOPS = (
    "such as a loop that fills a list (`tf.map_fn`, `tf.scan`, `tf.while_loop`) with "
    "the steps written out, "
)
# How the converter names an operation of TensorFlow that it has no operator for.
_MISSING_OPERATOR = re.compile(r"\btf\.(\w+)[('\"]")


def _listed(before: str, names: list[str], after: str) -> str:
    return before + ", ".join(names) + after if names else ""


def _layers_that_use(model, operators: list[str]) -> list[str]:
    """Names of the layers of a model that use operations of the given types."""
    names = {layer.name for layer in sublayers(model) if layer is not model}

    def call(*inputs):
        return model(arranged(model, list(inputs)))

    graph = tf.function(call).get_concrete_function(*input_specs(model)).graph
    found = {
        name
        for operation in graph.get_operations()
        if operation.type in operators
        for name in named_in_scope(operation.name, names)
    }
    return sorted(found)


def _check(file: bytes, names, batch, expected, tolerance, what: str):
    """Runs a file and compares it with what Keras gave.

    Returns:
      The largest difference by kind of interpreter, and the largest output.

    Raises:
      RuntimeError: with the largest difference, if they disagree.
    """
    largest = max(float(np.abs(value).max()) for value in expected)
    differences = {}
    for kind, resolver in litert.RESOLVERS.items():
        try:
            outputs = litert.run(file, batch, resolver, *names)
        except (RuntimeError, ValueError) as error:
            raise RuntimeError(
                f"The TFLite file ({what}) does not run with LiteRT ({kind}) and was "
                f"not written: {error}"
            ) from error
        differences[kind] = max(
            float(np.abs(value - output).max())
            for value, output in zip(expected, outputs, strict=True)
        )
    # Written so that a difference that is not a number is refused.
    if not all(d <= tolerance * max(largest, 1e-30) for d in differences.values()):
        raise RuntimeError(
            f"The TFLite file ({what}) disagrees with the Keras model and was not "
            f"written: largest differences {differences}, allowed {tolerance:g} of the "
            f"largest output, {largest:.3g}."
        )
    return differences, largest


def _output_names(model, number: int) -> list[str]:
    """Names of the outputs in the signature."""
    if not is_keras3(model) and model.inputs:
        return model.output_names
    return output_names(number)


def export_tflite(
    model,
    path,
    layout: str = "packed",
    quantization: str | None = None,
    representative_dataset=None,
    block_size=None,
    batch_size: int = 64,
    choose: str = "model",
    tolerance: float | None = None,
    print_fn=logger.info,
) -> TFLiteReport:
    """Writes a TFLite file of built-in operators, and checks it with LiteRT.

    The file takes any batch size, has a signature, and carries the report of its blocks
    as metadata ("tf_seqattn.blocks", JSON). Before it is written it is run, with the
    default delegate and without any, and compared with Keras. A model of mixed
    precision is written, and compared, in float32, which its weights are in. A
    subclassed model is packed in place (see `sa.pack`), its packed layers in float32.

    Args:
      model: a stripped (or pruned, which is then stripped) model.
      path: the file to write.
      layout: "packed" computes on the kept blocks only (`sa.pack`); "sparse" stores
        zeros in TFLite's own encoding; "dense" is the model as it is.
      quantization: None (float32), "float16" weights, "dynamic" (int8 weights) or
        "int8" (weights and activations).
      representative_dataset: batches of inputs, or a function that returns them:
        arrays `(batch, ...)`, one for each input. Gives "int8" its ranges, and the
        check its rows, which are random otherwise.
      block_size: as in `sa.pack`.
      batch_size: as in `sa.pack`.
      choose: as in `sa.pack`.
      tolerance: largest difference allowed, relative to the largest output; by default
        1e-4 in float32, 1e-2 in float16 and 0.1 in 8 bits.
      print_fn: called with each line of the report.

    Returns:
      A `TFLiteReport`.

    Raises:
      ValueError: for an argument out of range, a path that cannot be written, a
        representative dataset that does not fit, an operator TFLite lacks, or a
        combination known to give wrong results.
      RuntimeError: if the file disagrees with Keras. Nothing is written then.

    Example:

    >>> import os, tempfile
    >>> model = keras.Sequential([keras.layers.Dense(64, input_shape=(64,))])
    >>> model.set_weights([np.kron(np.eye(4), np.ones((16, 16))), np.zeros(64)])
    >>> path = os.path.join(tempfile.mkdtemp(), "model.tflite")
    >>> report = export_tflite(model, path, choose="always")
    >>> report.plans[0].layout, report.differences["no delegate"] < 1e-4
    ('packed', True)
    """
    _check_arguments(layout, quantization, representative_dataset)
    path = check_file_path(path)
    model = stripped(model)
    if tolerance is None:
        tolerance = TOLERANCES[quantization]
    with computing_in_float32(model):
        file, report = _checked_file(
            model,
            str(path),
            layout,
            quantization,
            representative_dataset,
            (block_size, batch_size, "tflite", choose),
            tolerance,
        )
    write_whole(path, file)
    if report.plans:
        print_plans(report.plans, print_fn)
    print_fn(
        f"{path}: {report.num_bytes:,} bytes, largest difference from Keras "
        f"{report.differences}"
    )
    return report


def _checked_file(
    model, path, layout, quantization, representative_dataset, packing, tolerance
) -> tuple[bytes, TFLiteReport]:
    """The content of a TFLite file that agrees with a float32 model, and its report."""
    specs = input_specs(model)
    batches = None
    if representative_dataset is not None:
        batches = _representative_batches(representative_dataset, specs)
    # A subclassed model is packed in place: what it gave is asked for before.
    batch = [v[:CHECKED_SAMPLES] for v in batches[0]] if batches else None
    batch = batch or random_batch(specs)
    expected = outputs_of(model, batch)
    plans: list[LayerPlan] = []
    exported = model
    if layout == "packed":
        exported, plans = pack_with_plans(model, *packing)
    elif layout == "sparse":
        _check_sparse_widths(model)
    file = _convert(exported, layout, quantization, batches, model)
    if quantization == "int8":
        file = flatbuffer.center_constant_operands(file)
    custom = flatbuffer.custom_operators(file)
    if custom:
        raise ValueError(
            f"The TFLite file needs operators that are not built in: {custom}"
        )
    report = [
        {k: v for k, v in dataclasses.asdict(p).items() if k != "pattern"}
        for p in plans
    ]
    file = flatbuffer.add_metadata(file, METADATA, json.dumps(report).encode())
    what = f"layout={layout!r}, quantization={quantization!r}"
    names = (input_names(specs), _output_names(model, len(expected)))
    differences, largest = _check(file, names, batch, expected, tolerance, what)
    return file, TFLiteReport(path, len(file), plans, differences, largest)
