"""The network: three convolutions and a classifier."""

import tf_keras as keras


def build_model(seed: int = 0) -> keras.Model:
    """Returns a compiled classifier of 8 x 8 images.

    With blocks of 8 x 8, `conv_2` and `conv_3` have 288 and 576 blocks; `conv_1` and
    `logits` have fewer than 100, so the default policy leaves them dense.

    Args:
      seed: decides the initial weights and, later, the order of the images.

    Example:

    >>> build_model().output_shape
    (None, 10)
    """
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(32, 3, padding="same", activation="relu", name="conv_1"),
            layers.Conv2D(64, 3, padding="same", activation="relu", name="conv_2"),
            layers.MaxPooling2D(name="pool"),
            layers.Conv2D(64, 3, padding="same", activation="relu", name="conv_3"),
            layers.GlobalAveragePooling2D(name="average"),
            layers.Dense(10, name="logits"),
        ],
        name="digits",
    )
