"""Fewer rows for the tables of a model: what matters little shares one row."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

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
from tf_seqattn.sparsity.wrapper import pruned_layers

Counts = Mapping[str, npt.ArrayLike]

BY = ("importance", "frequency", "norm")

_EMBEDDINGS = classes("Embedding")


@runtime_checkable
class HoldsTables(Protocol):
    """A layer of your own whose categories `prune_rows` can let share rows.

    Its attribute `tables` is one variable `(rows, dimensions)` with all its tables, one
    after another. `tf_seqattn.criteo.models.click_model.FieldEmbedding` is an example.
    """

    def get_table_rows(self) -> list[int]:
        """Rows of each table; empty where categories share rows already."""

    def rows_of(self, categories: Any) -> Any:
        """Numbers of the categories of a batch, counted through all tables."""

    def with_shared_rows(self, tables: np.ndarray, row_numbers: np.ndarray) -> Layer:
        """A new layer with these `tables`, in which categories have these rows.

        For `prune_rows(revise=True)` it also takes `counted=True`, see `ReviseRows`.
        """


def count_rows(model: Model, data: Iterable[Any]) -> dict[str, np.ndarray]:
    """Counts how often data read each row of a model's tables.

    Args:
      model: built, with tables as for `prune_rows`.
      data: batches of inputs for `model(batch)`, without labels. Each is run once.

    Returns:
      For the name of each layer with tables int64 `(rows,)`.

    Raises:
      ValueError: for a model without tables.

    Example:

    >>> model = keras.Sequential([keras.layers.Embedding(4, 2, name="table")])
    >>> count_rows(model, [tf.constant([[3, 1, 3]])])["table"].tolist()
    [0, 1, 0, 2]
    """
    tables = _tables(model, built=False)
    counts = {table.name: np.zeros(sum(_sizes(table)), np.int64) for table in tables}
    with contextlib.ExitStack() as stack:
        for table in tables:
            stack.enter_context(_counting(table, counts[table.name]))
        for batch in data:
            model(batch)
    return counts


@contextlib.contextmanager
def _counting(table: Layer, counts: np.ndarray) -> Iterator[None]:
    """Context in which the eager calls of a table are counted."""
    keras_table = type(table) in _EMBEDDINGS
    method = "call" if keras_table else "rows_of"
    original = getattr(table, method)

    def counted(inputs: Any, *args: Any, **kwargs: Any) -> Any:
        found = original(inputs, *args, **kwargs)
        read = np.asarray(inputs if keras_table else found).astype(np.int64).ravel()
        counts[:] += np.bincount(read, minlength=len(counts))
        return found

    table.__dict__[method] = counted
    try:
        yield
    finally:
        del table.__dict__[method]


def prune_rows(
    model: Model,
    keep: float,
    counts: Counts | None = None,
    by: str = "importance",
    revise: bool = False,
) -> Model:
    """Removes rows from the tables of a model.

    The categories of the rows that go share one row of their table. At first it is the
    mean of those rows, weighted by how often they are read. The result is an ordinary
    model: train it on, export it, prune its blocks. A category costs 2 bytes, or
    4 where over 32,768 rows stay, in place of 4 bytes for each dimension.

    Args:
      model: built, with Keras `Embedding` layers, or with layers of your own that have
        the methods of `HoldsTables`, as the click models of this package do. A
        Sequential or functional model is made anew around its other layers; a
        subclassed one is changed in place.
      keep: share of the weights of all tables that stays, above 0 and below 1. All rows
        compete, so rarely read tables lose more. Each table has its own shared row.
      counts: how often each row is read: what `count_rows` returns.
      by: what ranks a row. "importance" is how often it is read times its squared
        distance from the mean row, about what the outputs lose without it;
        "frequency" is how often alone, for a model that is not trained yet; "norm"
        needs no counts.
      revise: whether training can revise which categories have a row of their own, by
        `ReviseRows`. It costs 4 bytes a category until `fix_rows`.

    Returns:
      The smaller model, not compiled; the same object for a subclassed model.

    Raises:
      ValueError: for a model without tables or with tables that are pruned by blocks, a
        `keep` outside its range or too small for the shared rows, an unknown `by`, or
        counts that are missing or of another length.

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
        id(table): _smaller(table, kept[table.name], read[table.name], revise)
        for table in tables
        if not kept[table.name].all()
    }

    return _replaced(model, replaced)


