"""A training that was broken off goes on only with the options that it began with."""

import argparse
import contextlib
import json
import pathlib
from collections.abc import Iterator

_FILE = "unfinished.json"


@contextlib.contextmanager
def unfinished_training(
    folder: pathlib.Path, options: argparse.Namespace, free: tuple[str, ...] = ()
) -> Iterator[None]:
    """Notes the options of a training in its folder until it is finished.

    A backup restores whatever model fits its shapes, so that other steps or another
    sparsity would go on from it and end in something that no command made.

    Args:
      folder: of the training, with its `backup` in it; made if needed.
      options: of the command line.
      free: names of options that may change on the way, such as the strategy.

    Raises:
      ValueError: if a training with other options was broken off in `folder`.

    Example:

    >>> folder = pathlib.Path("out/train")  # doctest: +SKIP
    >>> with unfinished_training(folder, options, ("output",)):  # doctest: +SKIP
    ...     model.fit(...)
    """
    kept = {name: value for name, value in vars(options).items() if name not in free}
    text = json.dumps(kept, indent=2, default=str)
    # As they are read back: lists for tuples, text for paths.
    wanted = json.loads(text)
    path, backup = folder / _FILE, folder / "backup"
    if path.exists() and backup.exists():
        begun = json.loads(path.read_text())
        other = [
            f"--{name.replace('_', '-')}: {begun.get(name)!r} then, {value!r} now"
            for name, value in wanted.items()
            if begun.get(name) != value
        ]
        if other:
            raise ValueError(
                f"A training with other options was broken off in {folder} "
                f"({'; '.join(other)}). Give the options that it began with, another "
                f"--output, or delete {backup} to begin anew."
            )
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n")
    yield
    path.unlink(missing_ok=True)
