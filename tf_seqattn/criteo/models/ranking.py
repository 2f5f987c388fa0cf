"""DLRM and DCN-v2 through `tfrs.experimental.models.Ranking`.

Both are made of the parts that TFRS ships, so `sa.prune` finds in them what it finds in
any TFRS model: the dense layers inside `blocks.MLP` and inside `Cross`, and as an
option the embedding tables.
"""

from collections.abc import Callable, Sequence

import tensorflow as tf
import tensorflow_recommenders as tfrs
import tf_keras as keras

import tf_seqattn as sa
from tf_seqattn.criteo.models.click_model import FieldEmbedding


class FieldVectors(FieldEmbedding):
    """The vectors of the categories of a row, one tensor for each field.

    Args:
      table_size: as for `FieldEmbedding`.
      dimension: length of a vector.
      **kwargs: passed to `FieldEmbedding`.

    Example:

    >>> vectors = FieldVectors(table_size=100, dimension=16)
    >>> len(vectors(tf.zeros((2, 26), tf.int32)))
    26
    """

    def __init__(self, table_size, dimension: int = 16, **kwargs):
        kwargs.setdefault("num_numeric", 0)
        super().__init__(table_size, dimension, **kwargs)

    def call(self, inputs, training=None):
        """Embeds int32 `(batch, tables)`; returns float32 `(batch, dimension)` each."""
        flat = super().call((None, inputs), training)
        return tf.split(flat, len(self.table_sizes), axis=1)


class VectorsAsMatrices(keras.layers.Layer):
    """Makes vectors matrices again.

    `Ranking` squeezes every axis of length 1, so also that of a batch of one row.
    """

    def __init__(self, dimension: int, **kwargs):
        super().__init__(**kwargs)
        self.dimension = dimension

    def call(self, inputs):
        return [tf.reshape(vector, (-1, self.dimension)) for vector in inputs]


class CrossNetwork(keras.layers.Layer):
    """`Cross` layers in a row, each of which multiplies by the first input.

    In a `Sequential` a `Cross` would multiply by its own input: no DCN-v2.

    Args:
      num_layers: number of `Cross` layers.
      projection_dim: rank of their kernels; full by default.
      **kwargs: passed to `keras.layers.Layer`.

    Example:

    >>> CrossNetwork(num_layers=2)(tf.ones((1, 4))).shape
    TensorShape([1, 4])
    """

    def __init__(self, num_layers: int, projection_dim: int | None = None, **kwargs):
        super().__init__(**kwargs)
        self.crosses = [
            tfrs.layers.dcn.Cross(projection_dim=projection_dim)
            for _ in range(num_layers)
        ]

    def call(self, inputs):
        x = inputs
        for cross in self.crosses:
            x = cross(inputs, x)
        return x


def _task() -> tfrs.tasks.Ranking:
    return tfrs.tasks.Ranking(
        loss=keras.losses.BinaryCrossentropy(
            from_logits=True, reduction=keras.losses.Reduction.NONE
        ),
        metrics=[keras.metrics.AUC(from_logits=True, name="auc")],
    )


def build_dlrm(
    table_size: int | Sequence[int],
    dimension: int = 16,
    bottom_units: Sequence[int] = (512, 256, 64),
    top_units: Sequence[int] = (512, 256),
    prunable_tables: bool = False,
) -> tfrs.experimental.models.Ranking:
    """Returns a DLRM: dot products of the vectors of all fields (arXiv 1906.00091).

    Args:
      table_size: rows of each category's table: one number or one for each.
      dimension: length of a field's vector.
      bottom_units: width of the hidden layers that read the counts.
      top_units: width of the hidden layers that read the dot products.
      prunable_tables: whether `sa.prune` may prune the embedding tables.

    Returns:
      A TFRS model that gives log-odds, `(batch,)`. It takes what `ranking_features`
      returns, and has to be called once before it is pruned.

    Example:

    >>> model = build_dlrm(table_size=100)
    >>> numeric, categorical = tf.zeros((2, 13)), tf.zeros((2, 26), tf.int32)
    >>> features = {"numeric": numeric, "categorical": categorical}
    >>> model(ranking_features(features)).shape
    TensorShape([2])
    """
    interaction = keras.Sequential(
        [
            VectorsAsMatrices(dimension),
            tfrs.layers.feature_interaction.DotInteraction(),
        ]
    )
    return tfrs.experimental.models.Ranking(
        FieldVectors(table_size, dimension, prunable_tables=prunable_tables),
        bottom_stack=tfrs.layers.blocks.MLP(
            units=[*bottom_units, dimension], final_activation="relu"
        ),
        feature_interaction=interaction,
        top_stack=tfrs.layers.blocks.MLP(units=[*top_units, 1]),
        task=_task(),
    )