def fix_rows(model: Model) -> Model:
    """Ends the revision of rows: drops the counts of `prune_rows(revise=True)`.

    Args:
      model: whose rows were revised by `ReviseRows`, or could have been.

    Returns:
      A model that computes the same, not compiled; the same object for a subclassed
      model.

    Raises:
      ValueError: for a model without such counts.

    Example:

    >>> table = keras.layers.Embedding(100, 8, input_length=1, name="table")
    >>> model = keras.Sequential([table, keras.layers.Dense(1)])
    >>> smaller = prune_rows(model, 0.2, {"table": np.arange(100)}, revise=True)
    >>> len(smaller.weights) - len(fix_rows(smaller).weights)
    2
    """
    replaced = {id(table): _without_counts(table) for table in counted_tables(model)}
    return _replaced(model, replaced)


def counted_tables(model: Model) -> list[Layer]:
    """The layers of a model whose rows can be revised.

    Raises:
      ValueError: if there is none.
    """
    check_layer(model, "model")
    found = [la for la in sublayers(model) if getattr(la, "reads", None) is not None]
    if not found:
        raise ValueError(
            "`model` must have tables whose rows can be revised: make it by "
            f"`sa.prune_rows(..., revise=True)`. Received: model={model!r}"
        )
    return found


def _replaced(model: Model, replaced: Mapping[int, Layer]) -> Model:
    """The model with other layers in place of those with these ids."""

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
    found = [layer for layer in sublayers(model) if _sizes(layer)]
    if not isinstance(model, MODELS) or not found:
        raise ValueError(
            "`model` must be a model with `keras.layers.Embedding` layers, or with "
            "layers of your own that have the methods of `tf_seqattn.sparsity."
            "table_rows.HoldsTables`, whose rows are not shared yet. Received: "
            f"model={model!r}"
        )
    names = [layer.name for layer in found]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise ValueError(
            f"Several tables of `model` have the same name: {sorted(twice)}. Give each "
            "of these layers a name of its own."
        )
    wrapped = {id(wrapper.layer) for wrapper in pruned_layers(model)}
    in_blocks = [layer.name for layer in found if id(layer) in wrapped]
    if in_blocks:
        raise ValueError(
            f"`model` has tables that are pruned by blocks: {', '.join(in_blocks)}. "
            "Call `sa.strip_pruning(model)` first."
        )
    unbuilt = [layer.name for layer in found if not layer.built]
    if built and unbuilt:
        raise ValueError(
            f"`model` is not built: {', '.join(unbuilt)} have no rows yet. Call it on "
            "a batch first, `model(batch)`."
        )
    return found


def _sizes(layer: Layer) -> list[int]:
    """Rows of each table of a layer; empty for a layer without tables."""
    if type(layer) in _EMBEDDINGS:
        return [layer.input_dim]
    return layer.get_table_rows() if isinstance(layer, HoldsTables) else []


def _rows(table: Layer) -> np.ndarray:
    """What a layer has, `(rows, dimensions)`, its tables one after another."""
    held = table.embeddings if type(table) in _EMBEDDINGS else table.tables
    return np.asarray(stored(held))


