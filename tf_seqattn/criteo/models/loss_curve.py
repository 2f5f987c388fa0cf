"""A callback that takes the loss on held-out rows while a click model trains."""

import pathlib
from typing import Any

import tensorflow as tf
import tf_keras as keras

from tf_seqattn.criteo.log.in_memory import Clicks
from tf_seqattn.files import write_json


class LossCurve(keras.callbacks.Callback):
    """Takes the validation loss now and then, and moves a progress bar.

    Args:
      clicks: rows to take the loss on.
      every: training steps between two values. The last step has one too.
      bar: progress bar of training steps.
      path: JSON file that gets the curve at the end, `{"steps": ..., "losses": ...}`.
      log_dir: folder of TensorBoard that gets the values as they come.
    """

    def __init__(
        self,
        clicks: Clicks,
        every: int,
        bar: Any = None,
        path: pathlib.Path | None = None,
        log_dir: pathlib.Path | str | None = None,
    ):
        super().__init__()
        self.features = {
            name: tf.constant(array) for name, array in clicks.features().items()
        }
        self.labels = tf.constant(clicks.labels)
        self.every = every
        self.bar = bar
        self.path = path
        self.log_dir = log_dir
        self.steps: list[int] = []
        self.losses: list[float] = []

    def on_train_begin(self, logs=None):
        network = self.model.network
        # Compiled, since it runs a hundred times in a training.
        self._loss = tf.function(
            lambda: tf.reduce_mean(
                tf.nn.sigmoid_cross_entropy_with_logits(
                    self.labels, network(self.features, training=False)[:, 0]
                )
            )
        )
        if self.log_dir is not None:
            folder = pathlib.Path(self.log_dir) / "validation"
            self._writer = tf.summary.create_file_writer(str(folder))

    def on_train_batch_end(self, batch, logs=None):
        step = batch + 1
        if self.bar is not None:
            self.bar.update(1)
        if step % self.every == 0 or step == self.params["steps"]:
            self._take(step)

    def _take(self, step: int) -> None:
        loss = float(self._loss())
        self.steps.append(step)
        self.losses.append(loss)
        if self.bar is not None:
            self.bar.set_postfix(validation_loss=f"{loss:.4f}", refresh=False)
        if self.log_dir is not None:
            with self._writer.as_default():
                tf.summary.scalar("log_loss", loss, step)

    def on_train_end(self, logs=None):
        if self.path is not None:
            write_json(self.path, {"steps": self.steps, "losses": self.losses})
        if self.log_dir is not None:
            self._writer.close()
