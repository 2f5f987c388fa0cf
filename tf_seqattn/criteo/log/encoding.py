"""From the values of a click log to what a network takes; every choice an option.

There is no one convention (see the table in `Encoding`), so each is named. The same
encoding is written twice, for arrays and for tensors of raw features: a served model
does what the conversion did.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import polars as pl
import tensorflow as tf

from tf_seqattn.criteo.log.fields import (
    CATEGORICAL_NAMES,
    CATEGORY,
    CATEGORY_DIGITS,
    NUMERIC_NAMES,
)

NUMERIC_ENCODINGS = ("log1p", "log3", "raw", "bucket")
# Buckets are those of counts from -3 to 2^31, the largest of the public logs.
_LEAST_BUCKET, _LARGEST_BUCKET = -3, 461
_NUM_BUCKETS = _LARGEST_BUCKET - _LEAST_BUCKET + 1


@dataclasses.dataclass(frozen=True)
class Encoding:
    """How counts and categories become numbers.

    Attributes:
      numeric: what becomes of a count `x`:

        - "log1p": `log(1 + x)`, missing and negative ones 0 first (DLRM and
          TensorFlow's ranking models);
        - "log3": `log(3 + x)`, missing ones 0 first and those below -2 raised to it
          (TorchRec);
        - "raw": `x`, missing ones 0;
        - "bucket": a category: `x` up to 2, `floor(log(x)^2)` above (BARS, FuxiCTR).
      table_size: what `int(hexadecimal, 16)` is taken modulo of: one number for all 26
        columns of categories or one for each. The row of an embedding table is 1 more,
        and row 0 is for empty fields.
      min_count: with 2 or more, values that are seen less often among the training rows
        share one row of the table, and tables are only as large as the number of the
        others: see `vocabulary`. Values are counted modulo `table_size`, so give one
        that is larger than the number of distinct values.

    Raises:
      ValueError: for a value outside its range.

    Example:

    >>> Encoding("bucket", table_size=100).num_numeric
    0
    """

    numeric: str = "log1p"
    table_size: int | Sequence[int] = 512
    min_count: int = 0

    def __post_init__(self):
        if self.numeric not in NUMERIC_ENCODINGS:
            raise ValueError(
                f"`numeric` must be one of {', '.join(NUMERIC_ENCODINGS)}. Received: "
                f"numeric={self.numeric!r}"
            )
        sizes = self.table_size
        if not isinstance(sizes, int):
            sizes = tuple(sizes)
            sizes = sizes[0] if len(sizes) == 1 else sizes
            # Hashable, and the same after a way through JSON.
            object.__setattr__(self, "table_size", sizes)
        few = (sizes,) if isinstance(sizes, int) else sizes
        if min(few, default=0) < 1 or (len(few) not in (1, len(CATEGORICAL_NAMES))):
            raise ValueError(
                "`table_size` must be at least 1, one number or one for each of the "
                f"{len(CATEGORICAL_NAMES)} columns. Received: "
                f"table_size={self.table_size!r}"
            )
        if max(few) >= 2**31:
            raise ValueError(
                "`table_size` must be below 2^31: row numbers are stored as int32. "
                f"Received: table_size={self.table_size!r}"
            )
        if self.min_count < 0:
            raise ValueError(
                "`min_count` must not be negative. Received: "
                f"min_count={self.min_count!r}"
            )

    @property
    def _hash_sizes(self) -> tuple[int, ...]:
        """Of the 26 columns of categories."""
        if isinstance(self.table_size, int):
            return (self.table_size,) * len(CATEGORICAL_NAMES)
        return tuple(self.table_size)

    @property
    def table_sizes(self) -> tuple[int, ...]:
        """Rows of each table, without row 0, before a vocabulary makes them fewer."""
        buckets = (_NUM_BUCKETS,) * len(NUMERIC_NAMES)
        return (buckets if self.numeric == "bucket" else ()) + self._hash_sizes

    @property
    def num_numeric(self) -> int:
        """Number of columns that stay numbers: 13, or 0 with buckets."""
        return 0 if self.numeric == "bucket" else len(NUMERIC_NAMES)

    def encode(self, values: pl.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        """Encodes rows.

        Args:
          values: from `parsing.parse_file`.

        Returns:
          float32 `(rows, num_numeric)` and int32 `(rows, len(table_sizes))`.
        """
        counts = pl.col(*NUMERIC_NAMES)
        categorical = [
            (pl.col(name) % size + 1).fill_null(0)
            for name, size in zip(CATEGORICAL_NAMES, self._hash_sizes, strict=True)
        ]
        if self.numeric == "bucket":
            large = (counts.clip(1).cast(pl.Float64).log() ** 2).floor()
            bucket = pl.when(counts > 2).then(large.cast(pl.Int64)).otherwise(counts)
            bucket = bucket.clip(_LEAST_BUCKET, _LARGEST_BUCKET) - _LEAST_BUCKET + 1
            categorical.insert(0, bucket.fill_null(0))
            numeric = np.zeros((len(values), 0), np.float32)
        else:
            filled = counts.fill_null(0)
            encoded = {
                "log1p": filled.clip(0).cast(pl.Float64).log1p(),
                "log3": (filled.clip(-2).cast(pl.Float64) + 3.0).log(),
                "raw": filled,
            }[self.numeric]
            numeric = values.select(encoded.cast(pl.Float32)).to_numpy(order="c")
        ids = values.select(column.cast(pl.Int32) for column in categorical)
        return numeric, ids.to_numpy(order="c")

    def encode_tensors(
        self, raw: dict[str, tf.Tensor]
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Encodes raw features inside a graph, as `encode` does rows.

        Args:
          raw: for each of I1 to I13 a float64 `(batch,)`, NaN for an empty field; for
            each of C1 to C26 a string `(batch,)` as in the log, "" for an empty one.

        Returns:
          float32 `(batch, num_numeric)`, int32 `(batch, len(table_sizes))`, and bool
          `(batch,)`: whether the conversion takes such categories. In a row that it
          would leave out as bad, numbers mean nothing.

        Raises:
          tf.errors.InvalidArgumentError: if a count is infinite, which no log has.

        Example:

        >>> raw = dict.fromkeys(NUMERIC_NAMES, tf.constant([np.nan, 7.0], tf.float64))
        >>> raw |= dict.fromkeys(CATEGORICAL_NAMES, tf.constant(["", "a"]))
        >>> Encoding(table_size=100).encode_tensors(raw)[1][:, 0].numpy()
        array([ 0, 11], dtype=int32)
        """
        counts = tf.stack([raw[name] for name in NUMERIC_NAMES], axis=1)
        tf.debugging.Assert(
            ~tf.reduce_any(tf.math.is_inf(counts)),
            ["A count is infinite. Give NaN for an empty field. Received:", counts],
        )
        missing = tf.math.is_nan(counts)
        counts = tf.where(missing, tf.zeros_like(counts), counts)
        texts = tf.stack([raw[name] for name in CATEGORICAL_NAMES], axis=1)
        hexadecimal = tf.strings.regex_full_match(texts, f"({CATEGORY})?")
        valid = tf.reduce_all(hexadecimal, axis=1)
        texts = tf.where(hexadecimal, texts, "")
        words, absent = _from_hexadecimal(texts), texts == ""
        hashed = words % tf.constant(self._hash_sizes, tf.int64) + 1
        ids = tf.where(absent, tf.zeros_like(hashed), hashed)
        if self.numeric == "bucket":
            large = tf.floor(tf.math.log(tf.maximum(counts, 1.0)) ** 2)
            bucket = tf.where(counts > 2.0, large, counts)
            bucket = tf.clip_by_value(bucket, _LEAST_BUCKET, _LARGEST_BUCKET)
            bucket = tf.cast(bucket, tf.int64) - _LEAST_BUCKET + 1
            bucket = tf.where(missing, tf.zeros_like(bucket), bucket)
            ids = tf.concat([bucket, ids], axis=1)
            numeric = tf.zeros((tf.shape(ids)[0], 0))
        elif self.numeric == "log1p":
            numeric = tf.math.log1p(tf.maximum(counts, 0.0))
        elif self.numeric == "log3":
            numeric = tf.math.log(tf.maximum(counts, -2.0) + 3.0)
        else:
            numeric = counts
        return tf.cast(numeric, tf.float32), tf.cast(ids, tf.int32), valid

    def to_json(self) -> dict:
        """Returns the options, ready for JSON; `Encoding(**options)` takes them."""
        sizes = self.table_size
        return {
            "numeric": self.numeric,
            "table_size": sizes if isinstance(sizes, int) else list(sizes),
            "min_count": self.min_count,
        }


def _from_hexadecimal(texts: tf.Tensor) -> tf.Tensor:
    """Reads strings of up to 8 hexadecimal digits.

    Args:
      texts: string tensor of any shape.

    Returns:
      int64 numbers of the same shape, 0 for an empty string.
    """
    # Right-aligned with zeros, then digit by digit.
    padded = tf.strings.substr(
        tf.strings.join(["0" * CATEGORY_DIGITS, texts]),
        -CATEGORY_DIGITS,
        CATEGORY_DIGITS,
    )
    codes = tf.cast(
        tf.io.decode_raw(padded, tf.uint8, fixed_length=CATEGORY_DIGITS), tf.int64
    )
    digits = tf.where(codes < ord("A"), codes - ord("0"), codes % 32 + 9)
    powers = [16**place for place in reversed(range(CATEGORY_DIGITS))]
    return tf.reduce_sum(digits * powers, axis=-1)
