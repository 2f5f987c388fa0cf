"""The paper's click model, as a TFRS model around a plain Keras network.

Every one of the 39 fields becomes a vector of 10 numbers: a count `x` becomes
`x * v + b` with a direction and an offset of its own, a category a row of its
embedding table. The 390 numbers go through three dense layers of 400 and a last one
that gives the log-odds of a click. The paper prunes the first dense layer.
"""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf
import tensorflow_recommenders as tfrs
import tf_keras as keras

import tf_seqattn as sa
from tf_seqattn.criteo.log.fields import CATEGORICAL_NAMES, NUMERIC_NAMES
from tf_seqattn.sparsity.shared_rows import add_reads, add_row_numbers, count_reads

FIRST_HIDDEN = "hidden_1"


def sizes_of_tables(table_size: int | Sequence[int]) -> tuple[int, ...]:
    """Returns the size of every table, for one number or one for each.

    Example:

    >>> sizes_of_tables([3, 4])
    (3, 4)
    """
    if isinstance(table_size, int):
        return (table_size,) * len(CATEGORICAL_NAMES)
    return tuple(int(size) for size in table_size)


@keras.utils.register_keras_serializable("tf_seqattn.criteo")
class FieldEmbedding(keras.layers.Layer):
    """Turns the fields of a row into vectors, field after field.

    The tables of all categories are one variable, read by a single lookup. (Adam
    updates every row of it in every step, seen or not: tables of millions of rows want
    `optimizers.make_optimizer`'s Adagrad, or `tfrs.layers.embedding.TPUEmbedding`.)

    Args:
      table_size: rows of each category's table, without the row of empty fields: one
        number for all 26, or one for each table there is.
      dimension: length of a field's vector.
      num_numeric: number of fields that are counts, 13 or 0.
      prunable_tables: whether `sa.prune` may cut the tables into blocks of rows.
      l2: weight of half the sum of squares of tables and directions in the loss.
      rows: of the one variable of all tables, where categories share rows, as
        `sa.prune_rows` lets them; by default each has a row of its own.
      counted: whether training counts how often each category is read, for
        `sa.ReviseRows`.
      **kwargs: passed to `keras.layers.Layer`.

    Attributes:
      tables: the variable, `(rows, dimension)`.
      row_numbers: the row of each category of all tables, or None where each has its
        own.
      reads, steps_counted: see `shared_rows.add_reads`; None where nothing is counted.

    Example:

    >>> layer = FieldEmbedding(table_size=100)
    >>> layer((tf.zeros((2, 13)), tf.zeros((2, 26), tf.int32))).shape
    TensorShape([2, 390])
    """

    def __init__(
        self,
        table_size: int | Sequence[int],
        dimension: int = 10,
        num_numeric: int = len(NUMERIC_NAMES),
        prunable_tables: bool = False,
        l2: float = 0.0,
        rows: int | None = None,
        counted: bool = False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.rows = rows
        self.counted = counted
        self.row_numbers = self.reads = self.steps_counted = None
        self.table_sizes = sizes_of_tables(table_size)
        self.l2 = l2
        self.dimension = dimension
        self.num_numeric = num_numeric
        self.prunable_tables = prunable_tables

    def build(self, input_shape):
        decay = keras.regularizers.L2(self.l2 / 2) if self.l2 else None
        if self.num_numeric:
            shape = (self.num_numeric, self.dimension)
            self.directions = self.add_weight(
                "directions", shape, initializer="uniform", regularizer=decay
            )
            self.offsets = self.add_weight("offsets", shape, initializer="uniform")
        categories = sum(self.get_table_categories())
        self.tables = self.add_weight(
            "tables",
            (categories if self.rows is None else self.rows, self.dimension),
            initializer="uniform",
            regularizer=decay,
        )
        if self.rows is not None:
            self.row_numbers = add_row_numbers(self, categories, self.rows)
        if self.counted:
            add_reads(self, categories)
        super().build(input_shape)

    def get_prunable_weights(self):
        """What `sa.prune` may cut into blocks: tfmot's way of saying so."""
        return [self.tables] if self.prunable_tables else []

    def get_table_rows(self) -> list[int]:
        """Rows of each table that `sa.prune_rows` may take some from."""
        return [] if self.rows is not None else self.get_table_categories()

    def get_table_categories(self) -> list[int]:
        """Number of categories of each table, that of empty fields included."""
        return [size + 1 for size in self.table_sizes]

    def with_shared_rows(
        self, tables: np.ndarray, row_numbers: np.ndarray, counted: bool = False
    ) -> "FieldEmbedding":
        """Returns a layer like this one in which categories share rows.

        Args:
          tables: `(rows, dimension)`.
          row_numbers: the row of each category of all tables.
          counted: as in the constructor.
        """
        config = {**self.get_config(), "rows": len(tables), "counted": counted}
        layer = type(self).from_config(config)
        layer.build(None)
        values = {"tables": tables, "row_numbers": row_numbers}
        if self.num_numeric:
            values |= {"directions": self.directions, "offsets": self.offsets}
        for name, value in values.items():
            getattr(layer, name).assign(tf.cast(value, getattr(layer, name).dtype))
        return layer

    def whole_tables(self) -> tf.Tensor:
        """The vector of each category of all tables, `(categories, dimension)`."""
        if self.row_numbers is None:
            return tf.convert_to_tensor(self.tables)
        return tf.gather(self.tables, tf.cast(self.row_numbers, tf.int32))

    def call(self, inputs, training=None):
        """Embeds a batch.

        Args:
          inputs: float32 `(batch, num_numeric)` counts as `data.Clicks.numeric`, and
            int32 `(batch, tables)` rows of the tables as `data.Clicks.categorical`.
          training: whether the batch is trained on, and counted where that is wanted.

        Returns:
          float32 `(batch, (num_numeric + tables) * dimension)`.
        """
        numeric, categorical = inputs
        # Of a variable in several parts, too, as parameter servers hold large tables.
        rows = self.rows_of(categorical)
        if training and self.counted:
            count_reads(self.reads, rows)
        if self.row_numbers is not None:
            rows = tf.cast(tf.nn.embedding_lookup(self.row_numbers, rows), tf.int32)
        vectors = tf.nn.embedding_lookup(self.tables, rows)
        if self.num_numeric:
            counts = numeric[:, :, None] * self.directions + self.offsets
            vectors = tf.concat([counts, vectors], axis=1)
        return tf.reshape(vectors, (-1, vectors.shape[1] * self.dimension))

    def rows_of(self, categorical: tf.Tensor) -> tf.Tensor:
        """Numbers of categories, counted through all tables.

        They are the rows of the one variable, unless categories share rows.

        Args:
          categorical: int32 `(batch, tables)`, rows of each table.

        Returns:
          The same shape; int64 where int32 cannot count all rows.
        """
        sizes = self.get_table_categories()
        integer = tf.int32 if sum(sizes) < 2**31 else tf.int64
        first_rows = tf.cumsum(tf.constant(sizes, integer), exclusive=True)
        return tf.cast(categorical, integer) + first_rows

    def get_config(self):
        return {
            **super().get_config(),
            "table_size": list(self.table_sizes),
            "dimension": self.dimension,
            "num_numeric": self.num_numeric,
            "prunable_tables": self.prunable_tables,
            "l2": self.l2,
            "rows": self.rows,
            "counted": self.counted,
        }


def feature_inputs(num_tables: int, num_numeric: int = len(NUMERIC_NAMES)) -> dict:
    """Returns the inputs of a network of clicks, `numeric` and `categorical`.

    Args:
      num_tables: number of fields that are categories.
      num_numeric: number of fields that are counts.
    """
    return {
        "numeric": keras.Input((num_numeric,), name="numeric"),
        "categorical": keras.Input((num_tables,), dtype="int32", name="categorical"),
    }


def build_network(
    table_size: int | Sequence[int],
    dimension: int = 10,
    hidden_units: tuple[int, ...] = (400, 400, 400),
    num_numeric: int = len(NUMERIC_NAMES),
    dropout: float = 0.0,
    l2: float = 0.0,
) -> keras.Model:
    """Returns the network, a functional Keras model without TFRS.

    Args:
      table_size: rows of each category's table: one number or one for each, such as
        `conversion.Manifest.table_sizes`.
      dimension: length of a field's vector.
      hidden_units: width of each hidden layer.
      num_numeric: number of fields that are counts: 13, or 0 where they are buckets.
      dropout: share of the outputs of each hidden layer that a step leaves out.
      l2: of `FieldEmbedding`.

    Returns:
      A model from `{"numeric": float32 (batch, num_numeric), "categorical": int32
      (batch, tables)}` to log-odds, float32 `(batch, 1)`.

    Example:

    >>> build_network(table_size=100).output_shape
    (None, 1)
    """
    inputs = feature_inputs(len(sizes_of_tables(table_size)), num_numeric)
    embedding = FieldEmbedding(table_size, dimension, num_numeric, l2=l2, name="fields")
    x = embedding((inputs["numeric"], inputs["categorical"]))
    for number, units in enumerate(hidden_units, start=1):
        x = keras.layers.Dense(units, activation="relu", name=f"hidden_{number}")(x)
        if dropout:
            # Its state is a variable, which `training.fit` sets in each epoch.
            x = keras.layers.Dropout(dropout, rng_type="stateful")(x)
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
            loss=keras.losses.BinaryCrossentropy(
                from_logits=True, reduction=keras.losses.Reduction.NONE
            ),
            metrics=[keras.metrics.AUC(from_logits=True, name="auc")],
        )

    def call(self, features, training=False):
        """Returns log-odds, float32 `(batch, 1)`."""
        return self.network(features, training=training)

    def compute_loss(self, inputs, training=False):
        """Returns a replica's share of the mean log loss of a batch, in nats.

        Args:
          inputs: features and labels of this replica, of as many rows as on the others.
          training: whether it is trained.

        Returns:
          The mean, divided by the number of replicas: the optimizer adds up gradients,
          and Keras the losses that it shows.
        """
        features, labels = inputs
        logits = self(features, training=training)
        losses = self.task(labels=labels[:, None], predictions=logits)
        replicas = tf.distribute.get_strategy().num_replicas_in_sync
        return tf.reduce_mean(losses) / replicas
