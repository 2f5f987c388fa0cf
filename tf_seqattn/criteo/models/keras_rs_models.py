"""The click models as functional models of Keras 3, of the parts that keras-rs ships.

keras-rs is the successor of TFRS for Keras 3. The networks have the inputs and compute
what those of `click_model` and `ranking` do, but for the first weights of a cross
layer, where each library has its own default. `sa.prune`, `fit` on the batches of
`read_batches`, and every export take them as they are.
"""

from collections.abc import Sequence

import keras

from tf_seqattn.criteo.log.fields import FIELD_NAMES, NUMERIC_NAMES
from tf_seqattn.criteo.models.click_model import FIRST_HIDDEN, sizes_of_tables

try:
    import keras_rs
except ImportError as error:
    raise ImportError(
        "These models need keras_rs: pip install 'tf-seqattn[keras-rs]'"
    ) from error

Tensor = keras.KerasTensor
_layers = keras.layers


def _inputs(num_tables: int, num_numeric: int) -> dict[str, Tensor]:
    return {
        "numeric": keras.Input((num_numeric,), name="numeric"),
        "categorical": keras.Input((num_tables,), dtype="int32", name="categorical"),
    }


def _category_vectors(
    categorical: Tensor,
    table_size: int | Sequence[int],
    dimension: int,
    distributed: bool,
    l2: float = 0.0,
) -> list[Tensor]:
    """The vector `(batch, dimension)` of each category, by its table."""
    sizes = sizes_of_tables(table_size)
    names = [f"C{number}" for number in range(1, len(sizes) + 1)]
    if len(sizes) == len(FIELD_NAMES):
        # The counts are buckets, with tables of their own.
        names = list(FIELD_NAMES)
    rows = {name: categorical[:, index] for index, name in enumerate(names)}
    if distributed:
        configs = {
            name: keras_rs.layers.FeatureConfig(
                name=name,
                table=keras_rs.layers.TableConfig(
                    name=name,
                    vocabulary_size=size + 1,
                    embedding_dim=dimension,
                    initializer="uniform",
                ),
                input_shape=(None,),
                output_shape=(None, dimension),
            )
            for name, size in zip(names, sizes, strict=True)
        }
        found = keras_rs.layers.DistributedEmbedding(configs, name="tables")(rows)
        return [found[name] for name in names]
    decay = keras.regularizers.L2(l2 / 2) if l2 else None
    return [
        _layers.Embedding(size + 1, dimension, name=name, embeddings_regularizer=decay)(
            rows[name]
        )
        for name, size in zip(names, sizes, strict=True)
    ]


def _hidden(x: Tensor, units: Sequence[int], name: str, dropout: float = 0.0) -> Tensor:
    for number, width in enumerate(units, start=1):
        x = _layers.Dense(width, activation="relu", name=f"{name}_{number}")(x)
        if dropout:
            x = _layers.Dropout(dropout)(x)
    return x


def _ranking_vectors(
    table_size: int | Sequence[int],
    dimension: int,
    bottom_units: Sequence[int],
    distributed: bool,
) -> tuple[dict[str, Tensor], Tensor, list[Tensor]]:
    """The inputs of DLRM and DCN, the vector of all counts and those of categories."""
    inputs = _inputs(len(sizes_of_tables(table_size)), len(NUMERIC_NAMES))
    counts = _hidden(inputs["numeric"], [*bottom_units, dimension], "bottom")
    vectors = _category_vectors(
        inputs["categorical"], table_size, dimension, distributed
    )
    return inputs, counts, vectors


def _model(inputs: dict[str, Tensor], x: Tensor) -> keras.Model:
    return keras.Model(inputs, _layers.Dense(1, name="logits")(x), name="clicks")


