"""A training that was interrupted goes on, with the options that it began with."""

import argparse
import contextlib
import json
import pathlib
import shutil
from collections.abc import Iterator

import tensorflow as tf

import tf_seqattn as sa
from tf_seqattn.files import write_json
from tf_seqattn.keras_api import Model, keras_of
from tf_seqattn.sparsity.backup import epochs_in_backup

_FILE, _BACKUP = "unfinished.json", "backup"
# The chief writes for all workers, and Keras counts epochs from 0.
_SAVED_EPOCH = "ckpt_saved_epoch/.ATTRIBUTES/VARIABLE_VALUE"


@contextlib.contextmanager
def unfinished_training(
    folder: pathlib.Path, options: argparse.Namespace, free: tuple[str, ...] = ()
) -> Iterator[None]:
    """Notes the options of a training in its folder until all its results are there.

    A backup restores whatever model fits its shapes, so that other steps or another
    sparsity would go on from it and end in something that no command made. The backup
    is deleted at the end, so a result that is written in the context is never lost.

    Args:
      folder: of the training, with its backup in it; made if needed.
      options: of the command line.
      free: names of options that may change on the way, such as the strategy.

    Raises:
      ValueError: if a training with other options was interrupted in `folder`.

    Example:

    >>> folder = pathlib.Path("out/train")  # doctest: +SKIP
    >>> with unfinished_training(folder, options, ("output",)):  # doctest: +SKIP
    ...     model.fit(...)
    ...     write_json(folder / "result.json", result)
    """
    kept = {name: value for name, value in vars(options).items() if name not in free}
    # As they are read back: lists for tuples, text for paths.
    wanted = json.loads(json.dumps(kept, default=str))
    path, backup = folder / _FILE, folder / _BACKUP
    if path.exists() and backup.exists():
        begun = _read(path, backup)
        other = [
            f"--{name.replace('_', '-')}: {begun.get(name)!r} then, {value!r} now"
            for name, value in wanted.items()
            if begun.get(name) != value
        ]
        if other:
            raise ValueError(
                f"A training with other options was interrupted in {folder} "
                f"({'; '.join(other)}). Give the options that it began with, another "
                f"--output, or delete {backup} to begin anew."
            )
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, wanted)
    yield
    # In this order, or a kill in between would leave a backup of unknown options.
    shutil.rmtree(backup, ignore_errors=True)
    path.unlink(missing_ok=True)


def _read(path: pathlib.Path, backup: pathlib.Path) -> dict:
    try:
        begun = json.loads(path.read_text())
    except ValueError:
        begun = None
    if not isinstance(begun, dict):
        raise ValueError(
            f"{path} is damaged, so nobody knows which training was interrupted here. "
            f"Delete {backup} to begin anew."
        )
    return begun


def resumable_callbacks(model: Model, folder: pathlib.Path | None) -> list:
    """Returns the callbacks of a `model.fit` that can be resumed after each epoch.

    Args:
      model: pruned or not.
      folder: for TensorBoard's logs and the backup, which stays at the end: see
        `unfinished_training`. By default neither is written.

    Returns:
      The update of the pruning step where the model is pruned, the summaries and the
      backup.
    """
    pruned = bool(sa.pruned_layers(model))
    callbacks: list = [sa.UpdatePruningStep()] if pruned else []
    if folder is not None:
        library = keras_of(model)
        summaries = sa.PruningSummaries if pruned else library.callbacks.TensorBoard
        callbacks += [
            summaries(log_dir=str(folder / "logs")),
            sa.BackupAndRestore(folder / _BACKUP, delete_checkpoint=False),
        ]
    return callbacks


def finished_epochs(folder: pathlib.Path | None) -> int:
    """Returns how many epochs of a training its backup has, 0 without one.

    The data of a resumed training must begin after them.

    Args:
      folder: as for `resumable_callbacks`.

    Raises:
      ValueError: if the backup cannot be read, with the remedy.

    Example:

    >>> finished_epochs(None)
    0
    """
    if folder is None:
        return 0
    backup = folder / _BACKUP
    checkpoint = tf.train.latest_checkpoint(str(backup / "chief"))
    if checkpoint is None:
        return epochs_in_backup(backup)
    try:
        return int(tf.train.load_variable(checkpoint, _SAVED_EPOCH)) + 1
    except tf.errors.OpError as error:
        # TensorFlow does not say which file it cannot read.
        raise ValueError(
            f"The backup in {backup} is damaged ({error.message}). Delete it to start "
            "the training again."
        ) from error
