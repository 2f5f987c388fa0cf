"""Corrupted images, at strengths from 1 to 5."""

from collections.abc import Callable

import numpy as np
import scipy.ndimage

STRENGTHS = (1, 2, 3, 4, 5)
# Images `(n, height, width, 1)` from 0 to 1, a strength and a source of draws.
Corruption = Callable[[np.ndarray, int, np.random.Generator], np.ndarray]


def _noise(images: np.ndarray, strength: int, random: np.random.Generator):
    return images + 0.1 * strength * random.normal(size=images.shape)


def _blur(images: np.ndarray, strength: int, random: np.random.Generator):
    sigma = 0.25 * strength
    return scipy.ndimage.gaussian_filter(images, (0, sigma, sigma, 0))


def _contrast(images: np.ndarray, strength: int, random: np.random.Generator):
    return 0.5 + (images - 0.5) * (1 - 0.17 * strength)


def _rotation(images: np.ndarray, strength: int, random: np.random.Generator):
    return scipy.ndimage.rotate(images, 9 * strength, (1, 2), reshape=False, order=1)


def _dropped_pixels(images: np.ndarray, strength: int, random: np.random.Generator):
    return images * (random.random(images.shape) >= 0.08 * strength)


CORRUPTIONS: dict[str, Corruption] = {
    "noise": _noise,
    "blur": _blur,
    "contrast": _contrast,
    "rotation": _rotation,
    "dropped pixels": _dropped_pixels,
}


def corrupt(images: np.ndarray, name: str, strength: int, seed: int = 0) -> np.ndarray:
    """Returns corrupted images, from 0 to 1 and float32.

    Args:
      images: `(n, height, width, 1)` from 0 to 1.
      name: of `CORRUPTIONS`.
      strength: of `STRENGTHS`.
      seed: of what is random.

    Example:

    >>> float(corrupt(np.ones((1, 8, 8, 1)), "contrast", 2)[0, 0, 0, 0])
    0.8299999833106995
    """
    random = np.random.default_rng(seed)
    changed = CORRUPTIONS[name](images, strength, random)
    return np.clip(changed, 0.0, 1.0).astype("float32")
