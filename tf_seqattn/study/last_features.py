"""The geometry of the last features: angle, length and margin (arXiv 2206.07918).

A class is a row of the last dense layer; features are what that layer reads.
"""

from typing import NamedTuple

import numpy as np


class Geometry(NamedTuple):
    """Of each row of the data: float `(rows,)`.

    Attributes:
      angle: between the features and their true class, in degrees.
      length: of the features.
      margin: signed distance of the features to the nearest boundary of their true
        class; negative for a row that is classified wrongly.
    """

    angle: np.ndarray
    length: np.ndarray
    margin: np.ndarray


def geometry(
    features: np.ndarray, kernel: np.ndarray, bias: np.ndarray, labels: np.ndarray
) -> Geometry:
    """Measures the last features.

    Args:
      features: `(rows, features)`.
      kernel: `(features, classes)` of the last layer.
      bias: `(classes,)`.
      labels: int `(rows,)`, the true classes.

    Example:

    >>> found = geometry(np.array([[3.0, 4.0]]), np.eye(2), np.zeros(2), np.array([1]))
    >>> [round(float(x), 2) for x, in found]
    [36.87, 5.0, 0.71]
    """
    rows = np.arange(len(labels))
    length = np.linalg.norm(features, axis=1)
    logits = features @ kernel + bias
    sizes = np.linalg.norm(kernel, axis=0)
    products = (features @ kernel)[rows, labels]
    cosine = products / np.maximum(length * sizes[labels], 1e-12)
    # Distance between the logits of two classes over that of their rows.
    apart = np.linalg.norm(kernel[:, labels, None] - kernel[:, None, :], axis=0)
    distances = (logits[rows, labels][:, None] - logits) / np.maximum(apart, 1e-12)
    distances[rows, labels] = np.inf
    return Geometry(
        np.degrees(np.arccos(np.clip(cosine, -1.0, 1.0))),
        length,
        distances.min(axis=1),
    )
