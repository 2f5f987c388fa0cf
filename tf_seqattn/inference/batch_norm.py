"""Folding a batch normalization into the layer before it."""

from collections.abc import Set
from typing import Any

import numpy as np

from tf_seqattn.keras_api import (
    classes,
    input_shape,
    keras_of,
    layers_after,
    layers_before,
)


def followers(model: Any, shared: Set[int] = frozenset()) -> dict[int, Any]:
    """Normalizations that read one layer only, and are its only reader.

    Args:
      model: a Sequential or functional model.
      shared: ids of layers that other graphs use too.

    Returns:
      For the id of each such layer, the `BatchNormalization` after it.
    """
    found = {}
    for norm in model.layers:
        if type(norm) not in classes("BatchNormalization") or id(norm) in shared:
            continue
        read = layers_before(model, norm)
        if len(read) != 1 or len(read[0]) != 1 or _axis(norm) != -1:
            continue
        before = read[0][0]
        if len(layers_after(model, before)) != 1 or id(before) in shared:
            continue
        # No call is recorded in a nested Sequential. Such a layer counts as used more
        # than once.
        linear = keras_of(norm).activations.linear
        is_linear = getattr(before, "activation", None) is linear
        once = len(layers_before(model, before)) == 1
        if is_linear and once and any(before is layer for layer in model.layers):
            found[id(before)] = norm
    return found


def _axis(norm: Any) -> int:
    """The normalized axis, counted from the end; 0 for several."""
    axes = norm.axis if isinstance(norm.axis, (list, tuple)) else [norm.axis]
    if len(axes) != 1:
        return 0
    rank = len(input_shape(norm) or ())
    return axes[0] - rank if axes[0] >= 0 else axes[0]


def fold(
    matrix: np.ndarray, bias: np.ndarray | None, norm: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Kernel and bias that include the normalization.

    Args:
      matrix: kernel `(inputs, outputs)`.
      bias: `(outputs,)`, or None.
      norm: a built `BatchNormalization` over the outputs.

    Returns:
      `matrix * scale` and `(bias - mean) * scale + beta`, where `scale` is
      `gamma / sqrt(variance + epsilon)`. The normalization computes this in inference.

    Example:

    >>> norm = keras.layers.BatchNormalization(epsilon=0.0)
    >>> norm.build((None, 1))
    >>> norm.set_weights([np.array([v]) for v in (6.0, 1.0, 2.0, 9.0)])
    >>> matrix, bias = fold(np.ones((1, 1)), None, norm)
    >>> float(matrix[0, 0]), float(bias[0])
    (2.0, -3.0)
    """
    variance = norm.moving_variance.numpy().astype(np.float64)
    scale = 1.0 / np.sqrt(variance + norm.epsilon)
    if norm.scale:
        scale = scale * norm.gamma.numpy()
    shift = -norm.moving_mean.numpy() * scale
    if norm.center:
        shift = shift + norm.beta.numpy()
    if bias is not None:
        shift = shift + bias * scale
    return (matrix * scale).astype(matrix.dtype), shift.astype(matrix.dtype)
