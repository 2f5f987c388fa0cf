"""Takes fields that the first hidden layer no longer reads out of a click model."""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf
import tf_keras as keras

import tf_seqattn as sa
from tf_seqattn.criteo.log.fields import CATEGORICAL_NAMES, FIELD_NAMES, NUMERIC_NAMES
from tf_seqattn.criteo.models.click_model import (
    FIRST_HIDDEN,
    FieldEmbedding,
    OnlyLayer,
    feature_inputs,
)


@keras.utils.register_keras_serializable("tf_seqattn.criteo")
class TakeColumns(keras.layers.Layer):
    """Passes on some columns of its input.

    Args:
      columns: their numbers.
      **kwargs: passed to `keras.layers.Layer`.

    Example:

    >>> TakeColumns([2, 0])(tf.constant([[1, 2, 3]])).numpy()
    array([[3, 1]], dtype=int32)
    """

    def __init__(self, columns: Sequence[int], **kwargs):
        super().__init__(**kwargs)
        self.columns = [int(column) for column in columns]

    def call(self, inputs):
        return tf.gather(inputs, tf.constant(self.columns, tf.int32), axis=1)

    def get_config(self):
        return {**super().get_config(), "columns": self.columns}


def prune_fields(
    network: keras.Model,
    schedule: sa.PruningSchedule,
    importance: sa.Importance | None = None,
) -> keras.Model:
    """Returns the network with its fields pruned: rows of the first hidden kernel.

    Args:
      network: of `build_network`.
      schedule: when to prune, and which share of the fields.
      importance: what to score, `sa.SoftmaxAttention()` by default.
    """
    return sa.prune(
        network,
        schedule,
        (network.get_layer("fields").dimension, None),
        importance,
        pruning_policy=OnlyLayer(FIRST_HIDDEN),
    )


def fields_read(network: keras.Model) -> list[int]:
    """Numbers of the fields whose vectors the first hidden layer reads.

    Args:
      network: of `build_network`, trained and without pruning.
    """
    embedding = network.get_layer("fields")
    kernel = network.get_layer(FIRST_HIDDEN).kernel.numpy()
    by_field = kernel.reshape(-1, embedding.dimension * kernel.shape[1])
    return [int(field) for field in np.flatnonzero(by_field.any(axis=1))]


def without_fields(network: keras.Model) -> keras.Model:
    """Returns the network without the fields that nothing reads, and their tables.

    It takes the same inputs and gives the same outputs. Without any field to drop it
    is a copy.

    Args:
      network: of `build_network`, trained and without pruning.

    Raises:
      ValueError: if the first hidden layer reads no field.

    Example:

    >>> from tf_seqattn.criteo.models.click_model import build_network
    >>> network = build_network(table_size=100, hidden_units=(8,))
    >>> layer = network.get_layer("hidden_1")
    >>> layer.kernel.assign(tf.pad(layer.kernel[:380], [[0, 10], [0, 0]])) is not None
    True
    >>> network.count_params() - without_fields(network).count_params()
    1090
    """
    old = network.get_layer("fields")
    kept = fields_read(network)
    if not kept:
        raise ValueError(
            f"`network` must read a field. The kernel of its {FIRST_HIDDEN!r} is zero."
        )
    counts = [field for field in kept if field < old.num_numeric]
    tables = [f - old.num_numeric for f in kept if f >= old.num_numeric]
    inputs = feature_inputs(len(old.table_sizes), old.num_numeric)
    first_rows = np.cumsum([0, *(size + 1 for size in old.table_sizes)])
    rows = [np.arange(first_rows[t], first_rows[t + 1]) for t in tables]
    rows = np.concatenate([*rows, []]).astype(int)
    shares = old.row_numbers is not None
    if shares:
        numbers = old.row_numbers.numpy()[rows].astype(int)
        rows, numbers = np.unique(numbers, return_inverse=True)
    embedding = FieldEmbedding(
        [old.table_sizes[table] for table in tables],
        old.dimension,
        len(counts),
        l2=old.l2,
        rows=len(rows) if shares else None,
        name="fields",
    )
    x = embedding(
        (
            TakeColumns(counts, name="counts_read")(inputs["numeric"]),
            TakeColumns(tables, name="categories_read")(inputs["categorical"]),
        )
    )
    hidden = network.layers[network.layers.index(old) + 1 :]
    for layer in hidden:
        x = type(layer).from_config(layer.get_config())(x)
    smaller = keras.Model(inputs, x, name=network.name)

    embedding.tables.assign(tf.gather(old.tables, rows))
    if shares:
        embedding.row_numbers.assign(numbers)
    if counts:
        embedding.directions.assign(tf.gather(old.directions, counts))
        embedding.offsets.assign(tf.gather(old.offsets, counts))
    columns = np.add.outer(np.multiply(kept, old.dimension), np.arange(old.dimension))
    for layer in hidden:
        weights = layer.get_weights()
        if layer.name == FIRST_HIDDEN:
            weights[0] = weights[0][columns.ravel()]
        smaller.get_layer(layer.name).set_weights(weights)
    return smaller


def names_of_kept_fields(network: keras.Model) -> list[str]:
    """Names of the fields that a network of `without_fields` reads."""
    counts = network.get_layer("counts_read").columns
    tables = network.get_layer("categories_read").columns
    # Counts in buckets are categories too, the first ones.
    in_buckets = network.input["categorical"].shape[1] > len(CATEGORICAL_NAMES)
    names = FIELD_NAMES if in_buckets else CATEGORICAL_NAMES
    return [
        *(NUMERIC_NAMES[count] for count in counts),
        *(names[table] for table in tables),
    ]
