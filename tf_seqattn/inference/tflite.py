"""Writes TFLite files, and checks them before they are trusted."""

import contextlib
import dataclasses
import json
import logging
import re
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import (
    convert_variables_to_constants_v2,
)

from tf_seqattn.files import Path, check_file_path, write_whole
from tf_seqattn.inference import flatbuffer, litert
from tf_seqattn.inference.agreement import (
    check_comparable,
    difference,
    disagreement,
    rows_and_outputs,
    scale,
)
from tf_seqattn.inference.latency import time_files
from tf_seqattn.inference.layer_plan import LayerPlan
from tf_seqattn.inference.packed_model import pack_with_plans, print_plans, stripped
from tf_seqattn.inference.precision import fastest_form, set_precision
from tf_seqattn.inference.sample_loop import (
    by_samples,
    has_many_rows,
    is_faster_by_samples,
)
from tf_seqattn.inference.signatures import (
    CHECKED_SAMPLES,
    flat_outputs,
    input_names,
    input_specs,
    output_names,
    save,
    serving_function,
    signature_of,
)
from tf_seqattn.inference.unroll import unrolled
from tf_seqattn.keras_api import (
    classes,
    computing_in_float32,
    is_graph_model,
    is_keras3,
    named_in_scope,
    sublayers,
)

logger = logging.getLogger("tf_seqattn")

LAYOUTS = ("packed", "sparse", "dense")
# Largest difference of an output from Keras, relative to its largest value.
TOLERANCES = {None: 1e-4, "float16": 1e-2, "dynamic": 0.1, "int8": 0.1}
METADATA = "tf_seqattn.blocks"
# Batches of inputs, or a function that returns them.
_Batches = Iterable[Any] | Callable[[], Iterable[Any]]
# A disk with less free space counts as full if the conversion failed.
_LEAST_FREE_BYTES = 2**16
# Precisions in which a batch may be computed sample by sample.
_LOOPED = (None, "float16")
# The sparse kernels of the converter read so many inputs at a time and drop the rest.
_SPARSE_RUN = 4


@dataclasses.dataclass(frozen=True)
class TFLiteReport:
    """What was written.

    Attributes:
      path: the file.
      num_bytes: its size.
      plans: the plan of each kernel (see `sa.pack`); empty unless the layout is
        "packed".
      differences: largest absolute difference from Keras, by kind of interpreter. For
        an output of integers or booleans, the share of values that differ.
      largest_output: largest absolute output of Keras for the same rows.
      by_samples: whether the file computes a batch sample by sample, in a loop.
    """

    path: str
    num_bytes: int
    plans: list[LayerPlan]
    differences: dict[str, float]
    largest_output: float
    by_samples: bool = False


def _check_arguments(
    layout: str, quantization: str | None, representative_dataset: _Batches | None
) -> None:
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


def _check_sparse_widths(model: Any) -> None:
    """Raises an error for kernels whose last inputs the sparse kernels would drop."""
    for layer in sublayers(model):
        if not isinstance(layer, classes("Dense")):
            continue
        kernel = layer.kernel.numpy()
        if kernel.shape[0] % _SPARSE_RUN and np.mean(kernel == 0) > 0.3:
            raise ValueError(
                f'layout="sparse" would silently drop inputs of layer {layer.name!r}: '
                f"its {kernel.shape[0]} inputs are not a multiple of {_SPARSE_RUN}. "
                'Use layout="packed", or pad the inputs with zeros.'
            )


def _as_list(batch: Any, specs: Sequence[tf.TensorSpec]) -> list[np.ndarray]:
    """The arrays of a batch in the order of the inputs."""
    if isinstance(batch, dict):
        names = input_names(specs)
        # The inputs of nested dictionaries are sorted by their keys.
        batch = [
            batch[key] for key in (names if {*names} == {*batch} else sorted(batch))
        ]
    return [np.asarray(value) for value in tf.nest.flatten(batch)]


def _representative_batches(
    dataset: _Batches, specs: Sequence[tf.TensorSpec]
) -> list[list[np.ndarray]]:
    """The batches of a representative dataset, checked against the inputs."""
    batches = [
        _as_list(b, specs) for b in (dataset() if callable(dataset) else dataset)
    ]
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


