"""The layers of feature selection: the gate, and what stands in for what it drops."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tf_seqattn.keras_api import add_weight, register_for_both

# The class of each Keras adds the real base; mypy needs to know no more.
_SomeLayer: Any = object


class FeatureGate(_SomeLayer):
    """Multiplies every feature, or every dimension of each, by a weight of its own.

    `sa.PrunableLayer` around it trains attention over these weights and masks them.

    Args:
      sizes: number of dimensions of each feature (its last axis).
      by_dimension: whether each dimension has a weight, rather than each feature.
      **kwargs: passed to `keras.layers.Layer`.

    Example:

    >>> gate = GATES[keras]([2, 3])
    >>> [feature.shape[-1] for feature in gate([tf.ones((1, 2)), tf.ones((1, 3))])]
    [2, 3]
    """

    def __init__(
        self, sizes: Sequence[int], by_dimension: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.sizes = [int(size) for size in sizes]
        self.by_dimension = bool(by_dimension)
        self.supports_masking = True

    def build(self, input_shape: Any = None) -> None:
        rows = sum(self.sizes) if self.by_dimension else len(self.sizes)
        self.kernel = add_weight(self, "kernel", (rows, 1), "ones")
        self.built = True

    def get_prunable_weights(self) -> list[Any]:
        """What the wrapper prunes, by tfmot's protocol."""
        return [self.kernel]

    def weights_of_features(self) -> list[tf.Tensor]:
        """One vector a feature: a weight for each dimension, or one for all."""
        weights = tf.reshape(tf.convert_to_tensor(self.kernel), [-1])
        counts = self.sizes if self.by_dimension else [1] * len(self.sizes)
        return tf.split(weights, counts)

    def call(self, inputs: list[tf.Tensor]) -> list[tf.Tensor]:
        weights = self.weights_of_features()
        return [
            feature * tf.cast(weight, feature.dtype)
            for feature, weight in zip(inputs, weights, strict=True)
        ]

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape

    def get_config(self) -> dict[str, Any]:
        config = {"sizes": self.sizes, "by_dimension": self.by_dimension}
        return {**super().get_config(), **config}


class KeptDimensions(_SomeLayer):
    """Puts the kept dimensions of a feature in their places, and 0 in the others.

    Args:
      kept: places of the dimensions, in order.
      size: number of dimensions of the feature.
      **kwargs: passed to `keras.layers.Layer`.

    Example:

    >>> KEPT_DIMENSIONS[keras]([0, 2], 4)(tf.constant([[5.0, 6.0]])).numpy().tolist()
    [[5.0, 0.0, 6.0, 0.0]]
    """

    def __init__(self, kept: Sequence[int], size: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.kept = [int(place) for place in kept]
        self.size = int(size)
        self.supports_masking = True

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        # The last entry is the zero that the dimensions left out read.
        padded = tf.pad(inputs, [[0, 0]] * (inputs.shape.rank - 1) + [[0, 1]])
        places = [len(self.kept)] * self.size
        for index, place in enumerate(self.kept):
            places[place] = index
        return tf.gather(padded, places, axis=-1)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return (*input_shape[:-1], self.size)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "kept": self.kept, "size": self.size}


class NoFeature(_SomeLayer):
    """Zeros in the place of a feature that was dropped.

    Args:
      shape: of the feature, without the batch.
      **kwargs: passed to `keras.layers.Layer`.

    Example:

    >>> NO_FEATURES[keras]((2,))(tf.ones((3, 5))).numpy().tolist()
    [[0.0, 0.0], [0.0, 0.0], [0.0, 0.0]]
    """

    def __init__(self, shape: Sequence[int], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.feature_shape = [int(size) for size in shape]

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        # Any tensor of the batch tells its size.
        return tf.zeros([tf.shape(inputs)[0], *self.feature_shape], self.compute_dtype)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return (input_shape[0], *self.feature_shape)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "shape": self.feature_shape}


GATES = register_for_both(FeatureGate)
KEPT_DIMENSIONS = register_for_both(KeptDimensions)
NO_FEATURES = register_for_both(NoFeature)
