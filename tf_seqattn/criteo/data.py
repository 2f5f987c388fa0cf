"""Reads click logs in the Kaggle format, fast, and feeds them to training.

A row is `label, I1..I13, C1..C26`, separated by tabs, without a header: see
https://www.kaggle.com/c/criteo-display-ad-challenge. The preprocessing is the common
one: missing and negative counts become 0, then `log(x + 1)`; a category becomes the
row `1 + int(hexadecimal, 16) % table_size` of its embedding table, and row 0 is for
empty fields.

The file is read into memory (about 160 bytes a row), so one machine's worth of
it; a file of text is parsed once and its arrays are kept beside it.
"""

import dataclasses
import gzip
import json
import logging
import pathlib
from collections.abc import Iterator

import numpy as np
import polars as pl
import tensorflow as tf

from tf_seqattn.criteo.progress import progress_bar

logger = logging.getLogger("tf_seqattn")

NUMERIC_NAMES = tuple(f"I{number}" for number in range(1, 14))
CATEGORICAL_NAMES = tuple(f"C{number}" for number in range(1, 27))
FIELD_NAMES = (*NUMERIC_NAMES, *CATEGORICAL_NAMES)
COLUMNS = ("label", *FIELD_NAMES)
_BLOCK_BYTES = 32 * 2**20
_TAB, _NEWLINE = 9, 10
_QUOTED = 5
_ARRAYS = ("numeric", "categorical", "labels")


@dataclasses.dataclass(frozen=True)
class Clicks:
    """Rows of a click log as arrays, in the order of the file.

    Attributes:
      numeric: float32 `(rows, 13)`: `log(1 + max(count, 0))`.
      categorical: int32 `(rows, 26)`: rows of the embedding tables, 0 for an empty
        field, otherwise 1 to `table_size`.
      labels: float32 `(rows,)`: 1 for a click, 0 for none.
      bad_rows: number of lines that could not be read and are not in the arrays.
    """

    numeric: np.ndarray
    categorical: np.ndarray
    labels: np.ndarray
    bad_rows: int = 0

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: slice) -> "Clicks":
        """The rows of a slice; `bad_rows` stays that of the file."""
        return Clicks(
            self.numeric[rows], self.categorical[rows], self.labels[rows], self.bad_rows
        )

    def features(self) -> dict[str, np.ndarray]:
        """What the network takes: `{"numeric": ..., "categorical": ...}`."""
        return {"numeric": self.numeric, "categorical": self.categorical}


class _BadRows:
    """Counts the lines that cannot be read, quotes the first, stops at a limit."""

    def __init__(self, path: pathlib.Path, limit: int):
        self.path = path
        self.limit = limit
        self.count = 0
        self.quotes: list[str] = []

    def add(self, line_number: int, line: bytes, reason: str) -> None:
        self.count += 1
        if len(self.quotes) < _QUOTED:
            text = line.decode("utf-8", errors="replace")
            text = text if len(text) <= 80 else text[:77] + "..."
            self.quotes.append(f"  {self.path}:{line_number}: {reason}: {text!r}")
        if self.count > self.limit:
            raise ValueError(f"{self.describe()}\nMend the file or raise max_bad_rows.")

    def describe(self) -> str:
        listed = "\n".join(self.quotes)
        return (
            f"{self.count} bad rows so far in {self.path} (max_bad_rows={self.limit}):"
            f"\n{listed}"
        )


def _whole_line_blocks(file) -> Iterator[bytes]:
    """Yields the bytes of a file in blocks that end where a line does."""
    rest = b""
    while block := file.read(_BLOCK_BYTES):
        end = block.rfind(b"\n") + 1
        if end:
            yield rest + block[:end]
            rest = block[end:]
        else:
            rest += block
    if rest:
        yield rest + b"\n"