def build_dnn(
    table_size: int | Sequence[int],
    dimension: int = 10,
    hidden_units: Sequence[int] = (400, 400, 400),
    num_numeric: int = len(NUMERIC_NAMES),
    dropout: float = 0.0,
    l2: float = 0.0,
) -> keras.Model:
    """Returns the paper's click model, as `click_model.build_network` does for Keras 2.

    Args:
      table_size: rows of each category's table: one number or one for each.
      dimension: length of a field's vector.
      hidden_units: width of each hidden layer; the first is named `FIRST_HIDDEN`.
      num_numeric: number of fields that are counts: 13, or 0 where they are buckets.
      dropout: share of the outputs of each hidden layer that a step leaves out.
      l2: weight of half the sum of squares of tables and directions in the loss.

    Returns:
      A model from `{"numeric": float32 (batch, num_numeric), "categorical": int32
      (batch, tables)}` to log-odds, float32 `(batch, 1)`.

    Example:

    >>> build_dnn(table_size=100).output_shape
    (None, 1)
    """
    inputs = _inputs(len(sizes_of_tables(table_size)), num_numeric)
    vectors = _category_vectors(inputs["categorical"], table_size, dimension, False, l2)
    if num_numeric:
        # A count x becomes x * v + b, with v and b of its own.
        counts = _layers.EinsumDense(
            "bf,fd->bfd",
            output_shape=(num_numeric, dimension),
            bias_axes="fd",
            kernel_initializer="uniform",
            bias_initializer="uniform",
            kernel_regularizer=keras.regularizers.L2(l2 / 2) if l2 else None,
            name="counts",
        )(inputs["numeric"])
        vectors = [_layers.Flatten()(counts), *vectors]
    x = _layers.Concatenate(name="fields")(vectors)
    name = FIRST_HIDDEN.removesuffix("_1")
    return _model(inputs, _hidden(x, hidden_units, name, dropout))


def build_dlrm(
    table_size: int | Sequence[int],
    dimension: int = 16,
    bottom_units: Sequence[int] = (512, 256, 64),
    top_units: Sequence[int] = (512, 256),
    distributed: bool = False,
) -> keras.Model:
    """Returns a DLRM with `keras_rs.layers.DotInteraction` (arXiv 1906.00091).

    Args:
      table_size: rows of each category's table: one number or one for each.
      dimension: length of a field's vector.
      bottom_units: width of the hidden layers that read the counts.
      top_units: width of the hidden layers that read the dot products.
      distributed: whether one `keras_rs.layers.DistributedEmbedding` holds all tables.
        Under `TPUStrategy` it puts them on the SparseCore; elsewhere it looks them up
        on the default device, as `keras.layers.Embedding` does.

    Returns:
      As `build_dnn`.

    Example:

    >>> build_dlrm(table_size=100).output_shape
    (None, 1)
    """
    inputs, counts, vectors = _ranking_vectors(
        table_size, dimension, bottom_units, distributed
    )
    dots = keras_rs.layers.DotInteraction(name="dots")([*vectors, counts])
    x = _layers.Concatenate(name="features")([counts, dots])
    return _model(inputs, _hidden(x, top_units, "top"))


def build_dcn(
    table_size: int | Sequence[int],
    dimension: int = 16,
    cross_layers: int = 3,
    projection_dim: int | None = None,
    bottom_units: Sequence[int] = (256, 64),
    top_units: Sequence[int] = (512, 256),
    distributed: bool = False,
) -> keras.Model:
    """Returns a DCN-v2 with `keras_rs.layers.FeatureCross` (arXiv 2008.13535).

    Args:
      table_size: rows of each category's table: one number or one for each.
      dimension: length of a field's vector.
      cross_layers: number of `FeatureCross` layers.
      projection_dim: rank of their kernels; full by default.
      bottom_units: width of the hidden layers that read the counts.
      top_units: width of the hidden layers that read the crosses.
      distributed: as for `build_dlrm`.

    Returns:
      As `build_dnn`.

    Example:

    >>> build_dcn(table_size=100).output_shape
    (None, 1)
    """
    inputs, counts, vectors = _ranking_vectors(
        table_size, dimension, bottom_units, distributed
    )
    first = x = _layers.Concatenate(name="fields")([*vectors, counts])
    for number in range(1, cross_layers + 1):
        cross = keras_rs.layers.FeatureCross(projection_dim, name=f"cross_{number}")
        x = cross(first, x)
    x = _layers.Concatenate(name="features")([counts, x])
    return _model(inputs, _hidden(x, top_units, "top"))
