"""Fewer rows for the tables of a model: what matters little shares one row."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from tf_seqattn.keras_api import (
    MODELS,
    Layer,
    Model,
    check_layer,
    classes,
    is_graph_model,
    keras_of,
    stored,
    sublayers,
    uncompile,
)
from tf_seqattn.model_editing import clone, replace_sublayers
from tf_seqattn.sparsity.shared_rows import SHARED_ROWS

Counts = Mapping[str, npt.ArrayLike]

BY = ("importance", "frequency", "norm")


def count_rows(model: Model, data: Iterable[Any]) -> dict[str, np.ndarray]:
    """Counts how often data read each row of a model's tables.

    Args:
      model: built, with Keras `Embedding` layers.
      data: batches of inputs for `model(batch)`, without labels. Each is run once.

    Returns:
      For the name of each table int64 `(rows,)`.

    Raises:
      ValueError: for a model without tables.

    Example:

    >>> model = keras.Sequential([keras.layers.Embedding(4, 2, name="table")])
    >>> count_rows(model, [tf.constant([[3, 1, 3]])])["table"].tolist()
    [0, 1, 0, 2]
    """
    tables = _tables(model, built=False)
    counts = {table.name: np.zeros(table.input_dim, np.int64) for table in tables}
    with contextlib.ExitStack() as stack:
        for table in tables:
            stack.enter_context(_counting(table, counts[table.name]))
        for batch in data:
            model(batch)
    return counts


@contextlib.contextmanager
def _counting(table: Layer, counts: np.ndarray) -> Iterator[None]:
    """Context in which the eager calls of a table are counted."""
    call = table.call

    def counted(inputs: Any, *args: Any, **kwargs: Any) -> Any:
        read = np.asarray(inputs).astype(np.int64).ravel()
        counts[:] += np.bincount(read, minlength=len(counts))
        return call(inputs, *args, **kwargs)

    table.__dict__["call"] = counted
    try:
        yield
    finally:
        del table.__dict__["call"]


def prune_rows(
    model: Model, keep: float, counts: Counts | None = None, by: str = "importance"
) -> Model:
    """Removes rows from the tables of a trained model.

    The categories of the rows that go share one row of their table. At first it is the
    mean of those rows, weighted by how often they are read. The result is an ordinary
    model: train it on, export it, prune its blocks. A category costs 2 bytes, or
    4 where over 32,768 rows stay, in place of 4 bytes for each dimension.

    Args:
      model: built, with Keras `Embedding` layers. A Sequential or functional model is
        made anew around its other layers; a subclassed one is changed in place.
      keep: share of the weights of all tables that stays, above 0 and below 1. All rows
        compete, so rarely read tables lose more.
      counts: how often each row is read: what `count_rows` returns.
      by: what ranks a row. "importance" is how often it is read times its squared
        distance from the mean row, about what the outputs lose without it;
        "frequency" is how often alone; "norm" needs no counts.

    Returns:
      The smaller model, not compiled; the same object for a subclassed model.

    Raises:
      ValueError: for a model without tables, a `keep` outside its range, an unknown
        `by`, or counts that are missing or of another length.

    Example:

    >>> table = keras.layers.Embedding(100, 8, input_length=1, name="table")
    >>> model = keras.Sequential([table, keras.layers.Dense(1)])
    >>> smaller = prune_rows(model, 0.2, {"table": np.arange(100)})
    >>> smaller.layers[0].rows
    20
    """
    if by not in BY:
        raise ValueError(f"`by` must be one of {', '.join(BY)}. Received: by={by!r}")
    if not 0.0 < keep < 1.0:
        raise ValueError(f"`keep` must be between 0 and 1. Received: keep={keep!r}")
    tables = _tables(model)
    read = {table.name: _checked(table, counts, by) for table in tables}
    kept = _kept_rows(tables, read, keep, by)
    replaced = {
        id(table): _smaller(table, kept[table.name], read[table.name])
        for table in tables
        if not kept[table.name].all()
    }

    def replace(layer: Layer) -> Layer:
        if id(layer) in replaced:
            return replaced[id(layer)]
        if is_graph_model(layer):
            return clone(layer, replace)
        replace_sublayers(layer, replace)
        return layer

    if is_graph_model(model):
        return clone(model, replace)
    uncompile(model)
    replace_sublayers(model, replace)
    return model


def _tables(model: Model, built: bool = True) -> list[Layer]:
    check_layer(model, "model")
    kinds = classes("Embedding")
    found = [layer for layer in sublayers(model) if type(layer) in kinds]
    if not isinstance(model, MODELS) or not found:
        raise ValueError(
            "`model` must be a model with `keras.layers.Embedding` layers. Received: "
            f"model={model!r}"
        )
    names = [layer.name for layer in found]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise ValueError(
            f"Several tables of `model` have the same name: {sorted(twice)}. Give each "
            "`Embedding` a name of its own."
        )
    unbuilt = [layer.name for layer in found if not layer.built]
    if built and unbuilt:
        raise ValueError(
            f"`model` is not built: {', '.join(unbuilt)} have no rows yet. Call it on "
            "a batch first, `model(batch)`."
        )
    return found


def _checked(table: Layer, counts: Counts | None, by: str) -> np.ndarray:
    """How often each row of a table is read, float64; alike if nobody counted."""
    if counts is None and by == "norm":
        return np.ones(table.input_dim)
    if counts is None or table.name not in counts:
        raise ValueError(
            f"`counts` must have how often each row of table {table.name!r} is read: "
            f"`sa.count_rows(model, data)` counts. Received: counts="
            f"{None if counts is None else sorted(counts)}"
        )
    found = np.asarray(counts[table.name], np.float64)
    if found.shape != (table.input_dim,) or (found < 0).any():
        raise ValueError(
            f"`counts[{table.name!r}]` must be {table.input_dim} numbers from 0 up. "
            f"Received: shape {found.shape}, smallest {found.min(initial=0.0)}"
        )
    return found


def _mean_row(rows: np.ndarray, read: np.ndarray) -> np.ndarray:
    weights = read if read.any() else np.ones_like(read)
    return np.average(rows, axis=0, weights=weights)


def row_scores(rows: np.ndarray, read: np.ndarray, by: str) -> np.ndarray:
    """What ranks the rows of a table, float64 `(rows,)`.

    Args:
      rows: the table, `(rows, dimensions)`.
      read: how often each is read, float64 `(rows,)`.
      by: one of `BY`.

    Example:

    >>> rows, read = np.array([[0.0], [2.0]]), np.array([1.0, 1.0])
    >>> row_scores(rows, read, "importance").tolist()
    [1.0, 1.0]
    """
    if by == "frequency":
        return read
    if by == "norm":
        return np.linalg.norm(rows, axis=1)
    return read * np.square(rows - _mean_row(rows, read)).sum(axis=1)


def _kept_rows(
    tables: list[Layer], read: Mapping[str, np.ndarray], keep: float, by: str
) -> dict[str, np.ndarray]:
    """Which rows keep a row of their own: a bool array for each table."""
    scores = [
        row_scores(np.asarray(stored(t.embeddings), np.float64), read[t.name], by)
        for t in tables
    ]
    costs = np.concatenate([np.full(t.input_dim, t.output_dim) for t in tables])
    # Of equal scores the first rows stay, which vocabularies give to what is frequent.
    order = np.argsort(-np.concatenate(scores) / costs, kind="stable")
    shared = sum(table.output_dim for table in tables)
    allowed = keep * costs.sum() - shared
    kept = np.zeros(len(costs), bool)
    kept[order[np.cumsum(costs[order]) <= allowed]] = True
    parts = np.split(kept, np.cumsum([t.input_dim for t in tables])[:-1])
    for table, part in zip(tables, parts, strict=True):
        # Padding stays padding.
        part[0] |= bool(table.mask_zero)
    return {t.name: part for t, part in zip(tables, parts, strict=True)}


def _smaller(table: Layer, kept: np.ndarray, read: np.ndarray) -> Layer:
    rows = np.asarray(stored(table.embeddings))
    own = int(kept.sum())
    layer = SHARED_ROWS[keras_of(table)](
        table.input_dim,
        own + 1,
        table.output_dim,
        table.mask_zero,
        name=table.name,
        dtype=table.get_config()["dtype"],
        trainable=table.trainable,
    )
    layer.build()
    numbers = np.where(kept, np.cumsum(kept) - 1, own)
    shared = _mean_row(rows[~kept], read[~kept])
    layer.set_weights([np.concatenate([rows[kept], shared[None]]), numbers])
    return layer
