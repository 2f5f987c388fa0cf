"""The paper's click model, as a TFRS model around a plain Keras network.

Every one of the 39 fields becomes a vector of 10 numbers: a count `x` becomes
`x * v + b` with a direction and an offset of its own, a category a row of its
embedding table. The 390 numbers go through three dense layers of 400 and a last one
that gives the log-odds of a click. The paper prunes the first dense layer.
"""

import tensorflow as tf
import tensorflow_recommenders as tfrs
import tf_keras as keras

import tf_seqattn as sa
from tf_seqattn.criteo.data import CATEGORICAL_NAMES, NUMERIC_NAMES

FIRST_HIDDEN = "hidden_1"


@keras.utils.register_keras_serializable("tf_seqattn.criteo")
class FieldEmbedding(keras.layers.Layer):
    """Turns the 39 fields of a row into one vector, field after field.

    The tables of all categories are one variable, read by a single lookup. (Adam
    updates every row of it in every step, seen or not, so tables of millions of
    rows want another optimizer or `tfrs.layers.embedding.TPUEmbedding`.)

    Args:
      table_size: rows of each category's table, without the row of empty fields.
      dimension: length of a field's vector.
      **kwargs: passed to `keras.layers.Layer`.

    Example:

    >>> layer = FieldEmbedding(table_size=100)
    >>> layer((tf.zeros((2, 13)), tf.zeros((2, 26), tf.int32))).shape
    TensorShape([2, 390])
    """

    def __init__(self, table_size: int, dimension: int = 10, **kwargs):
        super().__init__(**kwargs)
        self.table_size = table_size
        self.dimension = dimension

    def build(self, input_shape):
        numeric, tables = len(NUMERIC_NAMES), len(CATEGORICAL_NAMES)
        self.directions = self.add_weight(
            "directions", (numeric, self.dimension), initializer="uniform"
        )
        self.offsets = self.add_weight(
            "offsets", (numeric, self.dimension), initializer="uniform"
        )
        self.tables = self.add_weight(
            "tables",
            (tables * (self.table_size + 1), self.dimension),
            initializer="uniform",
        )
        super().build(input_shape)

    def call(self, inputs):
        """Embeds a batch.

        Args:
          inputs: float32 `(batch, 13)` counts as `data.Clicks.numeric`, and int32
            `(batch, 26)` rows of the tables as `data.Clicks.categorical`.

        Returns:
          float32 `(batch, 39 * dimension)`.
        """
        numeric, categorical = inputs
        vectors = numeric[:, :, None] * self.directions + self.offsets
        first_rows = tf.range(len(CATEGORICAL_NAMES)) * (self.table_size + 1)
        rows = tf.gather(self.tables, categorical + first_rows)
        both = tf.concat([vectors, rows], axis=1)
        return tf.reshape(both, (-1, both.shape[1] * self.dimension))

    def get_config(self):
        return {
            **super().get_config(),
            "table_size": self.table_size,
            "dimension": self.dimension,
        }


def build_network(
    table_size: int,
    dimension: int = 10,
    hidden_units: tuple[int, ...] = (400, 400, 400),
) -> keras.Model:
    """Returns the network, a functional Keras model without TFRS.

    Args:
      table_size: rows of each category's table, as for `data.read_criteo`.
      dimension: length of a field's vector.
      hidden_units: width of each hidden layer.

    Returns:
      A model from `{"numeric": float32 (batch, 13), "categorical": int32
      (batch, 26)}` to log-odds, float32 `(batch, 1)`.

    Example:

    >>> build_network(table_size=100).output_shape
    (None, 1)
    """
    inputs = {
        "numeric": keras.Input((len(NUMERIC_NAMES),), name="numeric"),
        "categorical": keras.Input(
            (len(CATEGORICAL_NAMES),), dtype="int32", name="categorical"
        ),
    }
    embedding = FieldEmbedding(table_size, dimension, name="fields")
    x = embedding((inputs["numeric"], inputs["categorical"]))
    for number, units in enumerate(hidden_units, start=1):
        x = keras.layers.Dense(units, activation="relu", name=f"hidden_{number}")(x)
    logits = keras.layers.Dense(1, name="logits")(x)
    return keras.Model(inputs, logits, name="clicks")


class OnlyLayer:
    """A pruning policy: prunes the layer of this name and no other.

    Args:
      name: of the layer to prune.

    Example:

    >>> OnlyLayer("hidden_1").allow_pruning(keras.layers.Dense(4, name="hidden_2"))
    False
    """

    def __init__(self, name: str):
        self.name = name

    def allow_pruning(self, layer) -> bool:
        """Returns whether `layer` is the one to prune."""
        return layer.name == self.name

    def ensure_model_supports_pruning(self, model) -> None:
        """Raises a ValueError if `model` has no layer of the name."""
        model.get_layer(self.name)


def prune_first_layer(
    network: keras.Model,
    schedule,
    block_size: int = 20,
    importance=None,
    balanced: bool = False,
) -> keras.Model:
    """Returns the network with its first dense layer wrapped for pruning.

    Args:
      network: what `build_network` returned.
      schedule: when to prune, a `sa.PruningSchedule`.
      block_size: rows and columns of a block. With 20, a block reads two fields.
      importance: what to score, `sa.SoftmaxAttention()` by default.
      balanced: whether every column of blocks keeps equally many.
    """
    return sa.prune(
        network,
        pruning_schedule=schedule,
        block_size=(block_size, block_size),
        importance=importance,
        pruning_policy=OnlyLayer(FIRST_HIDDEN),
        balanced=balanced,
    )


class ClickModel(tfrs.Model):
    """Trains a network that gives log-odds of a click.

    Args:
      network: what `build_network` or `prune_first_layer` returned. It is the thing
        to save: `model.network.save("clicks.keras")`.

    Example:

    >>> model = ClickModel(build_network(table_size=100))
    >>> model.compile(optimizer=keras.optimizers.Adam(2e-3))
    """

    def __init__(self, network: keras.Model):
        super().__init__()
        self.network = network
        self.task = tfrs.tasks.Ranking(
            loss=keras.losses.BinaryCrossentropy(from_logits=True),
            metrics=[keras.metrics.AUC(from_logits=True, name="auc")],
        )

    def call(self, features, training=False):
        """Returns log-odds, float32 `(batch, 1)`."""
        return self.network(features, training=training)

    def compute_loss(self, inputs, training=False):
        """Returns the mean log loss in nats of a batch `(features, labels)`."""
        features, labels = inputs
        logits = self(features, training=training)
        return self.task(labels=labels[:, None], predictions=logits)
