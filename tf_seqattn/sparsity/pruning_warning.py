"""The warning that pruning does not do what the user asked for."""

import sys
import warnings

# A warning should not point at code of these packages, but at the user's.
_INNER = ("tf_seqattn", "tf_keras", "keras", "tensorflow", "contextlib")


class PruningWarning(UserWarning):
    """A model is not, or will not be, pruned as the user asked.

    Example:

    >>> import warnings
    >>> warnings.simplefilter("error", PruningWarning)  # doctest: +SKIP
    """


def warn(message: str) -> None:
    """Issues a `PruningWarning` that points at the user's code.

    That is the innermost line outside of tf_seqattn and Keras, however deep the call.
    """
    frame = sys._getframe(1)
    while _is_inner(frame.f_globals.get("__name__", "")) and frame.f_back is not None:
        frame = frame.f_back
    warnings.warn_explicit(
        message,
        PruningWarning,
        frame.f_code.co_filename,
        frame.f_lineno,
        module=frame.f_globals.get("__name__"),
        registry=frame.f_globals.setdefault("__warningregistry__", {}),
    )


def _is_inner(module: str) -> bool:
    return module.partition(".")[0] in _INNER
