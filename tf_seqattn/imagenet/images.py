"""From JPEG bytes to what the network reads: the usual crops of ImageNet training."""

import tensorflow as tf

# Mean and standard deviation of ImageNet's channels, of values from 0 to 255.
MEAN = (123.675, 116.28, 103.53)
DEVIATION = (58.395, 57.12, 57.375)
# An evaluation crop takes 224 of 256 pixels of the shorter side.
_CROP_SHARE = 224 / 256


def _finish(image: tf.Tensor, size: int) -> tf.Tensor:
    image = tf.ensure_shape(image, (size, size, 3))
    return (tf.cast(image, tf.float32) - MEAN) / DEVIATION


def training_image(jpeg: tf.Tensor, size: int, seed: tf.Tensor) -> tf.Tensor:
    """Decodes a random crop, flipped in half of the cases.

    The crop covers 8 % to 100 % of the image at an aspect of 3:4 to 4:3, after Szegedy
    et al. (arXiv 1409.4842), and only that part is decoded.

    Args:
      jpeg: scalar string.
      size: pixels of a side of the result.
      seed: int `(2,)`; the same seed gives the same crop.

    Returns:
      float32 `(size, size, 3)`, standardized.
    """
    begin, extent, _ = tf.image.stateless_sample_distorted_bounding_box(
        tf.io.extract_jpeg_shape(jpeg),
        bounding_boxes=tf.zeros((1, 0, 4)),
        seed=seed,
        area_range=(0.08, 1.0),
        aspect_ratio_range=(3 / 4, 4 / 3),
        max_attempts=10,
        use_image_if_no_bounding_boxes=True,
    )
    window = tf.stack([begin[0], begin[1], extent[0], extent[1]])
    image = tf.io.decode_and_crop_jpeg(jpeg, window, channels=3)
    image = tf.image.resize(image, (size, size), method="bilinear")
    return _finish(tf.image.stateless_random_flip_left_right(image, seed), size)


def evaluation_image(jpeg: tf.Tensor, size: int) -> tf.Tensor:
    """Decodes the central crop, 7/8 of the shorter side.

    Args:
      jpeg: scalar string.
      size: pixels of a side of the result.

    Returns:
      float32 `(size, size, 3)`, standardized.
    """
    shape = tf.io.extract_jpeg_shape(jpeg)
    height, width = shape[0], shape[1]
    shorter = tf.cast(tf.minimum(height, width), tf.float32)
    side = tf.maximum(1, tf.cast(_CROP_SHARE * shorter, tf.int32))
    window = tf.stack([(height - side) // 2, (width - side) // 2, side, side])
    image = tf.io.decode_and_crop_jpeg(jpeg, window, channels=3)
    return _finish(tf.image.resize(image, (size, size), method="bilinear"), size)
