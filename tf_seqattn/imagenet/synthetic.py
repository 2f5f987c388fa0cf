"""Images made from a seed, as hard as one wants: striped textures in noise.

A class is a pair of stripes, each with a direction, a spacing and a colour of its own.
An image shows both at random phases and strengths under noise, so a class cannot be
told from single pixels, and the noise decides how hard it is.
"""

import numpy as np
import tensorflow as tf

_SPLITS = {"train": 0, "validation": 1}


def _generator(*key: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(key))


def make_images(
    split: str,
    start: int,
    stop: int,
    size: int = 64,
    classes: int = 16,
    noise: float = 1.0,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Makes the images `start <= number < stop` of a split.

    Args:
      split: "train" or "validation".
      start: number of the first image, 0 or more.
      stop: number after the last.
      size: pixels of a side.
      classes: number of classes, 2 or more.
      noise: standard deviation of the noise, in that of the stripes.
      seed: decides the classes and every image.

    Returns:
      uint8 `(images, size, size, 3)` and int32 `(images,)` of labels from 0.

    Raises:
      ValueError: for an unknown split, or fewer than two classes.

    Example:

    >>> images, labels = make_images("train", 0, 4, size=16)
    >>> images.shape, labels.shape
    ((4, 16, 16, 3), (4,))
    """
    if split not in _SPLITS:
        raise ValueError(
            f"`split` must be one of {sorted(_SPLITS)}. Received: split={split!r}"
        )
    if classes < 2:
        raise ValueError(f"`classes` must be at least 2. Received: classes={classes!r}")
    kinds = _generator(seed, 2)
    angles = kinds.uniform(0, np.pi, (classes, 2))
    spacings = kinds.uniform(3.0, 9.0, (classes, 2))
    colours = kinds.normal(size=(classes, 2, 3))
    colours /= np.linalg.norm(colours, axis=-1, keepdims=True)
    rows, columns = np.mgrid[:size, :size].astype(np.float32)
    images = np.empty((stop - start, size, size, 3), np.uint8)
    labels = np.empty(stop - start, np.int32)
    for i, number in enumerate(range(start, stop)):
        random = _generator(seed, 3 + _SPLITS[split], number)
        label = random.integers(classes)
        along = (
            np.cos(angles[label])[:, None, None] * columns
            + np.sin(angles[label])[:, None, None] * rows
        )
        phases = random.uniform(0, 2 * np.pi, (2, 1, 1))
        waves = np.sin(2 * np.pi * along / spacings[label][:, None, None] + phases)
        strengths = random.uniform(0.5, 1.5, 2)
        image = np.einsum("krc,kd,k->rcd", waves, colours[label], strengths)
        image += noise * random.normal(size=image.shape)
        images[i] = np.clip(127.5 + 40.0 * image, 0, 255).astype(np.uint8)
        labels[i] = label
    return images, labels


def jpeg_dataset(
    split: str, count: int, size: int = 64, classes: int = 16, seed: int = 0
) -> tf.data.Dataset:
    """The first images of a split as files would give them.

    Args:
      split: "train" or "validation".
      count: number of images.
      size: pixels of a side.
      classes: number of classes.
      seed: see `make_images`.

    Returns:
      A dataset of (JPEG bytes, int32 label).
    """
    images, labels = make_images(split, 0, count, size, classes, seed=seed)
    jpegs = [tf.io.encode_jpeg(image, quality=95).numpy() for image in images]
    return tf.data.Dataset.from_tensor_slices((jpegs, labels))
