"""The folder of a conversion: what belongs in it, who writes to it, how it is emptied.

A folder is only ever emptied if there is nothing in it but a conversion.
"""

import contextlib
import fcntl
import pathlib
import shutil
from collections.abc import Iterator

from tf_seqattn.criteo.log.json_files import read_json
from tf_seqattn.criteo.log.manifest import MANIFEST_FILE, VOCABULARY_FILE
from tf_seqattn.files import write_json

REQUEST_FILE = "request.json"
_LOCK_FILE = "lock"
_FOLDERS = ("shards", "units")
_FILES = (MANIFEST_FILE, VOCABULARY_FILE, REQUEST_FILE)
# What `files.write_whole` leaves where it was killed.
_TEMPORARY = ".writing-"


@contextlib.contextmanager
def locked(folder: pathlib.Path) -> Iterator[None]:
    """Keeps other conversions away from a folder while it is written.

    Args:
      folder: of a conversion; made if needed.

    Raises:
      ValueError: if the folder holds anything but a conversion, or another process
        converts into it.
    """
    _check_entries(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / _LOCK_FILE, "a") as file:
        try:
            # Given back by the system too, if the process is killed.
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"Another process is converting into {folder}. Wait until it is done, "
                "or use another `folder`."
            ) from None
        yield


def _check_entries(folder: pathlib.Path) -> None:
    """Raises a ValueError if a folder holds anything but a conversion."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ValueError(
            f"`folder` must not be a file. Received: folder={str(folder)!r}"
        )
    entries = {
        path.name for path in folder.iterdir() if not path.name.startswith(_TEMPORARY)
    }
    foreign = sorted(entries - {*_FOLDERS, *_FILES, _LOCK_FILE})
    # The request is written first, so that nothing is there without it.
    if not foreign and REQUEST_FILE not in entries:
        foreign = sorted(entries - {_LOCK_FILE})
    if foreign:
        raise ValueError(
            "`folder` must be new, empty or of an earlier conversion. Received: "
            f"folder={str(folder)!r}, which has {', '.join(map(repr, foreign[:5]))}."
        )
    for name in _FOLDERS:
        if (folder / name).is_symlink():
            raise ValueError(
                f"{folder / name} is a symbolic link, and files would be deleted where "
                "it leads. Use another `folder`, or remove the link."
            )


def open_folder(folder: pathlib.Path, request: dict, overwrite: bool | str) -> None:
    """Makes a folder ready for a conversion, or for going on with it.

    Args:
      folder: of the conversion, locked.
      request: files and options of the conversion.
      overwrite: True empties the folder, and "other" does so if its rows are of another
        request.

    Raises:
      ValueError: if the folder has rows of another request, and is not to be emptied;
        or if it is to be emptied and is a symbolic link.
    """
    path = folder / REQUEST_FILE
    if overwrite is True:
        _empty(folder)
    elif path.exists():
        differences = _differences(read_json(path, "version"), request)
        if differences and not overwrite:
            listed = "\n".join(f"  {text}" for text in differences)
            raise ValueError(
                f"{folder} has rows of another conversion:\n{listed}\nUse another "
                "`folder`, or `overwrite=True`."
            )
        if differences:
            _empty(folder)
    write_json(path, request)
    for name in _FOLDERS:
        (folder / name).mkdir(exist_ok=True)


def _differences(earlier: dict, request: dict) -> list[str]:
    # How many bad rows are put up with may be raised on the way.
    return [
        f"{name}: {earlier.get(name)} there, {request.get(name)} now"
        for name in {**request, **earlier}
        if name != "max_bad_rows" and earlier.get(name) != request.get(name)
    ]


def _empty(folder: pathlib.Path) -> None:
    if not (folder / REQUEST_FILE).exists():
        return
    if folder.is_symlink():
        raise ValueError(
            f"`folder` is a symbolic link, and rows would be deleted where it leads. "
            f"Name that folder itself. Received: folder={str(folder)!r}"
        )
    # The manifest first and the request last: a kill on the way leaves a conversion
    # that is not finished, never one that looks whole.
    (folder / MANIFEST_FILE).unlink(missing_ok=True)
    for name in _FOLDERS:
        shutil.rmtree(folder / name, ignore_errors=True)
    (folder / VOCABULARY_FILE).unlink(missing_ok=True)
    (folder / REQUEST_FILE).unlink()
