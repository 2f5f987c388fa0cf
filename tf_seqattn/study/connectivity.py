"""What a network computes on the straight line between two sets of weights."""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf
import tf_keras as keras

POINTS = 11


def reestimate_batch_norms(model: keras.Model, rows: np.ndarray) -> None:
    """Sets the statistics of all batch norms to those of the rows, as one batch.

    Statistics that are averages of two networks' belong to neither of them.

    Args:
      model: any, whose batch norms are layers of its own.
      rows: inputs.
    """
    norms = [
        layer
        for layer in model.submodules
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    model(rows, training=True)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def errors_between(
    model: keras.Model,
    first: Sequence[np.ndarray],
    last: Sequence[np.ndarray],
    rows: np.ndarray,
    labels: np.ndarray,
) -> np.ndarray:
    """Shares of wrong rows at `POINTS` points from one set of weights to another.

    Args:
      model: of the weights, which it has lost afterwards; it returns logits.
      first: weights, as of `model.get_weights()`.
      last: weights.
      rows: inputs, which the batch norms are estimated on as well.
      labels: classes of the rows.
    """
    errors = []
    for share in np.linspace(0.0, 1.0, POINTS):
        pairs = zip(first, last, strict=True)
        model.set_weights([(1 - share) * a + share * b for a, b in pairs])
        reestimate_batch_norms(model, rows)
        found = tf.argmax(model(rows, training=False), axis=1).numpy()
        errors.append(float(np.mean(found != labels)))
    return np.array(errors)


def barrier(errors: np.ndarray) -> float:
    """The highest error on a line, above the mean of its ends.

    Args:
      errors: `(points,)`, with both ends.

    Example:

    >>> barrier(np.array([0.125, 0.5, 0.125]))
    0.375
    """
    return float(errors.max() - (errors[0] + errors[-1]) / 2)
