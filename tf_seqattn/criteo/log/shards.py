"""The binary form of rows: TFRecord files of blocks of rows.

A record is a `tf.train.Example` of three strings of bytes, little-endian, row after
row: float32 `numeric`, int32 `categorical` and uint8 `label`. A block has up to 1024
rows, so that reading costs nothing per row; TFRecord has a checksum for each.
"""

import hashlib
import os
import pathlib
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tf_seqattn.criteo.log.json_files import Damaged, remedy
from tf_seqattn.criteo.log.paths import Path

BLOCK_ROWS = 1024
_NAMES = ("numeric", "categorical", "label")


class Rows(NamedTuple):
    """Encoded rows.

    Attributes:
      numeric: float32 `(rows, num_numeric)`.
      categorical: int32 `(rows, num_tables)`: rows of the embedding tables.
      labels: uint8 `(rows,)`: 1 for a click.
    """

    numeric: np.ndarray
    categorical: np.ndarray
    labels: np.ndarray

    def where(self, keep) -> "Rows":
        """The rows of a slice or a bool array."""
        return Rows(*(array[keep] for array in self))


def concatenate(parts: list[Rows]) -> Rows:
    """Returns the rows of all parts."""
    return Rows(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


class Shard(NamedTuple):
    """A file of rows.

    Attributes:
      name: of the file, in the folder of the shards.
      rows: how many it has.
      num_bytes: its size.
      sha256: of its content, hexadecimal.
    """

    name: str
    rows: int
    num_bytes: int
    sha256: str


def write_shard(path: pathlib.Path, rows: Rows) -> Shard:
    """Writes a shard; the file is there as a whole or not at all.

    Args:
      path: of the file.
      rows: one or more.
    """
    partial = path.with_suffix(".partial")
    with tf.io.TFRecordWriter(str(partial)) as writer:
        for start in range(0, len(rows.labels), BLOCK_ROWS):
            block = rows.where(slice(start, start + BLOCK_ROWS))
            features = {
                name: tf.train.Feature(
                    bytes_list=tf.train.BytesList(value=[array.tobytes()])
                )
                for name, array in zip(_NAMES, block, strict=True)
            }
            example = tf.train.Example(features=tf.train.Features(feature=features))
            # Maps have no order of their own, and the same rows must give the same
            # bytes.
            writer.write(example.SerializeToString(deterministic=True))
    with open(partial, "rb") as file:
        os.fsync(file.fileno())
    partial.rename(path)
    return Shard(path.name, len(rows.labels), path.stat().st_size, sha256_of(path))


def has_its_size(path: Path, shard: Shard) -> bool:
    """Whether a file is there and has the size of a shard."""
    return path.exists() and path.stat().st_size == shard.num_bytes


def is_intact(path: Path, shard: Shard) -> bool:
    """Whether a file is there and has the size and the checksum of a shard."""
    return has_its_size(path, shard) and sha256_of(path) == shard.sha256


def sha256_of(path: Path) -> str:
    """Returns the checksum of a file, hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def parse_record(
    record: tf.Tensor, num_numeric: int, num_tables: int
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Reads a block of rows, inside a graph.

    Args:
      record: scalar string.
      num_numeric: columns of numbers.
      num_tables: columns of categories.

    Returns:
      float32 `(rows, num_numeric)`, int32 `(rows, num_tables)` and float32 `(rows,)`.
    """
    scalar = tf.io.FixedLenFeature([], tf.string)
    block = tf.io.parse_single_example(record, dict.fromkeys(_NAMES, scalar))
    labels = tf.io.decode_raw(block["label"], tf.uint8)
    rows = tf.size(labels)
    numeric = tf.io.decode_raw(block["numeric"], tf.float32)
    categorical = tf.io.decode_raw(block["categorical"], tf.int32)
    return (
        tf.ensure_shape(tf.reshape(numeric, (rows, num_numeric)), (None, num_numeric)),
        tf.ensure_shape(
            tf.reshape(categorical, (rows, num_tables)), (None, num_tables)
        ),
        tf.cast(labels, tf.float32),
    )


def read_shard(path: Path, num_numeric: int, num_tables: int) -> Rows:
    """Reads a whole shard into memory.

    Raises:
      ValueError: if the file is damaged.
    """
    records = tf.data.TFRecordDataset(str(path))
    try:
        parts = [
            Rows(numeric.numpy(), categorical.numpy(), labels.numpy().astype(np.uint8))
            for numeric, categorical, labels in (
                parse_record(record, num_numeric, num_tables) for record in records
            )
        ]
    except tf.errors.DataLossError as error:
        raise Damaged(f"{path} is damaged: {error.message}. {remedy()}") from error
    return concatenate(parts)
