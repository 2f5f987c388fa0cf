"""Parses click logs of the Kaggle and the 1 TB format, plain or gzip, block by block.

A row is `label, I1..I13, C1..C26`, separated by tabs, without a header: see
https://www.kaggle.com/c/criteo-display-ad-challenge. Counts are integers, may be
negative and may be empty; categories are hexadecimal, of up to 32 bits, and may be
empty. Memory is bounded by the size of a block, however large the file.
"""

import gzip
import os
import zlib
from collections.abc import Callable, Iterator

import numpy as np
import polars as pl

from tf_seqattn.criteo.log.bad_rows import BadRows
from tf_seqattn.criteo.log.fields import (
    CATEGORICAL_NAMES,
    CATEGORY,
    CATEGORY_DIGITS,
    COLUMNS,
    COUNT,
    FIELD_NAMES,
    NUMERIC_NAMES,
)
from tf_seqattn.criteo.log.paths import Path, as_path

_BLOCK_BYTES = 32 * 2**20
_TAB, _NEWLINE = 9, 10


def is_compressed(path: Path) -> bool:
    """Whether a file is gzip, which can only be read from its beginning."""
    return path.suffix == ".gz"


def _decompressed(path: Path, progress: Callable[[int], None]) -> Iterator[bytes]:
    """Yields the content of a gzip file; all that can be had before an error."""
    told = 0
    with path.open("rb") as raw, gzip.open(raw, "rb") as file:
        parts: list[bytes] = []
        while True:
            try:
                part = file.read1(2**20)
            except (EOFError, gzip.BadGzipFile, zlib.error):
                yield b"".join(parts)
                raise
            parts.append(part)
            if not part or sum(map(len, parts)) >= _BLOCK_BYTES:
                progress(raw.tell() - told)
                told = raw.tell()
                yield b"".join(parts)
                parts = []
            if not part:
                return


def _plain(
    path: Path, start: int, stop: int, progress: Callable[[int], None]
) -> Iterator[bytes]:
    """Yields the bytes of the lines that begin in `[start, stop)`."""
    with path.open("rb") as file:
        if start:
            # A line that began before belongs to the part before.
            file.seek(start - 1)
            file.readline()
        told = start
        while file.tell() < stop:
            block = file.read(min(_BLOCK_BYTES, stop - file.tell()))
            if not block:
                return
            if file.tell() >= stop and not block.endswith(b"\n"):
                # The last line goes on to its end.
                block += file.readline()
            progress(min(file.tell(), stop) - told)
            told = min(file.tell(), stop)
            yield block


