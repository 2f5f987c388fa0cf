"""Writing files and folders atomically.

New content is written beside the old, flushed to the disk and renamed. A process that
is killed at any moment leaves the old content or the new, never a part of either.
"""

import contextlib
import errno
import json
import os
import pathlib
import secrets
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator
from typing import Any

Path = str | os.PathLike[str]


def _followed(path: Path) -> pathlib.Path:
    """The absolute path at the end of all symbolic links."""
    try:
        return pathlib.Path(os.path.realpath(path, strict=True))
    except FileNotFoundError:
        # Nothing is there yet, or a link leads to nothing yet.
        return pathlib.Path(os.path.realpath(path))
    except OSError as error:
        raise ValueError(f"`path` leads nowhere: {error}") from error


def _check_parent(target: pathlib.Path, path: Path) -> None:
    parent = target.parent
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise ValueError(
            f"`path` cannot be written: {str(parent)!r} is not a writable folder. Make "
            f"it first. Received: path={str(path)!r}"
        )


def check_file_path(path: Path) -> pathlib.Path:
    """Checks, before any work, that a file can be written at a path.

    Args:
      path: path of the file. An existing file will be replaced.

    Returns:
      `path` as a `pathlib.Path`.

    Raises:
      ValueError: if the path is a folder, a device or a read-only file, or the folder
        around it does not exist or is not writable.

    Example:

    >>> check_file_path("/")
    Traceback (most recent call last):
    ValueError: `path` is a folder. Received: path='/'
    """
    target = _followed(path)
    if target.is_dir():
        raise ValueError(f"`path` is a folder. Received: path={str(path)!r}")
    if target.exists() and not target.is_file():
        raise ValueError(f"`path` is not a regular file. Received: path={str(path)!r}")
    if target.exists() and not os.access(target, os.W_OK):
        raise ValueError(f"`path` is a read-only file. Received: path={str(path)!r}")
    _check_parent(target, path)
    return pathlib.Path(path)


def _entries(folder: pathlib.Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()}


def check_folder_path(
    path: Path, marker: str, others: Collection[str] = ()
) -> pathlib.Path:
    """Checks, before any work, that a folder can be written, or replaced, at a path.

    Only an empty folder, or one of the kind that will be written, is ever replaced. So
    nothing else can be lost.

    Args:
      path: path of the folder.
      marker: name of an entry that every folder of this kind has.
      others: names of all other entries that it may have.

    Returns:
      `path` as a `pathlib.Path`.

    Raises:
      ValueError: if the path is a file, a mount point, the current folder or one around
        it, holds anything else, or the folder around it does not exist or is not
        writable.

    Example:

    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = pathlib.Path(folder, "notes.txt").write_text("mine")
    ...     check_folder_path(folder, "saved_model.pb")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: `path` is a folder that holds 'notes.txt'...
    """
    target = _followed(path)
    received = f"Received: path={str(path)!r}"
    if target.exists() and not target.is_dir():
        raise ValueError(f"`path` is a file. {received}")
    if target in (here := pathlib.Path.cwd(), *here.parents):
        raise ValueError(
            "`path` is the current folder or one around it, which cannot be replaced. "
            f"Name a folder in it. {received}"
        )
    if os.path.ismount(target):
        raise ValueError(
            "`path` is a mount point, which cannot be replaced. Name a folder in it. "
            f"{received}"
        )
    _check_parent(target, path)
    found = _entries(target) if target.exists() else set()
    foreign = sorted(found - {marker, *others})
    if found and (foreign or marker not in found):
        named = ", ".join(map(repr, (foreign or sorted(found))[:5]))
        raise ValueError(
            f"`path` is a folder that holds {named}: only an empty folder, or one with "
            f"{marker!r} and nothing of yours, is replaced. Name another folder, or "
            f"remove this one yourself. {received}"
        )
    return pathlib.Path(path)


def _sync(path: Path) -> None:
    """Brings a file, or the entries of a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        # Some network file systems cannot synchronize a folder.
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(handle)


@contextlib.contextmanager
def naming_the_path(path: Path) -> Iterator[None]:
    """Adds the path to an error of the operating system, and that it is unchanged."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        cause = f"{os.strerror(error.errno)}: nothing was written, or changed, at"
        raise OSError(error.errno, cause, str(path)) from error


def write_whole(path: Path, content: bytes | str) -> None:
    """Writes a file atomically: it has all of the new content, or is unchanged.

    A replaced file keeps its mode. A symbolic link stays; the file that it points to is
    replaced.

    Args:
      path: path of the file.
      content: bytes, or text that is written as UTF-8.

    Raises:
      OSError: with the cause and the path, such as a full disk.

    Example:

    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_whole(f"{folder}/greeting.txt", "hello")
    ...     pathlib.Path(folder, "greeting.txt").read_text()
    'hello'
    """
    target = _followed(path)
    data = content.encode() if isinstance(content, str) else content
    temporary = target.parent / f".writing-{secrets.token_hex(8)}"
    with naming_the_path(path):
        try:
            with open(temporary, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            with contextlib.suppress(FileNotFoundError):
                shutil.copymode(target, temporary)
            os.replace(temporary, target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _sync(target.parent)


def write_json(path: Path, value: Any) -> None:
    """Writes a value as JSON, indented, by `write_whole`.

    Args:
      path: path of the file.
      value: anything that `json.dumps` takes.

    Raises:
      OSError: with the cause and the path, such as a full disk.
      TypeError: if JSON has no such value. Nothing is written then.

    Example:

    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_json(f"{folder}/figures.json", {"rows": 3})
    ...     json.loads(pathlib.Path(folder, "figures.json").read_text())
    {'rows': 3}
    """
    write_whole(path, json.dumps(value, indent=2) + "\n")


def replace_folder(
    path: Path,
    write: Callable[[pathlib.Path], object],
    marker: str,
    others: Collection[str] = (),
) -> None:
    """Writes a folder atomically: it has all of the new content, or is unchanged.

    It is written beside its place. Then the old folder is renamed, the new one takes
    its name, and the old one is deleted. A process killed between the two renames
    leaves both folders, whole, in one named `.writing-...` beside the path.

    Args:
      path: path of the folder. `check_folder_path` says what may be replaced; call it
        before the work as well.
      write: called with the path of an empty folder, which it fills. It may check what
        it wrote: if it raises an error, the path is untouched.
      marker: see `check_folder_path`.
      others: see `check_folder_path`.

    Raises:
      ValueError: see `check_folder_path`.
      OSError: with the cause and the path, such as a full disk.

    Example:

    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write = lambda new: (new / "manifest.json").write_text("{}")
    ...     replace_folder(f"{folder}/log", write, "manifest.json")
    ...     [path.name for path in pathlib.Path(folder, "log").iterdir()]
    ['manifest.json']
    """
    check_folder_path(path, marker, others)
    target = _followed(path)
    with naming_the_path(path):
        room = pathlib.Path(tempfile.mkdtemp(prefix=".writing-", dir=target.parent))
        new, old = room / "new", room / "old"
        try:
            new.mkdir()
            write(new)
            for folder, _, names in os.walk(new):
                for name in names:
                    _sync(os.path.join(folder, name))
                _sync(folder)
            check_folder_path(path, marker, others)
            if target.exists():
                shutil.copymode(target, new)
                os.rename(target, old)
            try:
                os.rename(new, target)
            except BaseException:
                if old.exists():
                    os.rename(old, target)
                raise
            _sync(target.parent)
        finally:
            shutil.rmtree(room, ignore_errors=True)
