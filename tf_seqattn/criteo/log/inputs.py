"""The files of a click log: which ones are meant, and whether they can be read."""

import codecs
import glob
import gzip
import itertools
import os
import zlib
from collections.abc import Sequence

import tensorflow as tf

from tf_seqattn.criteo.log.parsing import is_compressed
from tf_seqattn.criteo.log.paths import Path, RemotePath, as_path

# Longer marks first: that of UTF-32 begins like that of UTF-16.
_ENCODINGS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)


def find_files(paths: str | os.PathLike | Sequence) -> list[Path]:
    """Returns the files that paths and patterns name, those of a pattern sorted.

    Args:
      paths: a path, a pattern such as "day_*.gz", or several of them. Patterns are
        sorted by name, numbers by value: day_2 before day_10.

    Raises:
      FileNotFoundError: naming what does not exist or a pattern that matches nothing.
      ValueError: naming a folder, or a file that is not plain UTF-8 text.
    """
    if isinstance(paths, (str, os.PathLike)):
        paths = [paths]
    found: list[Path] = []
    for path in map(as_path, paths):
        if path.exists():
            matches = [str(path)]
        elif isinstance(path, RemotePath):
            matches = tf.io.gfile.glob(str(path))
        else:
            matches = glob.glob(str(path))
        if not matches:
            raise FileNotFoundError(f"No file matches {path}.")
        found += [as_path(match) for match in sorted(matches, key=_by_number)]
    for path in found:
        _check_file(path)
    return found


def _by_number(name: str) -> list:
    """Sorts runs of digits by value."""
    runs = itertools.groupby(name, str.isdigit)
    return [
        (0, int(text), "") if digits else (1, 0, text)
        for digits, text in ((digits, "".join(run)) for digits, run in runs)
    ]


def _check_file(path: Path) -> None:
    """Raises a ValueError unless a file can hold the text of a click log."""
    if path.is_dir():
        raise ValueError(
            f"{path} is a folder, and no conversion. Name the files in it, such as "
            f"'{path / '*'}'."
        )
    first = _first_bytes(path)
    for mark, name in _ENCODINGS:
        if first.startswith(mark):
            raise ValueError(
                f"{path} is {name} text, and a click log is UTF-8. Convert it first: "
                f"iconv -f {name} -t UTF-8 {path}"
            )
    if first.startswith(codecs.BOM_UTF8):
        raise ValueError(
            f"{path} begins with a byte-order mark, which would be part of its first "
            f"label. Remove it first: tail -c +4 {path}"
        )


def _first_bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as raw:
            file = gzip.open(raw) if is_compressed(path) else raw
            return file.read(4)
    except (EOFError, gzip.BadGzipFile, zlib.error):
        # A damaged gzip file counts as a bad row when it is parsed.
        return b""