def _convert(
    model: Any,
    layout: str,
    quantization: str | None,
    batches: list[list[np.ndarray]],
    original: Any,
    in_loop: bool,
) -> bytes:
    """The content of a TFLite file, made in a temporary folder."""
    with tempfile.TemporaryDirectory() as folder, _without_notes_on_gradients():
        try:
            converter = _converter(model, quantization, original, folder, in_loop)
            return _converted(converter, layout, quantization, batches, original)
        except Exception as error:
            # The message of the converter about a truncated file does not help.
            free = shutil.disk_usage(folder).free
            if not isinstance(error, OSError) and free > _LEAST_FREE_BYTES:
                raise
            raise OSError(
                "The TFLite file was not written: the converter's temporary folder in "
                f"{tempfile.gettempdir()!r} has only {free:,} bytes free, or does not "
                "allow files of this size. Free some space, or set TMPDIR to a folder "
                f"with more. The cause: {error}"
            ) from error


def _names_no_gradient(record: logging.LogRecord) -> bool:
    return "custom gradients" not in record.getMessage()


@contextlib.contextmanager
def _without_notes_on_gradients() -> Iterator[None]:
    """Within it, TensorFlow does not warn that a file without gradients has none."""
    absl_logger = logging.getLogger("absl")
    absl_logger.addFilter(_names_no_gradient)
    try:
        yield
    finally:
        absl_logger.removeFilter(_names_no_gradient)


def _converter(
    model: Any, quantization: str | None, original: Any, folder: str, in_loop: bool
) -> Any:
    # The converter takes no Keras 3 model, and gives the inputs of a subclassed model
    # the dtype that they were cast to. From a SavedModel it does not make the variables
    # of Keras 3 constant, so that is done here.
    specs = input_specs(original)
    with unrolled(model), fastest_form(model, quantization):
        if in_loop:
            compute = by_samples(lambda *sample: flat_outputs(model, sample), specs)
            serving = tf.function(compute, input_signature=signature_of(specs))
        else:
            serving = serving_function(model, specs)
        frozen = convert_variables_to_constants_v2(serving.get_concrete_function())
    module = tf.Module()

    @tf.function(input_signature=signature_of(specs))
    def serve(*inputs: Any) -> dict[str, tf.Tensor]:
        outputs = frozen(*inputs)
        return dict(zip(_output_names(original, len(outputs)), outputs, strict=True))

    # Only training needs custom gradients, and they may read tensors of another graph.
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
    save(module, folder, serve, options)
    return tf.lite.TFLiteConverter.from_saved_model(folder)


def _converted(
    converter: Any,
    layout: str,
    quantization: str | None,
    batches: list[list[np.ndarray]],
    original: Any,
) -> bytes:
    # By name, since the file lists its inputs in its own order.
    names = input_names(input_specs(original))

    def rows() -> Iterator[dict[str, np.ndarray]]:
        for batch in batches:
            for row in zip(*batch, strict=True):
                yield {n: v[None] for n, v in zip(names, row, strict=True)}

    if layout == "sparse":
        converter.optimizations = [tf.lite.Optimize.EXPERIMENTAL_SPARSITY]
    else:
        set_precision(converter, quantization, rows)
    try:
        with warnings.catch_warnings():
            # The converter warns so for every file with float inputs.
            warnings.filterwarnings("ignore", message="Statistics for quantized")
            # Its own, for the ranges of int8.
            warnings.filterwarnings("ignore", message=".*tf.lite.Interpreter is depr")
            return converter.convert()
    except Exception as error:
        raise ValueError(_why_not_converted(original, str(error))) from error


# The line of an error that names an operation without an operator in TFLite, with its
# scopes, the innermost first.
_ERROR_LINE = re.compile(
    r"error: (?:loc\((.*)\): )?(?:failed to legalize operation )?"
    r"'(?:tf|tfl)\.(\w+)'(?: op)? (.*)"
)
_SCOPE = re.compile(r'fused\["(\w+):", "([^"@]+)')
_ABOUT_LOOPS = (
    "such as a loop that fills a list (`tf.map_fn`, `tf.scan`, `tf.while_loop`) with "
    "the steps written out, "
)


