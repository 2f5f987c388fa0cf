"""Stopping callbacks that keep the best weights from choosing dense ones."""

from typing import Any

from tf_seqattn.keras_api import Callback, Logs, Model, keras2, keras3
from tf_seqattn.sparsity.progress import is_pruned_for_good
from tf_seqattn.sparsity.wrapper import pruned_layers


class AfterPruning(Callback):
    """Lets a callback see the training only once the model is pruned.

    A dense or half-pruned model scores better than the sparse one that it becomes. So
    `ModelCheckpoint(save_best_only=True)` or `EarlyStopping` with
    `restore_best_weights=True` would keep dense weights. `AfterPruning` holds back the
    end of an epoch or a batch until every layer is at its target and its last phase has
    begun. All other events reach the callback as usual.

    Args:
      callback: a callback of the same Keras as the model.

    Raises:
      ValueError: for anything but a callback.

    Example:

    >>> stop = keras.callbacks.EarlyStopping(patience=3, restore_best_weights=True)
    >>> callbacks = [AfterPruning(stop)]  # beside sa.UpdatePruningStep()
    """

    def __init__(self, callback: Any) -> None:
        if not isinstance(
            callback, (keras2.callbacks.Callback, keras3.callbacks.Callback)
        ):
            raise ValueError(
                "`callback` must be a callback of Keras, such as "
                "keras.callbacks.ModelCheckpoint('best.keras', save_best_only=True). "
                f"Received: callback={callback!r}"
            )
        super().__init__()
        self.callback: Any = callback
        self._is_pruned = False
        # Keras 2 reads this if there are several workers.
        self._chief_worker_only = getattr(callback, "_chief_worker_only", None)

    def _may_see(self) -> bool:
        """Whether the model is pruned. Once it is, it stays so."""
        self._is_pruned = self._is_pruned or is_pruned_for_good(
            pruned_layers(self.model)
        )
        return self._is_pruned

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        if self._may_see():
            self.callback.on_epoch_end(epoch, logs)

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        if self._may_see():
            self.callback.on_train_batch_end(batch, logs)

    # All other events pass through.

    def set_params(self, params: dict[str, Any]) -> None:
        super().set_params(params)
        self.callback.set_params(params)

    def set_model(self, model: Model) -> None:
        super().set_model(model)
        self.callback.set_model(model)

    def on_train_begin(self, logs: Logs = None) -> None:
        self._is_pruned = False
        self.callback.on_train_begin(logs)

    def on_train_end(self, logs: Logs = None) -> None:
        self.callback.on_train_end(logs)

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        self.callback.on_epoch_begin(epoch, logs)

    def on_train_batch_begin(self, batch: int, logs: Logs = None) -> None:
        self.callback.on_train_batch_begin(batch, logs)

    def on_test_begin(self, logs: Logs = None) -> None:
        self.callback.on_test_begin(logs)

    def on_test_end(self, logs: Logs = None) -> None:
        self.callback.on_test_end(logs)

    def on_test_batch_begin(self, batch: int, logs: Logs = None) -> None:
        self.callback.on_test_batch_begin(batch, logs)

    def on_test_batch_end(self, batch: int, logs: Logs = None) -> None:
        self.callback.on_test_batch_end(batch, logs)


def keeps_best_weights(callback: Any) -> bool:
    """Whether a callback of Keras keeps the weights of the best epoch.

    Example:

    >>> keeps_best_weights(keras3.callbacks.EarlyStopping(restore_best_weights=True))
    True
    """
    for library in (keras2, keras3):
        if isinstance(callback, library.callbacks.ModelCheckpoint):
            return bool(callback.save_best_only)
        if isinstance(callback, library.callbacks.EarlyStopping):
            return bool(callback.restore_best_weights)
    return False
