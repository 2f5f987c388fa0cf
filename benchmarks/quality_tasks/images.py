"""Images, and the convolutional networks whose channels are pruned."""

from typing import NamedTuple

import numpy as np
import tf_keras as keras

from benchmarks.quality_tasks.data import split
from tf_seqattn.digits.data import load_digits
from tf_seqattn.imagenet.synthetic import make_images

layers = keras.layers


class Images(NamedTuple):
    """A side in pixels, channels, and number of classes."""

    size: int
    channels: int
    classes: int


IMAGES = {
    "digits": Images(8, 1, 10),
    "handwriting": Images(28, 1, 10),
    "textures": Images(16, 3, 20),
}


def load(name: str) -> tuple[np.ndarray, ...]:
    """Training images and labels, test images and labels; float32 in [0, 1]."""
    size, _, classes = IMAGES[name]
    if name == "digits":
        return tuple(load_digits())
    if name == "handwriting":
        images, labels, held_images, held_labels = split("digits")
        shape = (-1, size, size, 1)
        return images.reshape(shape), labels, held_images.reshape(shape), held_labels
    train = make_images("train", 0, 4000, size, classes, 2.5)
    test = make_images("validation", 0, 1000, size, classes, 2.5)
    return (
        (train[0] / 255.0).astype("float32"),
        train[1],
        (test[0] / 255.0).astype("float32"),
        test[1],
    )


def _convolution(x, filters: float, size: int, stride: int = 1):
    filters = max(1, round(filters))
    x = layers.Conv2D(filters, size, stride, padding="same", use_bias=False)(x)
    return layers.BatchNormalization(momentum=0.9)(x)


def residual(images: Images, width: float = 1.0) -> keras.Model:
    """A residual network of two stages, as in ResNet."""
    x = inputs = keras.Input((images.size, images.size, images.channels))
    x = layers.ReLU()(_convolution(x, 32 * width, 3))
    for filters, stride in ((32 * width, 1), (64 * width, 2)):
        short = _convolution(x, filters, 3, stride) if stride > 1 else x
        y = layers.ReLU()(_convolution(x, filters, 3, stride))
        x = layers.ReLU()(layers.Add()([short, _convolution(y, filters, 3)]))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(images.classes)(x))


def _inverted_residual(x, filters: float, stride: int, squeezed: bool):
    """Expands four times, convolves by depth, and projects (MobileNetV2)."""
    activation = "swish" if squeezed else "relu6"
    y = _convolution(x, 4 * x.shape[-1], 1)
    y = layers.Activation(activation)(y)
    y = layers.DepthwiseConv2D(3, stride, padding="same", use_bias=False)(y)
    y = layers.BatchNormalization(momentum=0.9)(y)
    y = layers.Activation(activation)(y)
    if squeezed:
        # A gate for each channel, from its mean (EfficientNet).
        gate = layers.GlobalAveragePooling2D(keepdims=True)(y)
        gate = layers.Conv2D(max(1, y.shape[-1] // 16), 1, activation="swish")(gate)
        gate = layers.Conv2D(y.shape[-1], 1, activation="sigmoid")(gate)
        y = layers.Multiply()([y, gate])
    y = _convolution(y, filters, 1)
    if stride == 1 and y.shape == x.shape:
        y = layers.Add()([x, y])
    return y


def _mobile(images: Images, width: float, squeezed: bool) -> keras.Model:
    activation = "swish" if squeezed else "relu6"
    x = inputs = keras.Input((images.size, images.size, images.channels))
    x = layers.Activation(activation)(_convolution(x, 16 * width, 3))
    for filters, stride in ((16, 1), (24, 2), (24, 1), (40, 2), (40, 1)):
        x = _inverted_residual(x, filters * width, stride, squeezed)
    x = layers.Activation(activation)(_convolution(x, 128 * width, 1))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(images.classes)(x))


def mobilenet(images: Images, width: float = 1.0) -> keras.Model:
    """Five inverted residuals, as in MobileNetV2."""
    return _mobile(images, width, squeezed=False)


def efficientnet(images: Images, width: float = 1.0) -> keras.Model:
    """The same with gates of squeeze and excitation and swish, as in EfficientNet."""
    return _mobile(images, width, squeezed=True)