def _why_not_converted(model: Any, error: str) -> str:
    """A message with the operators and layers that the error of the converter names."""
    names = {layer.name for layer in sublayers(model) if layer is not model}
    operators: set[str] = set()
    layers: set[str] = set()
    for location, operator, reason in _ERROR_LINE.findall(error):
        scopes = _SCOPE.findall(location)
        # TFLite has the operator, but the operator refuses its operands.
        is_given = "operand" in reason or "result" in reason
        operators.add(f"{operator} ({reason})" if is_given else operator)
        held = [named_in_scope(scope, names) for _, scope in scopes]
        layers.update(found[-1] for found in held[:1] if found)
    of_layers = f" (layer {', '.join(sorted(layers))})" if layers else ""
    remedy = _ABOUT_LOOPS if "TensorListReserve" in operators else ""
    return (
        f"Model {model.name!r} cannot be written as TFLite{of_layers}: there is no "
        f"built-in operator for {', '.join(sorted(operators)) or 'a part of it'}. "
        f"Replace the part that needs it, {remedy}or use `sa.export_saved_model`. The "
        "error of the converter is above."
    )


def _check(
    file: bytes,
    names: tuple[list[str], list[str]],
    batch: list[np.ndarray],
    expected: list[np.ndarray],
    tolerance: float,
    what: str,
) -> dict[str, float]:
    """Runs a file and compares every output with that of Keras.

    Returns:
      The largest difference by kind of interpreter.

    Raises:
      RuntimeError: if they disagree. It gives the largest difference.
    """
    differences = {}
    for kind, resolver in litert.RESOLVERS.items():
        try:
            outputs = litert.run(file, batch, resolver, *names)
        except (RuntimeError, ValueError) as error:
            raise RuntimeError(
                f"The TFLite file ({what}) does not run with LiteRT ({kind}) and was "
                f"not written: {error}"
            ) from error
        wrong = disagreement(expected, outputs, tolerance)
        if wrong:
            raise RuntimeError(
                f"The TFLite file ({what}) disagrees with the Keras model and was not "
                f"written: {wrong} ({kind})."
            )
        differences[kind] = max(map(difference, expected, outputs))
    return differences


def _output_names(model: Any, number: int) -> list[str]:
    """Names of the outputs in the signature."""
    if not is_keras3(model) and model.inputs:
        return model.output_names
    return output_names(number)