def _checked(table: Layer, counts: Counts | None, by: str) -> np.ndarray:
    """How often each row of a table is read, float64; alike if nobody counted."""
    rows = sum(_sizes(table))
    if counts is None and by == "norm":
        return np.ones(rows)
    if counts is None or table.name not in counts:
        raise ValueError(
            f"`counts` must have how often each row of table {table.name!r} is read: "
            f"`sa.count_rows(model, data)` counts. Received: counts="
            f"{None if counts is None else sorted(counts)}"
        )
    found = np.asarray(counts[table.name], np.float64)
    if found.shape != (rows,) or (found < 0).any():
        raise ValueError(
            f"`counts[{table.name!r}]` must be {rows} numbers from 0 up. "
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


def _split(table: Layer, rows: np.ndarray) -> list[np.ndarray]:
    """What belongs to each table of a layer."""
    return np.split(rows, np.cumsum(_sizes(table))[:-1])


def _kept_rows(
    tables: list[Layer], read: Mapping[str, np.ndarray], keep: float, by: str
) -> dict[str, np.ndarray]:
    """Which rows keep a row of their own: a bool array for each layer."""
    scores, costs, shared = [], [], 0
    for table in tables:
        rows = _rows(table).astype(np.float64)
        parts = zip(_split(table, rows), _split(table, read[table.name]), strict=True)
        scores += [row_scores(*part, by) for part in parts]
        costs.append(np.full(len(rows), rows.shape[1]))
        shared += len(_sizes(table)) * rows.shape[1]
    cost = np.concatenate(costs)
    # Of equal scores the first rows stay, which vocabularies give to what is frequent.
    order = np.argsort(-np.concatenate(scores) / cost, kind="stable")
    allowed = keep * cost.sum() - shared
    if allowed < 0:
        raise ValueError(
            "`keep` must leave the shared row of each table, "
            f"{shared} of {cost.sum()} weights. Received: keep={keep!r}"
        )
    kept = np.zeros(len(cost), bool)
    kept[order[np.cumsum(cost[order]) <= allowed]] = True
    ends = np.cumsum([len(part) for part in costs])[:-1]
    found = {}
    for table, part in zip(tables, np.split(kept, ends), strict=True):
        # Padding stays padding.
        part[0] |= bool(getattr(table, "mask_zero", False))
        found[table.name] = part
    return found


def _shared(
    table: Layer, kept: np.ndarray, read: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The fewer rows of a layer's tables, and the number of each category's row."""
    rows, numbers, first = [], [], 0
    for whole, own, often in zip(
        *(_split(table, values) for values in (_rows(table), kept, read)), strict=True
    ):
        fewer = whole[own]
        numbers.append(first + np.where(own, np.cumsum(own) - 1, len(fewer)))
        if not own.all():
            mean = _mean_row(whole[~own], often[~own])
            fewer = np.concatenate([fewer, mean[None]])
        rows.append(fewer)
        first += len(fewer)
    return np.concatenate(rows), np.concatenate(numbers)


def _smaller(table: Layer, kept: np.ndarray, read: np.ndarray, revise: bool) -> Layer:
    rows, numbers = _shared(table, kept, read)
    if type(table) not in _EMBEDDINGS:
        given = {"counted": True} if revise else {}
        layer = table.with_shared_rows(rows, numbers, **given)
        layer.trainable = table.trainable
        return layer
    layer = SHARED_ROWS[keras_of(table)](
        table.input_dim,
        len(rows),
        table.output_dim,
        table.mask_zero,
        table.embeddings_regularizer,
        revise,
        name=table.name,
        dtype=table.get_config()["dtype"],
        trainable=table.trainable,
    )
    return _filled(layer, rows, numbers)


def _without_counts(table: Layer) -> Layer:
    numbers = np.asarray(stored(table.row_numbers))
    if not hasattr(table, "embeddings"):
        layer = table.with_shared_rows(np.asarray(stored(table.tables)), numbers)
        layer.trainable = table.trainable
        return layer
    layer = type(table).from_config({**table.get_config(), "counted": False})
    return _filled(layer, np.asarray(stored(table.embeddings)), numbers)


def _filled(layer: Layer, rows: np.ndarray, numbers: np.ndarray) -> Layer:
    layer.build()
    layer.embeddings.assign(rows)
    layer.row_numbers.assign(numbers.astype(stored(layer.row_numbers).numpy().dtype))
    return layer
