"""Tables without the rare values: the values seen often enough get rows of their own.

Counting goes over the training rows of converted shards. What is counted are values
modulo the table size of the encoding, in one array for each column, so memory is
bounded however many rows there are. Shards stay as they are: a vocabulary is one
lookup, done when rows are read.
"""

import concurrent.futures
import io
import os
import pathlib
from collections.abc import Iterable, Sequence

import numpy as np
import tensorflow as tf

from tf_seqattn.criteo.log.paths import Path, content_of
from tf_seqattn.criteo.log.shards import read_shard
from tf_seqattn.files import write_whole

EMPTY, RARE = 0, 1


class Vocabulary:
    """Rows of the smaller tables for rows of the tables of an encoding.

    Row 0 stays that of empty fields, row 1 is for rare and unseen values, and the
    frequent ones follow.

    Args:
      frequent: for each column the rows (from 1) that are seen often enough, sorted.
      hash_sizes: for each column the rows of the table, without row 0.

    Attributes:
      rows: int32 `(total,)`: the new rows of all tables, one after another.
      first: int64 `(columns,)`: where those of each table begin.

    Example:

    >>> vocabulary = Vocabulary([np.array([2, 5])], [6])
    >>> vocabulary.apply(np.array([[0], [1], [2], [5]])).ravel()
    array([0, 1, 2, 3], dtype=int32)
    """

    def __init__(self, frequent: list[np.ndarray], hash_sizes: Iterable[int]):
        self.frequent = frequent
        hash_sizes = np.array(list(hash_sizes), np.int64)
        self.first = np.concatenate([[0], np.cumsum(hash_sizes + 1)[:-1]])
        self.rows = np.full((hash_sizes + 1).sum(), RARE, np.int32)
        self.rows[self.first] = EMPTY
        for first, ids in zip(self.first, frequent, strict=True):
            self.rows[first + ids] = RARE + 1 + np.arange(len(ids), dtype=np.int32)

    @property
    def table_sizes(self) -> tuple[int, ...]:
        """Rows of each table, without row 0."""
        return tuple(RARE + len(ids) for ids in self.frequent)

    def apply(self, ids: np.ndarray) -> np.ndarray:
        """Looks up int32 `(rows, columns)`, and returns the same shape."""
        return self.rows[ids + self.first]

    def save(self, path: pathlib.Path) -> None:
        """Writes `frequent` as an `.npz` file."""
        names = (f"column_{i}" for i in range(len(self.frequent)))
        content = io.BytesIO()
        np.savez_compressed(content, **dict(zip(names, self.frequent, strict=True)))
        write_whole(path, content.getvalue())

    @classmethod
    def load(cls, path: Path, hash_sizes: Iterable[int]) -> "Vocabulary":
        """Reads what `save` wrote."""
        with np.load(content_of(path)) as columns:
            return cls([columns[name] for name in columns.files], hash_sizes)


def look_up(rows: tf.Tensor, first: tf.Tensor, ids: tf.Tensor) -> tf.Tensor:
    """Does what `Vocabulary.apply` does, inside a graph.

    Args:
      rows: int32 `(total,)`, from `Vocabulary.rows`. A tensor or a variable made
        outside of the graph, since tables may be larger than a graph can hold.
      first: int64 `(columns,)`, from `Vocabulary.first`.
      ids: int32 `(batch, columns)`.
    """
    return tf.gather(rows, tf.cast(ids, tf.int64) + first)


def count_values(
    paths: Sequence[Path], num_numeric: int, hash_sizes: tuple[int, ...], bar
) -> list[np.ndarray]:
    """Counts how often each row of each table is wanted.

    Args:
      paths: of shards.
      num_numeric: columns of numbers in them.
      hash_sizes: for each column of categories the rows of its table, without row 0.
      bar: progress bar, moved by 1 for each shard.

    Returns:
      For each column int64 `(hash_size + 1,)`.
    """
    counts = [np.zeros(size + 1, np.int64) for size in hash_sizes]

    def count(path):
        # Sorted rather than binned: a shard has fewer rows than a large table.
        columns = read_shard(path, num_numeric, len(hash_sizes)).categorical.T
        return [np.unique(column, return_counts=True) for column in columns]

    threads = os.cpu_count() or 1
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        # A few shards at a time, so that results do not pile up.
        for start in range(0, len(paths), threads):
            for columns in pool.map(count, paths[start : start + threads]):
                for total, (ids, seen) in zip(counts, columns, strict=True):
                    total[ids] += seen
                bar.update(1)
    return counts


def build_vocabulary(counts: list[np.ndarray], min_count: int) -> Vocabulary:
    """Keeps the values that are seen at least `min_count` times.

    Args:
      counts: from `count_values`.
      min_count: 1 or more.
    """
    frequent = [
        np.flatnonzero(column[1:] >= min_count).astype(np.int32) + 1
        for column in counts
    ]
    return Vocabulary(frequent, [len(column) - 1 for column in counts])