def export_tflite(
    model: Any,
    path: Path,
    layout: str = "packed",
    quantization: str | None = None,
    representative_dataset: _Batches | None = None,
    block_size: Sequence[int | None] | None = None,
    batch_size: int = 64,
    choose: str = "model",
    num_threads: int = 1,
    tolerance: float | None = None,
    print_fn: Callable[[str], object] = logger.info,
) -> TFLiteReport:
    """Writes a TFLite file of built-in operators, and checks it with LiteRT.

    Where the cost model expects that a batch of `batch_size` takes less time sample by
    sample, as it does for images, the file does so in a loop, and is written for
    single samples. With `choose="measure"` both files are timed.

    The file takes any batch size, has a signature, and carries the report of its blocks
    as metadata ("tf_seqattn.blocks", JSON). Before it is written, it is run with the
    default delegate and without any, and compared with Keras. A model of mixed
    precision is written and compared in float32, the precision of its weights. A
    subclassed model is packed in place (see `sa.pack`), and its packed layers are
    float32.

    Args:
      model: a built model. If it is still pruned, it is stripped first.
      path: the file to write.
      layout: "packed" computes on the kept blocks only (`sa.pack`); "sparse" stores
        zeros in TFLite's own encoding; "dense" is the model as it is.
      quantization: None (float32), "float16" weights, "dynamic" (int8 weights) or
        "int8" (weights and activations).
      representative_dataset: batches of inputs, or a function that returns them. A
        batch has one array `(batch, ...)` for each input. "int8" takes its ranges from
        them, and the check its rows, which are random otherwise.
      block_size: as in `sa.pack`.
      batch_size: as in `sa.pack`.
      choose: as in `sa.pack`, for the precision of the file.
      num_threads: as in `sa.pack`.
      tolerance: largest difference allowed in an output, relative to its largest value.
        For integers and booleans, it is the share of values that may differ. By default
        it is 1e-4 in float32, 1e-2 in float16 and 0.1 in 8 bits.
      print_fn: called with each line of the report.

    Returns:
      A `TFLiteReport`.

    Raises:
      ValueError: if an argument is out of range, `path` cannot be written, the
        representative dataset does not fit, TFLite lacks an operator, the combination
        is known to give wrong results, or the model gives NaN.
      OSError: if the disk of `path` or of the temporary folder is full.
      RuntimeError: if the file disagrees with Keras. Then nothing is written.

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
            (block_size, batch_size, "tflite", choose, num_threads, quantization),
            tolerance,
        )
    write_whole(path, file)
    if report.plans:
        print_plans(report.plans, print_fn)
    if report.by_samples:
        print_fn(f"{path} computes a batch sample by sample: that is faster.")
    print_fn(
        f"{path}: {report.num_bytes:,} bytes, largest difference from Keras "
        f"{report.differences}"
    )
    return report


def _checked_file(
    model: Any,
    path: str,
    layout: str,
    quantization: str | None,
    representative_dataset: _Batches | None,
    packing: tuple[Any, ...],
    tolerance: float,
) -> tuple[bytes, TFLiteReport]:
    """The content of a TFLite file that agrees with a float32 model, and its report."""
    specs = input_specs(model)
    batches: list[list[np.ndarray]] = []
    if representative_dataset is not None:
        batches = _representative_batches(representative_dataset, specs)
    # A subclassed model is packed in place, so its outputs are computed first.
    rows = [v[:CHECKED_SAMPLES] for v in batches[0]] if batches else None
    batch, expected = rows_and_outputs(model, specs, rows)
    names = (input_names(specs), _output_names(model, len(expected)))

    def checked(
        exported: Any, plans: list[LayerPlan], in_loop: bool
    ) -> tuple[bytes, TFLiteReport]:
        file = _convert(exported, layout, quantization, batches, model, in_loop)
        file = _finished(file, plans, quantization)
        check_comparable(model, expected)
        what = f"layout={layout!r}, quantization={quantization!r}"
        differences = _check(file, names, batch, expected, tolerance, what)
        largest = max(map(scale, expected))
        return file, TFLiteReport(path, len(file), plans, differences, largest, in_loop)

    if layout == "sparse":
        _check_sparse_widths(model)
    if layout != "packed":
        return checked(model, [], in_loop=False)
    packed, plans = pack_with_plans(model, *packing)
    block_size, batch_size, *rest = packing
    _, choose, num_threads, _ = rest
    measures = choose == "measure" and has_many_rows(plans, batch_size)
    looped = None
    if (
        quantization in _LOOPED
        and is_graph_model(model)
        and (measures or is_faster_by_samples(plans, batch_size))
    ):
        try:
            single = pack_with_plans(model, block_size, 1, *rest)
            looped = checked(*single, in_loop=True)
        except (RuntimeError, ValueError) as error:
            # Samples that depend on one another, or have no fixed sizes.
            logger.info("%s computes a batch in one go: %s", path, error)
    if looped and not measures:
        return looped
    whole = checked(packed, plans, in_loop=False)
    if looped:
        inputs = [np.resize(rows, (batch_size, *rows.shape[1:])) for rows in batch]
        pair = {"whole": whole[0], "looped": looped[0]}
        files = {name: (file, inputs, names[0]) for name, file in pair.items()}
        times = time_files(files, num_threads)
        if np.median(times["whole"] / times["looped"]) > 1:
            return looped
    return whole


def _finished(file: bytes, plans: list[LayerPlan], quantization: str | None) -> bytes:
    """The file of the converter, mended, with the report of its blocks."""
    if quantization == "int8":
        file = flatbuffer.center_constant_operands(file)
    file = flatbuffer.name_constants(file)
    custom = flatbuffer.custom_operators(file)
    if custom:
        raise ValueError(
            f"The TFLite file needs operators that are not built in: {custom}"
        )
    report = [
        {k: v for k, v in dataclasses.asdict(p).items() if k != "pattern"}
        for p in plans
    ]
    return flatbuffer.add_metadata(file, METADATA, json.dumps(report).encode())
