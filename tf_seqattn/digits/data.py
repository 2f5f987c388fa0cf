"""The 1797 handwritten digits that scikit-learn ships: 8 x 8 grey images."""

from typing import NamedTuple

import numpy as np
from sklearn import datasets, model_selection

TEST_SHARE = 0.2


class Digits(NamedTuple):
    """Images `(n, 8, 8, 1)`, float32 in [0, 1], and labels `(n,)` from 0 to 9."""

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray


def load_digits(seed: int = 0) -> Digits:
    """Returns the digits, split with every class in equal shares.

    Args:
      seed: decides which images are held out for the test.

    Returns:
      A `Digits` of 1437 images for training and 360 for the test.

    Example:

    >>> load_digits().test_images.shape
    (360, 8, 8, 1)
    """
    images, labels = datasets.load_digits(return_X_y=True)
    # The grey levels are counts from 0 to 16.
    images = (images / 16.0).astype(np.float32).reshape(-1, 8, 8, 1)
    train_images, test_images, train_labels, test_labels = (
        model_selection.train_test_split(
            images, labels, test_size=TEST_SHARE, stratify=labels, random_state=seed
        )
    )
    return Digits(train_images, train_labels, test_images, test_labels)
