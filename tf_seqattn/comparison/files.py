"""A candidate as a TFLite file: written, run, and timed with the others."""

import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from tf_seqattn.inference import export_tflite, latency, litert
from tf_seqattn.inference.signatures import input_names, input_specs
from tf_seqattn.keras_api import Model

_ROWS_A_CALL = 512


class Latency(NamedTuple):
    """Microseconds of one call: the median and the quartiles around it."""

    median: float
    lower_quartile: float
    upper_quartile: float


def in_order(inputs: Any, names: Sequence[str]) -> list[np.ndarray]:
    """Inputs as a list in the order of their names.

    Args:
      inputs: an array, a list in that order, or a dictionary.
      names: names of the inputs.

    Example:

    >>> in_order({"b": [2.0], "a": [1.0]}, ["a", "b"])
    [array([1.]), array([2.])]
    """
    if isinstance(inputs, Mapping):
        inputs = [inputs[name] for name in names]
    elif not isinstance(inputs, (list, tuple)):
        inputs = [inputs]
    return [np.asarray(array) for array in inputs]


def write(
    model: Model,
    path: pathlib.Path,
    precision: str,
    inputs: Any,
    num_threads: int,
    tolerance: float | None = None,
) -> list[str]:
    """Writes a file in whichever layout is expected to be faster.

    Args:
      model: without pruning.
      path: of the file.
      precision: "float32" or a `quantization` of `sa.export_tflite`.
      inputs: one batch, which gives the ranges of int8 and is the batch of the file.
      num_threads: of the runtime.
      tolerance: see `sa.export_tflite`. By default there is none but in float32: how
        far int8 is from it is measured by the quality.

    Returns:
      The names of its inputs, in the order of the model.
    """
    names = input_names(input_specs(model))
    batch = in_order(inputs, names)
    quantization = None if precision == "float32" else precision
    if tolerance is None and quantization is not None:
        tolerance = np.inf
    export_tflite(
        model,
        path,
        quantization=quantization,
        representative_dataset=[batch],
        batch_size=len(batch[0]),
        num_threads=num_threads,
        tolerance=tolerance,
    )
    return names


def predictor(file: bytes, names: Sequence[str]) -> Callable[[Any], Any]:
    """A function from inputs, as `in_order` takes them, to the outputs of a file."""

    def predict(inputs: Any) -> Any:
        arrays = in_order(inputs, names)
        parts = [
            litert.run(
                file,
                [array[start : start + _ROWS_A_CALL] for array in arrays],
                input_names=names,
            )
            for start in range(0, len(arrays[0]), _ROWS_A_CALL)
        ]
        outputs = [np.concatenate(part) for part in zip(*parts, strict=True)]
        return outputs[0] if len(outputs) == 1 else outputs

    return predict


def time_files(
    files: Mapping[str, tuple[bytes, Sequence[str] | None]],
    inputs: Any,
    num_threads: int,
    seconds: float,
) -> dict[str, Latency]:
    """Times files in turns on the same batch.

    Args:
      files: each file and the names of its inputs, by name. None in place of these is
        the order of the file.
      inputs: one batch.
      num_threads: of the runtime.
      seconds: how long to go on, in all.
    """
    ready = {
        name: (file, in_order(inputs, names or []), names)
        for name, (file, names) in files.items()
    }
    times = latency.time_files(ready, num_threads, seconds)
    return {
        name: Latency(*(float(q) for q in np.percentile(1e6 * taken, (50, 25, 75))))
        for name, taken in times.items()
    }
