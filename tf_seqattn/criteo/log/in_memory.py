"""Converted rows in memory, for data that fit there: exact shuffling, no files.

A row takes about 160 bytes. For more rows than fit see `streaming`.
"""

import dataclasses
import os

import numpy as np
import tensorflow as tf

from tf_seqattn.criteo.log.manifest import Manifest
from tf_seqattn.criteo.log.shards import concatenate, read_shard


@dataclasses.dataclass(frozen=True)
class Clicks:
    """Rows of a click log as arrays, in the order of the files.

    Attributes:
      numeric: float32 `(rows, 13)`: encoded counts.
      categorical: int32 `(rows, 26)`: rows of the embedding tables, 0 for an empty
        field, otherwise 1 to the size of the table.
      labels: float32 `(rows,)`: 1 for a click, 0 for none.
    """

    numeric: np.ndarray
    categorical: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: slice) -> "Clicks":
        """The rows of a slice."""
        return Clicks(self.numeric[rows], self.categorical[rows], self.labels[rows])

    def features(self) -> dict[str, np.ndarray]:
        """What the network takes: `{"numeric": ..., "categorical": ...}`."""
        return {"numeric": self.numeric, "categorical": self.categorical}


def load_clicks(folder: str | os.PathLike, split: str) -> Clicks:
    """Reads a split of converted rows into memory.

    Args:
      folder: what `conversion.convert` made.
      split: "train", "validation" or "test".

    Returns:
      `Clicks`, in the order of time.

    Raises:
      ValueError: for an unknown or empty split.
      FileNotFoundError: if `folder` has no converted rows.

    Example:

    >>> clicks = load_clicks("converted", "validation")  # doctest: +SKIP
    >>> clicks.numeric.shape  # doctest: +SKIP
    (4584062, 13)
    """
    manifest = Manifest.load(folder)
    manifest.require_rows(split)
    columns = manifest.num_numeric, len(manifest.encoding.table_sizes)
    rows = concatenate([read_shard(path, *columns) for path in manifest.paths(split)])
    vocabulary = manifest.vocabulary
    categorical = rows.categorical
    if vocabulary is not None:
        categorical = vocabulary.apply(categorical)
    return Clicks(rows.numeric, categorical, rows.labels.astype(np.float32))


def training_batches(clicks: Clicks, batch_size: int, seed: int) -> tf.data.Dataset:
    """Endless batches of rows in random order, each row once per pass.

    The order is computed from the seed as it is needed, so nothing is shuffled in
    memory and the same seed gives the same batches.

    Args:
      clicks: the rows; they are copied into a tensor once.
      batch_size: rows of a batch, at most `len(clicks)`.
      seed: decides the order.

    Returns:
      A dataset of `({"numeric": (batch, 13), "categorical": (batch, 26)},
      labels (batch,))`.

    Raises:
      ValueError: if a batch needs more rows than there are.
    """
    rows = len(clicks)
    if not 0 < batch_size <= rows:
        raise ValueError(
            f"`batch_size` must be between 1 and the number of rows, {rows}. Received: "
            f"batch_size={batch_size!r}"
        )
    features = {name: tf.constant(a) for name, a in clicks.features().items()}
    labels = tf.constant(clicks.labels)

    def batch(number):
        position = number * batch_size + tf.range(batch_size, dtype=tf.int64)
        # Every pass over the rows has an order of its own, and so a seed of its own.
        passes = tf.cast(position // rows, tf.int32)
        seeds = tf.stack(
            [tf.fill([batch_size], tf.constant(seed, tf.int32)), passes, passes], axis=1
        )
        # The public `index_shuffle` takes no seed per index; its operation does.
        chosen = tf.raw_ops.RandomIndexShuffle(
            index=position % rows,
            seed=seeds,
            max_index=tf.constant(rows - 1, tf.int64),
            rounds=4,
        )
        taken = {name: tf.gather(array, chosen) for name, array in features.items()}
        return taken, tf.gather(labels, chosen)

    return tf.data.Dataset.counter().map(batch, num_parallel_calls=2).prefetch(4)


def validation_batches(clicks: Clicks, batch_size: int = 8192) -> tf.data.Dataset:
    """The rows once, in order, the last batch perhaps smaller.

    Args:
      clicks: the rows.
      batch_size: rows of a batch.

    Returns:
      A dataset like that of `training_batches`, finite.
    """
    starts = range(0, len(clicks), batch_size)

    def batches():
        for start in starts:
            part = clicks[start : start + batch_size]
            yield part.features(), part.labels

    signature = (
        {
            "numeric": tf.TensorSpec((None, clicks.numeric.shape[1]), tf.float32),
            "categorical": tf.TensorSpec((None, clicks.categorical.shape[1]), tf.int32),
        },
        tf.TensorSpec((None,), tf.float32),
    )
    dataset = tf.data.Dataset.from_generator(batches, output_signature=signature)
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(len(starts)))
    return dataset.prefetch(2)
