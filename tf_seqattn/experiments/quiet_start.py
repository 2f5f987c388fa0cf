"""Starts TensorFlow for a command without the chatter of its C++.

While it is loaded, and looks for devices, TensorFlow writes lines that frighten and
mean nothing: which processor it was built for, and that there is no graphics card. They
come before any setting takes hold. So what is written to standard error until then is
kept back, and shown without those lines. What comes later, and any other line, is left
as it is.
"""

import contextlib
import glob
import os
import re
import sys
import tempfile
from collections.abc import Iterator

_INFORMATION = re.compile(
    rb"I\d{4} |To enable the following instructions|"
    rb"WARNING: All log messages before absl::InitializeLog"
)
_NO_CARD = re.compile(rb"E\d{4} .*failed call to cuInit")


def start_quietly() -> None:
    """Loads TensorFlow, where this process was started as a command of this package.

    Called before TensorFlow is imported. In any other process it does nothing.
    """
    # Python's own mark while it looks for the module that it is going to run.
    if sys.argv[:1] != ["-m"] or "tensorflow" in sys.modules:
        return
    module = next(iter(sys.orig_argv[sys.orig_argv.index("-m") + 1 :]), "")
    if module.split(".")[0] != __name__.split(".")[0]:
        return
    # Warnings too: those of the converter to TFLite are about its own ways.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with _held_back():
        import tensorflow as tf

        tf.config.list_physical_devices()


def without_chatter(lines: list[bytes], has_card: bool) -> list[bytes]:
    """Returns lines of TensorFlow's log that say something to a user.

    Args:
      lines: as written to standard error.
      has_card: whether there is an NVIDIA card, of which an error is no chatter.

    Example:

    >>> without_chatter([b"I0000 no CUDA drivers", b"E0000 out of memory"], False)
    [b'E0000 out of memory']
    """
    return [
        line
        for line in lines
        if not _INFORMATION.match(line) and (has_card or not _NO_CARD.match(line))
    ]


@contextlib.contextmanager
def _held_back() -> Iterator[None]:
    """Shows what is written to standard error at the end, without chatter."""
    sys.stderr.flush()
    original = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(original, 2)
            os.close(original)
            held.seek(0)
            has_card = bool(glob.glob("/dev/nvidia[0-9]*"))
            for line in without_chatter(held.readlines(), has_card):
                os.write(2, line)
