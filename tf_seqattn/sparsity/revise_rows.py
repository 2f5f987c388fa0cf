"""Which categories have a row of their own, revised while a model trains."""

import numpy as np

from tf_seqattn.keras_api import (
    Callback,
    Layer,
    Logs,
    Variable,
    add_to,
    steps_per_execution,
    stored,
)
from tf_seqattn.sparsity.table_rows import counted_tables


class ReviseRows(Callback):
    """Gives rows to categories that have become frequent, and takes those of rare ones.

    The model is one of `sa.prune_rows(..., revise=True)`. Its tables are small from
    then on, and so are the optimizer's slots: the number of rows of each table stays,
    and only their owners change. Training counts how often each category is read. Every
    so many steps the most frequent ones of each table get its rows. A category that
    gets a row begins with a copy of the shared row, so that its output stays at first;
    one that loses its row is averaged into the shared row, weighted by how often it was
    read. Then all counts are halved, so that the last intervals weigh most.

    Only frequency decides. What a row of its own would be worth to a category, nobody
    can tell while it shares one.

    The optimizer's slots of a row stay with the row. Counts and steps are weights of
    the model, so that a backup or a saved model goes on where it was. Under
    `tf.distribute` the batches of the first replica are counted. After the training,
    `sa.fix_rows` drops the counts.

    Args:
      every: number of training steps between two revisions. It should be so many that
        a category worth a row is read several times. A revision reads tables and
        counts out of TensorFlow, so it takes longer than a step.

    Raises:
      ValueError: for an `every` below 1; when training begins, if no rows of the model
        can be revised.

    Example:

    >>> from tf_seqattn.sparsity import count_rows, fix_rows, prune_rows
    >>> table = keras.layers.Embedding(100, 8, name="table")
    >>> model = keras.Sequential([keras.Input((1,)), table, keras.layers.Dense(1)])
    >>> rows = np.random.default_rng(0).integers(0, 100, (64, 1))
    >>> counts = count_rows(model, [rows[:16]])
    >>> small = prune_rows(model, 0.2, counts, by="frequency", revise=True)
    >>> small.compile("adam", "mse")
    >>> history = small.fit(
    ...     rows, np.ones((64, 1, 1)), verbose=0, epochs=20, callbacks=[ReviseRows(10)]
    ... )
    >>> fix_rows(small).layers[0].rows
    20
    """

    def __init__(self, every: int) -> None:
        super().__init__()
        if int(every) != every or every < 1:
            raise ValueError(
                f"`every` must be a number of steps from 1. Received: every={every!r}"
            )
        self.every = int(every)
        self._tables: list[Layer] = []
        self._steps: int | None = None

    def on_train_begin(self, logs: Logs = None) -> None:
        self._tables = counted_tables(self.model)
        self._steps = None

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        # A callback may have restored other weights.
        self._steps = None

    def on_train_batch_begin(self, batch: int, logs: Logs = None) -> None:
        # Before the step, so that whatever is saved after one has not been revised yet
        # and the steps tell when it is to be.
        if self._steps is None:
            self._steps = int(stored(self._tables[0].steps_counted))
        now = steps_per_execution(self.model)
        # Some step of the last execution was the last of an interval.
        if 0 < self._steps and self._steps % self.every < min(now, self.every):
            for table in self._tables:
                revise(table)
        self._steps += now
        for table in self._tables:
            add_to(table.steps_counted, np.int64(now))


def revise(table: Layer) -> int:
    """Gives the rows of a layer to its most frequent categories, and halves the counts.

    Args:
      table: one of `counted_tables`.

    Returns:
      How many categories got a row of their own, as many as lost theirs.
    """
    held: Variable = table.embeddings if hasattr(table, "embeddings") else table.tables
    rows = np.array(stored(held))
    numbers = np.array(stored(table.row_numbers))
    reads = np.array(stored(table.reads))
    ends = np.cumsum(table.get_table_categories())[:-1]
    swapped = 0
    for number, part in enumerate(np.split(np.arange(len(numbers)), ends)):
        padding = number == 0 and getattr(table, "mask_zero", False)
        numbers[part], swaps = _revised(rows, numbers[part], reads[part], padding)
        swapped += swaps
    if swapped:
        held.assign(rows)
        table.row_numbers.assign(numbers)
    table.reads.assign(reads / 2)
    return swapped


def _revised(
    rows: np.ndarray, numbers: np.ndarray, reads: np.ndarray, padding: bool
) -> tuple[np.ndarray, int]:
    """Revises one table.

    Args:
      rows: `(rows, dimensions)` of the layer, changed in place.
      numbers: the row of each category of the table.
      reads: how often each of them was read.
      padding: whether category 0 is padding, which keeps its row.

    Returns:
      The new `numbers`, and how many categories got a row.
    """
    # `prune_rows` puts the shared row behind the others of its table.
    shared = numbers.max()
    sharing = np.flatnonzero(numbers == shared)
    if len(sharing) < 2:
        # Every category has a row of its own.
        return numbers, 0
    own = np.flatnonzero(numbers != shared)
    if padding:
        own, sharing = own[own > 0], sharing[sharing > 0]
    sharing = sharing[np.argsort(-reads[sharing], kind="stable")]
    own = own[np.argsort(reads[own], kind="stable")]
    pairs = min(len(own), len(sharing))
    # The first pairs, as one order falls and the other rises.
    swaps = int((reads[sharing[:pairs]] > reads[own[:pairs]]).sum())
    if not swaps:
        return numbers, 0
    rising, falling = sharing[:swaps], own[:swaps]
    places = numbers[falling]
    weights = np.append(reads[falling], reads[sharing[swaps:]].sum())
    before = rows[shared].copy()
    if weights.any():
        values = np.concatenate([rows[places], before[None]])
        rows[shared] = np.average(values, axis=0, weights=weights)
    rows[places] = before
    revised = numbers.copy()
    revised[rising], revised[falling] = places, shared
    return revised, swaps