def _without_wrong_widths(block: bytes, first_line: int, bad: _BadRows):
    """Takes out lines that have another number of columns than a row has.

    Args:
      block: whole lines.
      first_line: number of the first of them in the file, from 1.
      bad: where lines that are taken out are noted.

    Returns:
      The remaining lines, and the array of their numbers.
    """
    characters = np.frombuffer(block, np.uint8)
    ends = np.flatnonzero(characters == _NEWLINE)
    tabs = np.flatnonzero(characters == _TAB)
    widths = np.diff(np.searchsorted(tabs, ends), prepend=0) + 1
    numbers = first_line + np.arange(len(ends))
    wrong = np.flatnonzero(widths != len(COLUMNS))
    if not len(wrong):
        return block, numbers
    starts = np.concatenate([[0], ends[:-1] + 1])
    for i in wrong:
        line = block[starts[i] : ends[i]]
        bad.add(numbers[i], line, f"{widths[i]} columns instead of {len(COLUMNS)}")
    lines = block.split(b"\n")
    kept = np.delete(np.arange(len(ends)), wrong)
    return b"".join(lines[i] + b"\n" for i in kept), numbers[kept]


def _parse(block: bytes, numbers: np.ndarray, table_size: int, bad: _BadRows) -> Clicks:
    """Turns lines of the right width into arrays, bad values noted and left out."""
    text = pl.read_csv(
        block,
        has_header=False,
        separator="\t",
        quote_char=None,
        schema=dict.fromkeys(COLUMNS, pl.String),
    )
    values = text.select(
        pl.col("label").cast(pl.Int8, strict=False),
        pl.col(*NUMERIC_NAMES).cast(pl.Int64, strict=False),
        pl.col(*CATEGORICAL_NAMES).str.to_integer(
            base=16, dtype=pl.UInt32, strict=False
        ),
    )
    is_bad = {"label": ~text["label"].is_in(["0", "1"]).fill_null(False)}
    for name in FIELD_NAMES:
        # Empty text is null too, and is no fault.
        if values[name].null_count() > text[name].null_count():
            is_bad[name] = values[name].is_null() & text[name].is_not_null()
    keep = np.ones(len(text), bool)
    for flags in is_bad.values():
        keep &= ~flags.to_numpy()
    if not keep.all():
        for i in np.flatnonzero(~keep):
            names = [name for name, flags in is_bad.items() if flags[int(i)]]
            line = "\t".join(value or "" for value in text.row(int(i)))
            bad.add(numbers[i], line.encode(), f"bad {', '.join(names)}")
        values = values.filter(pl.Series(keep))
    numeric = values.select(
        pl.col(*NUMERIC_NAMES).fill_null(0).clip(0).cast(pl.Float64).log1p()
    )
    categorical = values.select(
        (pl.col(*CATEGORICAL_NAMES) % table_size + 1).fill_null(0).cast(pl.Int32)
    )
    return Clicks(
        numeric.cast(pl.Float32).to_numpy(order="c"),
        categorical.to_numpy(order="c"),
        values["label"].cast(pl.Float32).to_numpy(),
    )


def parse_criteo(
    path: pathlib.Path | str,
    table_size: int = 512,
    max_rows: int | None = None,
    max_bad_rows: int = 100,
    progress: bool = True,
) -> Clicks:
    """Parses a click log of the Kaggle format, plain or compressed (`.gz`).

    A line is bad if it has not 40 columns, a label other than 0 and 1, a count that
    is no integer or a category that is not hexadecimal (of up to 32 bits). Bad
    lines are left out and counted, and the first five are quoted in a warning.

    Args:
      path: of the file.
      table_size: what categories are taken modulo of, for each column, 1 or more.
      max_rows: number of good rows to read; all by default.
      max_bad_rows: number of bad lines that is put up with.
      progress: whether to show a progress bar.

    Returns:
      `Clicks`, of at least one row.

    Raises:
      ValueError: for a file without a good row, for more than `max_bad_rows` bad
        lines (quoting the first with their numbers), or a bad argument.
      FileNotFoundError: if there is no such file.
    """
    if table_size < 1:
        raise ValueError(
            f"`table_size` must be at least 1. Received: table_size={table_size!r}"
        )
    path = pathlib.Path(path)
    bad = _BadRows(path, max_bad_rows)
    parts: list[Clicks] = []
    rows, line_number = 0, 1
    with (
        open(path, "rb") as raw,
        gzip.open(raw, "rb") if path.suffix == ".gz" else raw as file,
        progress_bar(path.stat().st_size, "B", "Parsing", progress) as bar,
    ):
        for block in _whole_line_blocks(file):
            bar.update(raw.tell() - bar.n)
            lines = block.count(b"\n")
            good, numbers = _without_wrong_widths(block, line_number, bad)
            line_number += lines
            if good:
                parts.append(_parse(good, numbers, table_size, bad))
                rows += len(parts[-1])
            if max_rows is not None and rows >= max_rows:
                break
    if bad.count:
        logger.warning("%s", bad.describe())
    if not rows:
        raise ValueError(
            f"{path} has no row that can be read. Expected lines of {len(COLUMNS)} "
            "tab-separated columns: label, I1..I13, C1..C26 (the Kaggle train.txt)."
        )
    joined = [np.concatenate([getattr(p, name) for p in parts]) for name in _ARRAYS]
    return Clicks(*joined, bad_rows=bad.count)[:max_rows]


