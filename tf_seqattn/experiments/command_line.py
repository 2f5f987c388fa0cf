"""What the command lines of all applications share: arguments, errors, the command.

An argument is checked when it is read, before any work. `argparse` shows what a check
says beside the name of the argument.
"""

import argparse
import contextlib
import errno
import importlib.util
import math
import os
import pathlib
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence

_PACKAGE = pathlib.Path(__file__).parents[1]
_LARGEST_SEED = 2**32 - 1


def make_parser(module: str, description: str) -> argparse.ArgumentParser:
    """Returns a parser for `python -m module` that shows defaults in its help.

    Args:
      module: full name.
      description: its first line is shown.
    """
    return argparse.ArgumentParser(
        prog=f"python -m {module}",
        description=description.splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )


def command_text(module: str, arguments: Sequence[str] | None) -> str:
    """Returns the command that makes a result, to be written down with it.

    Args:
      module: full name.
      arguments: in place of those of this process.

    Example:

    >>> command_text("tf_seqattn.digits", ["--output", "my digits"])
    "python -m tf_seqattn.digits --output 'my digits'"
    """
    given = sys.argv[1:] if arguments is None else arguments
    return shlex.join(["python", "-m", module, *map(str, given)])


def integer(low: int, high: int | None = None) -> Callable[[str], int]:
    """Returns a check for whole numbers from `low` to `high`, for `type=`.

    Example:

    >>> integer(1)("12")
    12
    """
    limits = f"from {low} to {high}" if high is not None else f"of at least {low}"

    def check(text: str) -> int:
        with contextlib.suppress(ValueError):
            value = int(text)
            if value >= low and (high is None or value <= high):
                return value
        raise argparse.ArgumentTypeError(
            f"must be a whole number {limits}. Received: {text}"
        )

    return check


positive_int = integer(1)
non_negative_int = integer(0)
seed = integer(0, _LARGEST_SEED)


def _number(text: str, fits: Callable[[float], bool], wanted: str) -> float:
    with contextlib.suppress(ValueError):
        value = float(text)
        if math.isfinite(value) and fits(value):
            return value
    raise argparse.ArgumentTypeError(f"must be {wanted}. Received: {text}")


def share(text: str) -> float:
    """Reads a share from 0 to 1, without 1.

    Example:

    >>> share("0.9")
    0.9
    """
    return _number(text, lambda x: 0 <= x < 1, "in [0, 1), such as 0.9")


def positive_share(text: str) -> float:
    """Reads a share between 0 and 1, without both."""
    return _number(text, lambda x: 0 < x < 1, "in (0, 1), such as 0.1")


def positive_number(text: str) -> float:
    """Reads a number above 0."""
    return _number(text, lambda x: x > 0, "a number above 0")


def non_negative_number(text: str) -> float:
    """Reads a number that is not below 0."""
    return _number(text, lambda x: x >= 0, "a number of at least 0")


def output_folder(text: str) -> pathlib.Path:
    """Reads the path of a folder that can be written to, or made."""
    if "://" in text:
        # A path would quietly become a local folder named after the scheme.
        raise argparse.ArgumentTypeError(
            "must be on a local disk, from which you can copy the folder. Received: "
            + text
        )
    folder = pathlib.Path(text)
    there = next(p for p in (folder, *folder.absolute().parents) if os.path.lexists(p))
    if not there.is_dir():
        raise argparse.ArgumentTypeError(
            f"must be a folder, or a new name in one: {there} is no folder"
        )
    if not os.access(there, os.W_OK):
        raise argparse.ArgumentTypeError(f"must be writable: {there} is not")
    return folder


def file_stem(text: str) -> str:
    """Reads the name of a file, without a folder and a suffix of its own."""
    if not text or pathlib.Path(text).name != text:
        raise argparse.ArgumentTypeError(
            f"must be a name without a folder. Received: {text!r}"
        )
    return text


@contextlib.contextmanager
def checking(parser: argparse.ArgumentParser) -> Iterator[None]:
    """Makes the errors of a `with` block those of the command line.

    For arguments that are checked together, or by what takes them.

    Args:
      parser: says how the command is used, and ends the process.
    """
    try:
        yield
    except (ValueError, FileNotFoundError) as error:
        parser.error(str(error))


def require_extra(extra: str, *modules: str) -> None:
    """Makes sure that what an extra of this package installs is there.

    Called by the `__init__.py` of an application, before it imports any of it.

    Args:
      extra: name of the extra in `setup.cfg`.
      modules: what the application imports.

    Raises:
      ImportError: if a module is missing. Where the application is run by `python -m`,
        the process ends instead, with the same line and no traceback.

    Example:

    >>> require_extra("digits", "sklearn")
    """
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if not missing:
        return
    text = (
        f"This application needs {', '.join(missing)}: "
        f"pip install 'tf-seqattn[{extra}]'"
    )
    # Python's own mark while it looks for the module that it is going to run.
    if sys.argv[:1] == ["-m"]:
        sys.exit(f"error: {text}")
    raise ImportError(text)


def run(main: Callable[[], object]) -> None:
    """Runs an application: what a user can mend is one line, without a traceback.

    Args:
      main: an error of its own package, such as a missing file or a bad value, ends
        the process with the text of the error. So does a full disk, wherever it is
        met. Any other error goes on.
    """
    try:
        main()
    except Exception as error:
        if (full := _full_disk(error)) is not None:
            sys.exit(f"error: {full}. Make room, and give the same command again.")
        ours = isinstance(error, (ValueError, OSError, ImportError))
        if not ours or not _raised_by_this_package(error):
            raise
        sys.exit(f"error: {error}")


def _full_disk(error: Exception) -> str | None:
    """The line of an error that says so, without the notes of TensorFlow."""
    causes = [os.strerror(number) for number in (errno.ENOSPC, errno.EDQUOT)]
    for line in str(error).splitlines():
        if any(cause in line for cause in causes):
            return re.sub(r"\{\{.*?\}\}|\[Op:.*?\]", "", line).strip()
    return None


def _raised_by_this_package(error: BaseException) -> bool:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return False
    file = pathlib.Path(trace.tb_frame.f_code.co_filename)
    return file.is_relative_to(_PACKAGE)
