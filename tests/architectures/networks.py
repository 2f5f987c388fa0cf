"""Networks of every family, small in their input, with random weights."""

from typing import NamedTuple

import numpy as np
import tf_keras as keras

layers = keras.layers
applications = keras.applications

# The smallest of each family of tf_keras.applications, and a small size of its input.
# At 32, EfficientNet ends at one pixel, where random weights and batches of two give
# outputs that are not finite, pruned or not.
APPLICATIONS = {
    "ConvNeXtTiny": 32,
    "DenseNet121": 32,
    "EfficientNetB0": 64,
    "EfficientNetV2B0": 64,
    "InceptionResNetV2": 75,
    "InceptionV3": 75,
    "MobileNet": 32,
    "MobileNetV2": 32,
    "MobileNetV3Large": 32,
    "MobileNetV3Small": 32,
    "NASNetMobile": 32,
    "RegNetX002": 32,
    "RegNetY002": 32,
    "ResNet50": 32,
    "ResNet50V2": 32,
    "ResNetRS50": 32,
    "VGG16": 32,
    "Xception": 71,
}
# What tf_keras itself cannot load from the `.keras` file that it wrote.
WEIGHTS_ONLY = {"ConvNeXtTiny"}
CLASSES = 10
_VOCABULARY = 128


class Network(NamedTuple):
    """A network and a batch for it.

    Attributes:
      model: gives logits over the last axis.
      inputs: `(2, ...)`.
      labels: int, the shape of the output without its last axis.
      block_size: (rows, columns) of the blocks it is pruned by.
    """

    model: keras.Model
    inputs: np.ndarray
    labels: np.ndarray
    block_size: tuple[int, int]


def _images(model: keras.Model, size: int, block: int) -> Network:
    random = np.random.default_rng(0)
    inputs = random.uniform(0, 255, (2, size, size, 3)).astype("float32")
    return Network(model, inputs, random.integers(0, CLASSES, 2), (block, block))


def _tokens(model: keras.Model, length: int, classes: int) -> Network:
    random = np.random.default_rng(0)
    inputs = random.integers(0, _VOCABULARY, (2, length)).astype("int32")
    return Network(model, inputs, random.integers(0, classes, (2, length)), (8, 8))


def application(name: str) -> Network:
    """A network of `tf_keras.applications`, without its trained weights."""
    size = APPLICATIONS[name]
    model = getattr(applications, name)(
        weights=None,
        input_shape=(size, size, 3),
        classes=CLASSES,
        classifier_activation=None,
    )
    return _images(model, size, 16)


def _attention_block(x, width: int, heads: int, causal: bool):
    y = layers.LayerNormalization()(x)
    attention = layers.MultiHeadAttention(heads, width // heads)
    x = x + attention(y, y, use_causal_mask=causal)
    y = layers.LayerNormalization()(x)
    y = layers.Dense(4 * width, activation="gelu")(y)
    return x + layers.Dense(width)(y)


def vision_transformer() -> Network:
    """A ViT of two blocks, 96 wide."""
    inputs = keras.Input((32, 32, 3))
    x = layers.Conv2D(96, 8, strides=8, name="patches")(inputs)
    x = layers.Reshape((16, 96))(x)
    for _ in range(2):
        x = _attention_block(x, 96, 4, causal=False)
    x = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(x))
    model = keras.Model(inputs, layers.Dense(CLASSES)(x), name="vit")
    return _images(model, 32, 8)


class Positions(layers.Layer):
    """Adds a learnt vector to each position."""

    def build(self, input_shape):
        self.positions = self.add_weight("positions", input_shape[1:])

    def call(self, inputs):
        """Adds the positions."""
        return inputs + self.positions


def decoder() -> Network:
    """A GPT-like decoder of two blocks, 96 wide, that predicts every next token."""
    inputs = keras.Input((12,), dtype="int32")
    x = Positions()(layers.Embedding(_VOCABULARY, 96)(inputs))
    for _ in range(2):
        x = _attention_block(x, 96, 4, causal=True)
    x = layers.LayerNormalization()(x)
    model = keras.Model(inputs, layers.Dense(_VOCABULARY)(x), name="decoder")
    return _tokens(model, 12, _VOCABULARY)


def tagger() -> Network:
    """An LSTM tagger, 96 wide, both ways."""
    model = keras.Sequential(
        [
            keras.Input((12,), dtype="int32"),
            layers.Embedding(_VOCABULARY, 96),
            layers.Bidirectional(layers.LSTM(96, return_sequences=True)),
            layers.TimeDistributed(layers.Dense(CLASSES)),
        ],
        name="tagger",
    )
    return _tokens(model, 12, CLASSES)


OURS = {"ViT": vision_transformer, "decoder": decoder, "LSTM tagger": tagger}
NAMES = (*APPLICATIONS, *OURS)


def build(name: str) -> Network:
    """Any of the networks by name."""
    return OURS[name]() if name in OURS else application(name)
