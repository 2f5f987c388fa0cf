"""Paths of files to read: on the local disk, or wherever `tf.io.gfile` reads.

`gs://` is built into TensorFlow; `s3://`, `hdfs://` and others come with
`import tensorflow_io`. Only reading goes over them. What is written relies on atomic
renames and locks, which object stores have not.
"""

import io
import os
import pathlib
from typing import Any, NamedTuple

import tensorflow as tf


class _Stat(NamedTuple):
    st_size: int
    st_mtime_ns: int


class RemotePath(pathlib.PurePosixPath):
    """What readers use of `pathlib.Path`, for an address with a scheme.

    Example:

    >>> path = RemotePath("gs://bucket/rows") / "manifest.json"
    >>> str(path), path.name
    ('gs://bucket/rows/manifest.json', 'manifest.json')
    """

    def __str__(self) -> str:
        # A path has no empty parts, and so lost a slash.
        return super().__str__().replace(":/", "://", 1)

    def __fspath__(self) -> str:
        return str(self)

    def exists(self) -> bool:
        """Whether there is such a file or folder."""
        return bool(tf.io.gfile.exists(str(self)))

    def is_dir(self) -> bool:
        """Whether it is a folder."""
        return bool(tf.io.gfile.isdir(str(self)))

    def stat(self) -> _Stat:
        """Its size in bytes, and when it was changed."""
        found = tf.io.gfile.stat(str(self))
        return _Stat(int(found.length), int(found.mtime_nsec))

    def open(self, mode: str = "rb") -> Any:
        """Opens it for reading bytes."""
        if mode != "rb":
            raise ValueError(f"`mode` must be 'rb'. Received: mode={mode!r}")
        return tf.io.gfile.GFile(str(self), "rb")

    def read_bytes(self) -> bytes:
        """Its content."""
        with self.open() as file:
            return bytes(file.read())

    def read_text(self) -> str:
        """Its content as UTF-8."""
        return self.read_bytes().decode()

    def resolve(self) -> "RemotePath":
        """Itself: it is absolute."""
        return self


Path = pathlib.Path | RemotePath


def as_path(path: str | os.PathLike) -> Path:
    """Returns a local path, or a remote one for an address with a scheme.

    Example:

    >>> type(as_path("gs://bucket/train.txt")).__name__
    'RemotePath'
    """
    if isinstance(path, RemotePath):
        return path
    text = os.fspath(path)
    return RemotePath(text) if "://" in text else pathlib.Path(text)


def local_path(name: str, path: str | os.PathLike) -> pathlib.Path:
    """Returns a path to write to.

    Args:
      name: of the argument, for the error.
      path: its value.

    Raises:
      ValueError: for an address with a scheme.

    Example:

    >>> local_path("folder", "converted").name
    'converted'
    """
    found = as_path(path)
    if isinstance(found, RemotePath):
        raise ValueError(
            f"`{name}` must be on a local disk, since what is written there relies on "
            "locks and atomic renames. Write it there, then copy it: it is read from "
            f"anywhere. Received: {name}={str(found)!r}"
        )
    return found


def content_of(path: Path) -> io.BytesIO:
    """The content of a file, for readers that jump about in it."""
    return io.BytesIO(path.read_bytes())
