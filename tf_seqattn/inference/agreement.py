"""Compares the outputs of an exported file with those of Keras."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tf_seqattn.inference.signatures import outputs_of, random_batch
from tf_seqattn.keras_api import arrays_of, computing_in_float32


def _has_nan(outputs: Sequence[np.ndarray]) -> bool:
    return any(np.isnan(_numbers(value)).any() for value in outputs)


def rows_and_outputs(
    model: Any,
    specs: Sequence[tf.TensorSpec],
    rows: list[np.ndarray] | None = None,
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Rows for the comparison, and the outputs of a Keras model for them.

    Args:
      model: a Keras model.
      specs: specifications of its inputs.
      rows: one array for each input. By default they are random, and positive if the
        model gives NaN otherwise, as a logarithm does.

    Returns:
      The rows, and one array for each output.
    """
    batch = random_batch(specs) if rows is None else rows
    outputs = outputs_of(model, batch)
    if rows is None and _has_nan(outputs):
        batch = [np.abs(v) if v.dtype.kind != "b" else v for v in batch]
        outputs = outputs_of(model, batch)
    return batch, outputs


def check_comparable(model: Any, outputs: Sequence[np.ndarray]) -> None:
    """Raises an error if a model gives NaN, which equals nothing.

    Args:
      model: a Keras model.
      outputs: its outputs.

    Raises:
      ValueError: if an output has NaN. It names the output and the weights with NaN.
    """
    for index, values in enumerate(outputs):
        if not _has_nan([values]):
            continue
        weights = [
            getattr(weight, "path", weight.name)
            for weight in arrays_of(model)
            if np.isnan(_numbers(np.asarray(weight))).any()
        ]
        cause = (
            f"Its weights {weights} have NaN."
            if weights
            else "Its weights have none: give `sa.export_tflite` rows that it is made "
            "for as `representative_dataset`."
        )
        raise ValueError(
            f"Model {model.name!r} itself gives NaN in output {index}, so that no "
            f"export can be compared with it. {cause}"
        )


def _is_discrete(values: np.ndarray) -> bool:
    return values.dtype.kind in "biu"


def _numbers(values: np.ndarray) -> np.ndarray:
    """The values in a precision in which differences do not overflow."""
    return values.astype(np.complex128 if values.dtype.kind == "c" else np.float64)


def difference(expected: np.ndarray, found: np.ndarray) -> float:
    """How far one output is from another.

    Args:
      expected: an output of Keras.
      found: the same output of the exported file, of the same shape.

    Returns:
      The largest absolute difference. For integers and booleans, it is the share of
      values that differ. Equal infinities do not differ, and NaN differs from
      everything.

    Example:

    >>> difference(np.array([1.0, np.inf]), np.array([1.5, np.inf]))
    0.5
    >>> difference(np.array([True, False]), np.array([True, True]))
    0.5
    """
    if expected.size == 0:
        return 0.0
    if _is_discrete(expected):
        return float(np.mean(expected != found))
    one, other = _numbers(expected), _numbers(np.asarray(found))
    with np.errstate(invalid="ignore"):
        return float(np.where(one == other, 0.0, np.abs(one - other)).max())


def scale(expected: np.ndarray) -> float:
    """The scale that differences of one output are relative to.

    Returns:
      Its largest finite absolute value, or 1 for integers and booleans.
    """
    if _is_discrete(expected):
        return 1.0
    values = np.abs(_numbers(expected))
    return float(values[np.isfinite(values)].max(initial=0.0))


def allowed_rounding(
    model: Any, batch: list[np.ndarray], outputs: Sequence[np.ndarray]
) -> list[float]:
    """The difference of each output that mixed precision may add.

    Args:
      model: a Keras model.
      batch: rows, one array for each input.
      outputs: the outputs of the model for them.

    Returns:
      Ten times the change that float32 makes, since the largest of a few rounding
      errors depends much on the order of the sums. Zeros for a float32 model.
    """
    with computing_in_float32(model):
        exact = outputs_of(model, batch)
    return [10 * difference(*pair) for pair in zip(exact, outputs, strict=True)]


def disagreement(
    expected: Sequence[np.ndarray],
    found: Sequence[np.ndarray],
    tolerance: float,
    extra: Sequence[float] | None = None,
) -> str:
    """Describes the first output that differs too much; empty if all agree.

    Args:
      expected: the outputs of Keras.
      found: the outputs of the exported file.
      tolerance: largest difference allowed, relative to the output's own scale.
      extra: absolute difference that is allowed in addition, for each output.

    Example:

    >>> disagreement([np.ones(2), np.ones(2)], [np.ones(2), np.zeros(2)], 0.1)
    'largest difference 1 of output 1, allowed 0.1, largest output 1'
    """
    for index, (value, output) in enumerate(zip(expected, found, strict=True)):
        apart = difference(value, output)
        allowed = tolerance * max(scale(value), 1e-30)
        allowed += extra[index] if extra is not None else 0.0
        # Written so that a difference that is not a number is refused.
        if not apart <= allowed:
            return (
                f"largest difference {apart:.3g} of output {index}, allowed "
                f"{allowed:.3g}, largest output {scale(value):.3g}"
            )
    return ""