def _whole_lines(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Cuts the same bytes where lines end; the last line gets its end."""
    rest = b""
    for block in blocks:
        end = block.rfind(b"\n") + 1
        if end:
            yield rest + block[:end]
            rest = block[end:]
        else:
            rest += block
    if rest:
        yield rest + b"\n"


def _without_wrong_widths(block: bytes, first_line: int, bad: BadRows):
    """Takes out lines that have another number of columns than a row has.

    Args:
      block: whole lines.
      first_line: number of the first of them, from 1.
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


def _without_invalid_text(
    block: bytes, numbers: np.ndarray, bad: BadRows
) -> tuple[bytes, np.ndarray]:
    """Takes out lines that are not UTF-8.

    Args:
      block: whole lines.
      numbers: of the lines.
      bad: where lines that are taken out are noted.

    Returns:
      The remaining lines, and the array of their numbers.
    """
    if _is_text(block):
        return block, numbers
    lines = block.split(b"\n")[:-1]
    valid = np.array([_is_text(line) for line in lines], bool)
    for i in np.flatnonzero(~valid):
        bad.add(numbers[i], lines[i], "not UTF-8 text")
    kept = np.flatnonzero(valid)
    return b"".join(lines[i] + b"\n" for i in kept), numbers[kept]


def _is_text(content: bytes) -> bool:
    if content.isascii():
        return True
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


def _values(block: bytes, numbers: np.ndarray, bad: BadRows) -> pl.DataFrame:
    """Turns lines of the right width into numbers, bad ones noted and left out."""
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
        grammar = COUNT if name in NUMERIC_NAMES else CATEGORY
        # Empty text is null too, and is no fault.
        unread = values[name].null_count() > text[name].null_count()
        if unread or _may_break(grammar, text[name]):
            fits = text[name].str.contains(f"^(?:{grammar})$").fill_null(True)
            is_bad[name] = ~fits | (values[name].is_null() & text[name].is_not_null())
    keep = np.ones(len(text), bool)
    for flags in is_bad.values():
        keep &= ~flags.to_numpy()
    if keep.all():
        return values
    for i in np.flatnonzero(~keep):
        names = [name for name, flags in is_bad.items() if flags[int(i)]]
        line = "\t".join(value or "" for value in text.row(int(i)))
        bad.add(numbers[i], line.encode(), f"bad {', '.join(names)}")
    return values.filter(pl.Series(keep))


def _may_break(grammar: str, text: pl.Series) -> bool:
    """Whether polars may have read what the grammar of a field does not allow.

    It takes signs, and zeros before a number of any length. To look at lengths costs
    far less than to match every value.
    """
    if grammar == COUNT:
        return bool(text.str.starts_with("+").any())
    long = text.str.len_bytes().max()
    return (long or 0) > CATEGORY_DIGITS or bool(text.str.contains("[+-]").any())


def parse_file(
    path: str | os.PathLike,
    bad: BadRows,
    start: int = 0,
    stop: int | None = None,
    progress: Callable[[int], None] = lambda num_bytes: None,
) -> Iterator[pl.DataFrame]:
    """Parses a file, or the lines that begin in a range of its bytes.

    A line is bad if it is not UTF-8, has not 40 columns, or has a label other than 0
    and 1, a count that is no 64-bit integer in plain digits, or a category that is not
    1 to 8 hexadecimal digits. A compressed file that breaks off, and a file of no
    bytes, count as one bad row more.

    Args:
      path: of the file, plain or compressed (`.gz`).
      bad: where bad lines are noted; their numbers count from `start`.
      start: first byte of the range, 0 for a compressed file.
      stop: byte after the range; to the end by default.
      progress: called with the number of bytes of the file read since the last call.

    Yields:
      Blocks of rows in their order: `label` Int8, `I1..I13` Int64, `C1..C26` UInt32,
      null for an empty field.

    Raises:
      TooManyBadRows: if `bad` has taken all it may.
      FileNotFoundError: if there is no such file.

    Example:

    >>> bad = BadRows(limit=100)
    >>> for rows in parse_file("train.txt", bad):  # doctest: +SKIP
    ...     print(len(rows))
    """
    path = as_path(path)
    line, size = 1, path.stat().st_size
    if not size:
        bad.add(line, b"", "an empty file")
        return
    blocks = _whole_lines(
        _decompressed(path, progress)
        if is_compressed(path)
        else _plain(path, start, size if stop is None else stop, progress)
    )
    while True:
        try:
            block = next(blocks)
        except StopIteration:
            return
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            # What came before has been yielded, but for the line that is cut off.
            bad.add(line, b"", f"the compressed data break off here: {error}")
            return
        good, numbers = _without_wrong_widths(block, line, bad)
        good, numbers = _without_invalid_text(good, numbers, bad)
        line += block.count(b"\n")
        if good:
            yield _values(good, numbers, bad)


def lines_before(path: str | os.PathLike, start: int) -> int:
    """Returns how many lines of a file begin before a byte, for messages."""
    if not start:
        return 0
    with as_path(path).open("rb") as file:
        file.seek(start - 1)
        file.readline()
        left, lines = file.tell(), 0
        file.seek(0)
        while left and (block := file.read(min(_BLOCK_BYTES, left))):
            left -= len(block)
            lines += block.count(b"\n")
    return lines