def build_dcn(
    table_size: int | Sequence[int],
    dimension: int = 16,
    cross_layers: int = 3,
    projection_dim: int | None = None,
    bottom_units: Sequence[int] = (256, 64),
    top_units: Sequence[int] = (512, 256),
    prunable_tables: bool = False,
) -> tfrs.experimental.models.Ranking:
    """Returns a DCN-v2: explicit crosses of the vectors (arXiv 2008.13535).

    Args:
      table_size: rows of each category's table: one number or one for each.
      dimension: length of a field's vector.
      cross_layers: number of `Cross` layers.
      projection_dim: rank of their kernels; full by default.
      bottom_units: width of the hidden layers that read the counts.
      top_units: width of the hidden layers that read the crosses.
      prunable_tables: whether `sa.prune` may prune the embedding tables.

    Returns:
      As `build_dlrm`.

    Example:

    >>> model = build_dcn(table_size=100)
    >>> numeric, categorical = tf.zeros((2, 13)), tf.zeros((2, 26), tf.int32)
    >>> features = {"numeric": numeric, "categorical": categorical}
    >>> model(ranking_features(features)).shape
    TensorShape([2])
    """
    interaction = keras.Sequential(
        [
            VectorsAsMatrices(dimension),
            keras.layers.Concatenate(),
            CrossNetwork(cross_layers, projection_dim),
        ]
    )
    return tfrs.experimental.models.Ranking(
        FieldVectors(table_size, dimension, prunable_tables=prunable_tables),
        bottom_stack=tfrs.layers.blocks.MLP(
            units=[*bottom_units, dimension], final_activation="relu"
        ),
        feature_interaction=interaction,
        top_stack=tfrs.layers.blocks.MLP(units=[*top_units, 1]),
        task=_task(),
    )


def ranking_features(features: dict) -> dict:
    """Returns the features of this package under the names that TFRS gives them.

    Args:
      features: `numeric` and `categorical`.
    """
    return {
        "dense_features": features["numeric"],
        "sparse_features": features["categorical"],
    }


class _AllBut(sa.MinimumBlocks):
    """The default policy, but for one layer."""

    def __init__(self, name: str, block_size: tuple[int, int]):
        super().__init__(block_size)
        self.name = name

    def allow_pruning(self, layer) -> bool:
        return layer.name != self.name and super().allow_pruning(layer)

    def reason(self, layer) -> str:
        if layer.name == self.name:
            return "a table, pruned only where `table_rows` says how"
        return super().reason(layer)


def prune_ranking(
    model: tfrs.experimental.models.Ranking,
    schedule,
    block_size: int | tuple[int, int] = 16,
    importance: Callable | sa.Importance | None = None,
    table_rows: int | None = None,
) -> tfrs.experimental.models.Ranking:
    """Prunes the dense layers of a ranking model, and if wanted its tables.

    `sa.prune(model, schedule, block_size)` does the former; tables are a matrix of
    another form, and so want blocks of another form: `table_rows` neighbouring rows.

    Args:
      model: from `build_dlrm` or `build_dcn`, called once; changed in place.
      schedule: when to prune.
      block_size: rows and columns of a block of the dense layers.
      importance: what to score, `sa.SoftmaxAttention()` by default.
      table_rows: rows of a block of the tables; by default they are left alone.

    Raises:
      ValueError: for `table_rows` with a model whose tables may not be pruned.
    """
    if isinstance(block_size, int):
        block_size = (block_size, block_size)
    tables = model._embedding_layer
    if table_rows is not None and not tables.prunable_tables:
        raise ValueError(
            "`table_rows` wants a model made with `prunable_tables=True`. Received: "
            f"table_rows={table_rows!r}"
        )
    policy = _AllBut(tables.name, block_size)
    sa.prune(model, schedule, block_size, importance, pruning_policy=policy)
    if table_rows is not None:
        model._embedding_layer = sa.prune(
            tables, schedule, (table_rows, tables.dimension), importance
        )
    return model
