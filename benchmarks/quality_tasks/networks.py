"""The networks: perceptron, convolutions, click model, transformer, LSTM.

The layers to prune are those whose names begin with "hidden". Every function takes the
share of the full width, so that a narrower network is the same one.
"""

import tf_keras as keras

from benchmarks.quality_tasks.data import CHARACTERS, TABLE_ROWS, WINDOW

layers = keras.layers
_EMBEDDING = 12


def _wide(width: int, share: float) -> int:
    return max(1, round(width * share))


def perceptron(share: float = 1.0) -> keras.Model:
    """Of digits: two hidden layers of 256."""
    width = _wide(256, share)
    return keras.Sequential(
        [
            keras.Input((784,)),
            layers.Dense(width, activation="relu", name="hidden_0"),
            layers.Dense(width, activation="relu", name="hidden_1"),
            layers.Dense(10, name="logits"),
        ]
    )


def convolutions(share: float = 1.0) -> keras.Model:
    """Of digits: three convolutions with batch norms, of which two are pruned."""
    model = [keras.Input((784,)), layers.Reshape((28, 28, 1))]
    for name, width, strides in (
        ("stem", 16, 2),
        ("hidden_0", 64, 2),
        ("hidden_1", 64, 1),
    ):
        model += [
            layers.Conv2D(
                _wide(width, share), 3, strides, "same", use_bias=False, name=name
            ),
            layers.BatchNormalization(momentum=0.9),
            layers.ReLU(),
        ]
    model += [layers.GlobalAveragePooling2D(), layers.Dense(10, name="logits")]
    return keras.Sequential(model)


def _click_model(fields: int, width: int) -> keras.Model:
    inputs = keras.Input((fields,), dtype="int32")
    looked_up = [
        layers.Embedding(TABLE_ROWS, _EMBEDDING, name=f"field_{index}")(
            inputs[:, index]
        )
        for index in range(fields)
    ]
    features = layers.Concatenate()(looked_up)
    for name in ("hidden_0", "hidden_1"):
        features = layers.Dense(width, activation="relu", name=name)(features)
    return keras.Model(inputs, layers.Dense(2, name="logits")(features))


def click_model_of_flights(share: float = 1.0) -> keras.Model:
    """Tables of eight fields, then two hidden layers of 256."""
    return _click_model(8, _wide(256, share))


def click_model_of_films(share: float = 1.0) -> keras.Model:
    """Tables of seven fields, then two hidden layers of 128."""
    return _click_model(7, _wide(128, share))


class _Places(layers.Layer):
    """Adds a learnt vector to each place of a window."""

    def build(self, input_shape):
        self.places = self.add_weight("places", input_shape[1:], initializer="uniform")

    def call(self, inputs):
        return inputs + self.places


def transformer(share: float = 1.0) -> keras.Model:
    """Of characters: two blocks of 64 with four heads; the share is of the blocks."""
    width = 4 * _wide(16, share)
    inputs = keras.Input((WINDOW,), dtype="int32")
    state = _Places()(layers.Embedding(CHARACTERS, width)(inputs))
    for number in range(2):
        attention = layers.MultiHeadAttention(
            4, width // 4, name=f"hidden_attention_{number}"
        )
        normed = layers.LayerNormalization()(state)
        state = state + attention(normed, normed, use_causal_mask=True)
        normed = layers.LayerNormalization()(state)
        inner = layers.Dense(4 * width, activation="gelu", name=f"hidden_in_{number}")
        outer = layers.Dense(width, name=f"hidden_out_{number}")
        state = state + outer(inner(normed))
    state = layers.LayerNormalization()(state)
    return keras.Model(inputs, layers.Dense(CHARACTERS, name="logits")(state))


def lstm(share: float = 1.0) -> keras.Model:
    """Of characters: an LSTM of 128."""
    width = _wide(128, share)
    return keras.Sequential(
        [
            keras.Input((WINDOW,), dtype="int32"),
            layers.Embedding(CHARACTERS, 64),
            layers.LSTM(width, return_sequences=True, name="hidden_lstm"),
            layers.Dense(CHARACTERS, name="logits"),
        ]
    )


def pruned_weights(model: keras.Model) -> int:
    """Number of weights in the kernels that the pruned arms prune."""
    return sum(
        int(weight.shape.num_elements())
        for layer in model.layers
        if layer.name.startswith("hidden")
        for weight in layer.trainable_weights
        if weight.shape.rank > 1 and not weight.name.endswith("bias:0")
    )


def narrow_share(build, sparsity: float) -> float:
    """Share of the width at which a network has the weights that a pruned one keeps.

    Args:
      build: a function of this file.
      sparsity: share of the weights that are removed from the hidden layers.
    """
    full = build()
    wanted = full.count_params() - sparsity * pruned_weights(full)
    # What stays as wide as it was, such as tables, is in both counts.
    low, high = 0.0, 1.0
    for _ in range(12):
        middle = (low + high) / 2
        if build(middle).count_params() > wanted:
            high = middle
        else:
            low = middle
    return low