def read_criteo(
    path: pathlib.Path | str,
    table_size: int = 512,
    max_rows: int | None = None,
    max_bad_rows: int = 100,
    cache: pathlib.Path | str | None = None,
    progress: bool = True,
) -> Clicks:
    """Reads a click log, from the arrays of an earlier call if there are any.

    Args:
      path: of the file, plain or `.gz`; see `parse_criteo`.
      table_size: what categories are taken modulo of.
      max_rows: number of rows to read; all by default.
      max_bad_rows: number of bad lines that is put up with.
      cache: folder for the arrays; by default `<path>.arrays`. They are made
        anew if the file (by size and time of change) or an argument differs.
      progress: whether to show a progress bar.

    Returns:
      `Clicks`, its arrays mapped into memory.

    Raises:
      ValueError: as `parse_criteo`.

    Example:

    >>> clicks = read_criteo("train.txt")  # doctest: +SKIP
    >>> clicks.numeric.shape  # doctest: +SKIP
    (45840617, 13)
    """
    path = pathlib.Path(path)
    cache = pathlib.Path(cache or path.with_name(path.name + ".arrays"))
    status = path.stat()
    key = {
        "file_bytes": status.st_size,
        "file_changed_ns": status.st_mtime_ns,
        "table_size": table_size,
        "max_rows": max_rows,
    }
    description = cache / "description.json"
    known = json.loads(description.read_text()) if description.exists() else {}
    if {name: known.get(name) for name in key} != key or (
        known["bad_rows"] > max_bad_rows
    ):
        clicks = parse_criteo(path, table_size, max_rows, max_bad_rows, progress)
        cache.mkdir(parents=True, exist_ok=True)
        description.unlink(missing_ok=True)
        for name in _ARRAYS:
            np.save(cache / f"{name}.npy", getattr(clicks, name))
        # Written last: a parse that was broken off leaves no description.
        known = {**key, "bad_rows": clicks.bad_rows}
        description.write_text(json.dumps(known, indent=2) + "\n")
    elif known["bad_rows"]:
        logger.warning(
            "%d bad rows of %s were left out when it was parsed; remove %s to see "
            "them quoted again.",
            known["bad_rows"],
            path,
            cache,
        )
    arrays = [np.load(cache / f"{name}.npy", mmap_mode="r") for name in _ARRAYS]
    return Clicks(*arrays, bad_rows=known["bad_rows"])


def split_by_time(clicks: Clicks, validation_fraction: float) -> tuple[Clicks, Clicks]:
    """Splits a log in the order of time: the last rows are for validation.

    Args:
      clicks: rows in the order of time.
      validation_fraction: share of them to hold out, strictly between 0 and 1.

    Returns:
      Training rows and validation rows, at least one of each.

    Raises:
      ValueError: if either part would have no row.
    """
    held_out = round(len(clicks) * validation_fraction)
    if not 0 < held_out < len(clicks):
        raise ValueError(
            "`validation_fraction` must leave at least one row on both sides. Received:"
            f" validation_fraction={validation_fraction!r} of {len(clicks)} rows"
        )
    return clicks[: len(clicks) - held_out], clicks[len(clicks) - held_out :]


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
            "numeric": tf.TensorSpec((None, len(NUMERIC_NAMES)), tf.float32),
            "categorical": tf.TensorSpec((None, len(CATEGORICAL_NAMES)), tf.int32),
        },
        tf.TensorSpec((None,), tf.float32),
    )
    dataset = tf.data.Dataset.from_generator(batches, output_signature=signature)
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(len(starts)))
    return dataset.prefetch(2)
