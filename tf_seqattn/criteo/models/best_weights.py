"""Keeping the weights of the best validation, and stopping when none gets better.

Keras's `EarlyStopping` does both, but what it remembers is lost with the process. Here
it is kept in files, so that a training that was interrupted ends as it would have.
"""

import json
import pathlib

from tf_seqattn.files import write_json
from tf_seqattn.keras_api import Callback, Model

_STATE = "best.json"


class BestWeights(Callback):
    """Keeps the weights with the highest validation AUC.

    Use it inside `sa.AfterPruning`: then only weights that are really sparse count.

    Args:
      folder: for `best.json` and the weights; made if needed.
      patience: number of validations without a higher AUC that ends the training.

    Example:

    >>> best = BestWeights(folder, patience=2)  # doctest: +SKIP
    >>> model.fit(..., callbacks=[sa.AfterPruning(best)])  # doctest: +SKIP
    >>> best.restore(model)  # doctest: +SKIP
    """

    def __init__(self, folder: pathlib.Path, patience: int):
        super().__init__()
        self.folder = folder
        self.patience = patience
        self.state: dict = {"epoch": None, "auc": None, "stopped": False}
        if (folder / _STATE).exists():
            self.state = json.loads((folder / _STATE).read_text())

    def on_epoch_end(self, epoch, logs=None):
        auc = float(logs["val_auc"])
        before = self.state["epoch"]
        if before is None or auc > self.state["auc"]:
            self.folder.mkdir(parents=True, exist_ok=True)
            # The state names the file, so it is never that of another epoch.
            self.model.save_weights(self._weights(epoch))
            self._write({"epoch": epoch, "auc": auc, "stopped": False})
            if before not in (None, epoch):
                self._weights(before).unlink(missing_ok=True)
        elif epoch - before >= self.patience:
            self._write({**self.state, "stopped": True})
            self.model.stop_training = True

    def restore(self, model: Model) -> None:
        """Gives a model the best weights; its own if no validation counted."""
        if self.state["epoch"] is not None:
            model.load_weights(self._weights(self.state["epoch"]))

    def _weights(self, epoch: int) -> pathlib.Path:
        return self.folder / f"best-{epoch}.weights.h5"

    def _write(self, state: dict) -> None:
        self.state = state
        write_json(self.folder / _STATE, state)
