"""Reads converted rows with tf.data, at any size, on any number of machines.

Memory is bounded by the buffers, whatever the number of rows. For several workers
`read_batches` takes the input context of `tf.distribute`, and each reads its own files;
alternatively its dataset goes through tf.data service:

    dataset = read_batches(folder, "train", 32768, seed=0)
    dataset = dataset.apply(tf.data.experimental.service.distribute(
        processing_mode=tf.data.experimental.service.ShardingPolicy.DYNAMIC,
        service="grpc://dispatcher:5000"))

Then the workers of the service parse and shuffle, each file read by one of them, and
the trainer only receives batches.
"""

import os
from collections.abc import Sequence

import tensorflow as tf

from tf_seqattn.criteo.log.manifest import Manifest
from tf_seqattn.criteo.log.paths import Path
from tf_seqattn.criteo.log.shards import parse_record
from tf_seqattn.criteo.log.vocabulary import look_up

# Files that are read at a time, so that a batch has rows of all of them.
_OPEN_FILES = 16
# Rows that are shuffled at a time; 160 bytes each.
_SHUFFLED_ROWS = 2**17


def read_batches(
    folder: str | os.PathLike,
    split: str,
    batch_size: int,
    seed: int | None = None,
    context: tf.distribute.InputContext | None = None,
    drop_remainder: bool = False,
) -> tf.data.Dataset:
    """Reads a split once.

    With a seed the files come in random order, several at a time, and rows are
    shuffled in a buffer of 131,072; every pass of a repeated dataset has an order of
    its own, the same for the same seed. Without one rows come in the order of time.

    Args:
      folder: what `conversion.convert` made.
      split: "train", "validation" or "test".
      batch_size: rows of a batch, of all workers together.
      seed: decides the order, or None for the order of time.
      context: from `strategy.distribute_datasets_from_function`, for this worker's
        share of the files and of every batch.
      drop_remainder: whether a last, smaller batch is left out.

    Returns:
      A dataset of `({"numeric": float32 (batch, num_numeric), "categorical": int32
      (batch, num_tables)}, float32 (batch,))`.

    Raises:
      ValueError: for an unknown or empty split, or a bad batch size.
      FileNotFoundError: if `folder` has no converted rows.
      tf.errors.DataLossError: on reading, if a file is damaged.

    Example:

    >>> batches = read_batches("converted", "train", 32768, seed=0)  # doctest: +SKIP
    >>> model.fit(batches, epochs=25)  # doctest: +SKIP
    """
    manifest = Manifest.load(folder)
    manifest.require_rows(split)
    if batch_size < 1:
        raise ValueError(
            f"`batch_size` must be at least 1. Received: batch_size={batch_size!r}"
        )
    num_numeric, num_tables = manifest.num_numeric, len(manifest.encoding.table_sizes)
    vocabulary = manifest.vocabulary
    rows = tf.constant(vocabulary.rows) if vocabulary else None
    blocks = _records(manifest.paths(split), seed, context).map(
        lambda record: parse_record(record, num_numeric, num_tables),
        num_parallel_calls=tf.data.AUTOTUNE,
    )
    if seed is not None:
        blocks = _shuffle_rows(blocks, seed)
    if context is not None:
        batch_size = context.get_per_replica_batch_size(batch_size)

    def features(numeric, categorical, labels):
        if vocabulary is not None:
            categorical = look_up(rows, vocabulary.first, categorical)
        return {"numeric": numeric, "categorical": categorical}, labels

    batches = blocks.rebatch(batch_size, drop_remainder)
    return batches.map(features, tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)


def _records(
    paths: Sequence[Path],
    seed: int | None,
    context: tf.distribute.InputContext | None,
) -> tf.data.Dataset:
    """Blocks of rows as they stand in the files, this worker's alone."""
    files = tf.data.Dataset.from_tensor_slices([str(path) for path in paths])
    workers = context.num_input_pipelines if context else 1
    by_file = len(paths) >= workers
    if workers > 1 and by_file:
        files = files.shard(workers, context.input_pipeline_id)
    if seed is None:
        records = tf.data.TFRecordDataset(files)
    else:
        files = files.shuffle(len(paths), seed=seed, reshuffle_each_iteration=True)
        records = files.interleave(
            tf.data.TFRecordDataset,
            cycle_length=_OPEN_FILES,
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )
    if workers > 1 and not by_file:
        records = records.shard(workers, context.input_pipeline_id)
    return records


def _shuffle_rows(blocks: tf.data.Dataset, seed: int) -> tf.data.Dataset:
    """Shuffles within large runs of rows, whose blocks come from many files."""
    seeds = tf.data.Dataset.random(seed=seed, rerandomize_each_iteration=True)
    seeds = seeds.batch(2)

    def shuffle(rows, pair):
        count = tf.shape(rows[-1])[0]
        order = tf.random.experimental.stateless_shuffle(tf.range(count), pair)
        return tuple(tf.gather(array, order) for array in rows)

    return tf.data.Dataset.zip(blocks.rebatch(_SHUFFLED_ROWS), seeds).map(
        shuffle, num_parallel_calls=2
    )
