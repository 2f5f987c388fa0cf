"""Backups of a training run that survive a kill while one of them is written."""

import hashlib
import json
import logging
import os
import pathlib
import shutil
from typing import Any

import tensorflow as tf

from tf_seqattn.keras_api import Callback, Logs, Model, keras3, keras_of

logger = logging.getLogger("tf_seqattn")

_WEIGHTS = "latest.weights.h5"
_STATE = "state.json"


class BackupAndRestore(Callback):
    """Keras's `BackupAndRestore`, with backups that are never half written.

    Keras 3 overwrites its only backup, so a kill at that moment leaves a truncated file
    and no way to resume. This callback writes a new backup beside the last one, keeps
    two, checks what it reads, and falls back to the older one with a line in the log.
    In Keras 2 it uses Keras's own callback, which writes checkpoints of TensorFlow.
    A kill does not damage these, but there is only one.

    Args:
      backup_dir: folder for the backups of one training run, and nothing else.
      save_freq: "epoch", or a number of training steps between two backups.
      delete_checkpoint: whether to delete the backups when training ends.

    Raises:
      ValueError: when training begins, if no backup in the folder is intact. It names
        the folder.

    Example:

    >>> callbacks = [BackupAndRestore("backup")]  # beside sa.UpdatePruningStep()
    """

    def __init__(
        self,
        backup_dir: str | os.PathLike[str],
        save_freq: str | int = "epoch",
        delete_checkpoint: bool = True,
    ) -> None:
        super().__init__()
        self.backup_dir = os.fspath(backup_dir)
        self.save_freq = save_freq
        self.delete_checkpoint = delete_checkpoint
        self._backup: Any = None

    def set_model(self, model: Model) -> None:
        super().set_model(model)
        library = keras_of(model)
        kind = _Backup3 if library is keras3 else library.callbacks.BackupAndRestore
        self._backup = kind(
            self.backup_dir,
            save_freq=self.save_freq,
            delete_checkpoint=self.delete_checkpoint,
        )
        self._backup.set_params(self.params)
        self._backup.set_model(model)

    def on_train_begin(self, logs: Logs = None) -> None:
        try:
            self._backup.on_train_begin(logs)
        except (tf.errors.OpError, IndexError) as error:
            # TensorFlow does not say which file of a checkpoint it cannot read. Of one
            # that is too short it raises an `IndexError`.
            raise ValueError(
                f"The backup in {self.backup_dir!r} is damaged ({error}). "
                "Delete the folder to start the training again."
            ) from error

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        self._backup.on_epoch_begin(epoch, logs)

    def on_train_batch_begin(self, batch: int, logs: Logs = None) -> None:
        self._backup.on_train_batch_begin(batch, logs)

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        self._backup.on_train_batch_end(batch, logs)

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        self._backup.on_epoch_end(epoch, logs)

    def on_train_end(self, logs: Logs = None) -> None:
        self._backup.on_train_end(logs)


class _Backup3(keras3.callbacks.BackupAndRestore):
    """The callback of Keras 3: it decides when to write, we decide what.

    Every backup is a folder of its own, `backup-1`, `backup-2` and so on.
    """

    def on_train_begin(self, logs: Logs = None) -> None:
        if not self.model.built:
            raise ValueError(
                f"Model {self.model.name!r} is not built, so no backup could be "
                "restored. Call it on a batch, `model(batch)`, before `fit`."
            )
        backups = _backups(pathlib.Path(self.backup_dir))
        for backup in reversed(backups):
            problem = _why_damaged(backup)
            if problem is None:
                self._restore(backup)
                return
            logger.warning("Backup %s is skipped: %s.", backup, problem)
        if backups:
            raise ValueError(
                f"No backup in {self.backup_dir!r} is intact. Delete the folder to "
                "start the training again."
            )

    def _restore(self, backup: pathlib.Path) -> None:
        optimizer = self.model.optimizer
        if optimizer is not None and not optimizer.built:
            # Its variables must exist before they are loaded.
            optimizer.build(self.model.trainable_variables)
        self.model.load_weights(backup / _WEIGHTS)
        state = json.loads((backup / _STATE).read_text())
        self.model._initial_epoch = state["epoch"]

    def _save_model(self) -> None:
        folder = pathlib.Path(self.backup_dir)
        unfinished = folder / "unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        self.model.save_weights(unfinished / _WEIGHTS)
        state = {
            "epoch": self._current_epoch,
            "batch": self._last_batch_seen,
            "sha256": _digest(unfinished / _WEIGHTS),
        }
        (unfinished / _STATE).write_text(json.dumps(state))
        for path in (unfinished / _WEIGHTS, unfinished / _STATE, unfinished):
            _write_through(path)
        before = _backups(folder)
        number = _number(before[-1]) + 1 if before else 1
        unfinished.rename(folder / f"backup-{number}")
        _write_through(folder)
        for old in before[:-1]:
            shutil.rmtree(old)


def epochs_in_backup(folder: pathlib.Path) -> int:
    """How many epochs the newest intact backup of a Keras 3 model has, 0 without one.

    Args:
      folder: `backup_dir` of a `BackupAndRestore` that writes after each epoch.
    """
    intact = (b for b in reversed(_backups(folder)) if _why_damaged(b) is None)
    newest = next(intact, None)
    if newest is None:
        return 0
    return int(json.loads((newest / _STATE).read_text())["epoch"])


def _number(backup: pathlib.Path) -> int:
    return int(backup.name.partition("-")[2])


def _backups(folder: pathlib.Path) -> list[pathlib.Path]:
    """The backups in a folder, the oldest first."""
    return sorted(folder.glob("backup-*"), key=_number)


def _digest(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while part := file.read(1 << 20):
            digest.update(part)
    return digest.hexdigest()


def _why_damaged(backup: pathlib.Path) -> str | None:
    """Why a backup cannot be restored, or None if it is intact."""
    try:
        expected = json.loads((backup / _STATE).read_text())["sha256"]
        found = _digest(backup / _WEIGHTS)
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"it cannot be read ({error})"
    return None if found == expected else f"{_WEIGHTS} has changed since it was written"


def _write_through(path: pathlib.Path) -> None:
    """Makes the system write a file, or the entries of a folder, to the disk now."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
