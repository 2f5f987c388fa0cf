"""TensorBoard: what pruning does to a model during training."""

import contextlib
import logging
import os
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import tensorflow as tf

# Not `api`, which touches `tf.keras`.
from tensorboard.plugins.hparams import summary_v2 as hparams_summary

from tf_seqattn.keras_api import Callback, Logs, Model, keras_of, stored
from tf_seqattn.kernels.blocks import entry_sparsity
from tf_seqattn.sparsity.callbacks import check_prunable
from tf_seqattn.sparsity.importance import attention_entropy
from tf_seqattn.sparsity.phases import Phase, PruningSchedule, phase_at
from tf_seqattn.sparsity.schedule_plot import picture, schedule_picture
from tf_seqattn.sparsity.support import support_churn
from tf_seqattn.sparsity.wrapper import PrunableLayer, PrunedKernel, pruned_layers

logger = logging.getLogger("tf_seqattn")

_GUIDE = """\
### What this run shows

*Time series* and *Scalars*: **pruning/** is the model as a whole, then one group
follows for each pruned layer.

- **sparsity** is the share of weights that are masked, **sparsity_requested** what the
  schedule asks for. They differ where a layer cannot follow, as it keeps whole blocks.
- **rate_gain** of a layer: the learning rate of its kept blocks, over the optimizer's.
- **phase**: 0 dense, 1 sparsification, 2 sparse. The loss may jump where the phase
  changes, if the optimizer is reset there.
- **attention_entropy**: 1 if all blocks have equal attention, lower if a few have most.
- **support_churn**: share of the support that is new since the last sparse phase. Near
  0 the search is over, and further cycles change nothing.

*Images*: **pruning/schedule** shows the phases and the current step. **mask** and
**attention_image** of each layer have a square for each block, inputs from top to
bottom; white is kept, or has most attention. *Histograms*: **attention**.
"""


def _requested_sparsity(layer: PrunableLayer) -> float | None:
    """The sparsity that a schedule asks for now, or None if it does not say."""
    sparsity = getattr(layer.pruning_schedule, "sparsity", None)
    return None if sparsity is None else sparsity(layer.steps_begun)


class PruningSummaries(Callback):
    """TensorBoard callback that shows the pruning of every layer.

    Besides what `keras.callbacks.TensorBoard` writes, under `log_dir`: for each
    pruned kernel its sparsity, requested and reached, its phase, the gain of its
    learning rate where that grows, the entropy of its attention (1 is uniform), the
    churn (share of the support that changed since the last sparse phase) and pictures
    of mask and attention; the horizontal axis is the pruning step. The group `pruning`
    has the same of all layers together, the schedule as a picture and a text that says
    how to read it all; the HParams tab has the schedule, the block size and the
    importance, to compare runs in folders side by side.

    Args:
      log_dir: folder for the event files.
      update_freq: "epoch", or a number of training steps between two entries. A
        phase change always makes one.
      images: whether to write the pictures, at every phase change and epoch. That of
        the schedule needs matplotlib.
      hparams: further hyper-parameters of the run for the HParams tab, by name:
        numbers, strings or bools.
      **kwargs: further arguments of `keras.callbacks.TensorBoard`.

    Raises:
      ValueError: for an empty `log_dir`, or when training begins on a model that
        tf_seqattn does not prune.

    Example:

    >>> summaries = PruningSummaries(log_dir="logs", update_freq=100)
    """

    def __init__(
        self,
        log_dir: str | os.PathLike[str],
        update_freq: Literal["epoch"] | int = "epoch",
        images: bool = True,
        hparams: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if not isinstance(log_dir, (str, os.PathLike)) or not str(log_dir):
            raise ValueError(
                "`log_dir` must be a non-empty path, such as 'logs'. Received: "
                f"log_dir={log_dir!r}"
            )
        super().__init__()
        self.log_dir = str(log_dir)
        self.update_freq = update_freq
        self.images = images
        self.hparams = dict(hparams or {})
        self._board_arguments = kwargs
        self._board: Any = None
        self._writer: Any = None
        self._step = 0
        self._phases: dict[str, Phase | None] = {}
        self._supports: dict[str, np.ndarray] = {}

    def set_model(self, model: Model) -> None:
        super().set_model(model)
        # The callback of the same Keras as the model.
        self._board = keras_of(model).callbacks.TensorBoard(
            self.log_dir, update_freq=self.update_freq, **self._board_arguments
        )
        self._board.set_params(self.params)
        self._board.set_model(model)

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        self._board.on_epoch_begin(epoch, logs)

    def on_train_batch_begin(self, batch: int, logs: Logs = None) -> None:
        self._board.on_train_batch_begin(batch, logs)

    def on_test_begin(self, logs: Logs = None) -> None:
        self._board.on_test_begin(logs)

    def on_test_end(self, logs: Logs = None) -> None:
        self._board.on_test_end(logs)

    def on_train_begin(self, logs: Logs = None) -> None:
        self._board.on_train_begin(logs)
        check_prunable(self.model)
        folder = os.path.join(self.log_dir, "pruning")
        self._writer = tf.summary.create_file_writer(folder)
        first = pruned_layers(self.model)[0]
        with self._recording(first.steps_begun):
            tf.summary.text("pruning/guide", _GUIDE)
        self._write_hparams(first)

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        self._board.on_train_batch_end(batch, logs)
        changed, churns = False, []
        for layer in pruned_layers(self.model):
            phase = phase_at(layer.pruning_schedule, layer.steps_begun)
            changed |= self._phases.get(layer.name, phase) != phase
            begins_sparse = self._phases.get(layer.name) != phase == Phase.SPARSE
            self._phases[layer.name] = phase
            if begins_sparse:
                churns += self._write_churn(layer)
        if churns:
            with self._recording(pruned_layers(self.model)[0].steps_begun):
                tf.summary.scalar("pruning/support_churn", np.mean(churns))
        if changed or self._is_due():
            self._write(images=changed)

    def _is_due(self) -> bool:
        """Whether a multiple of `update_freq` was reached since the last call."""
        before, self._step = self._step, pruned_layers(self.model)[0].steps_begun
        if self.update_freq == "epoch":
            return False
        return self._step // self.update_freq > before // self.update_freq

    def on_epoch_end(self, epoch: int, logs: Logs = None) -> None:
        self._board.on_epoch_end(epoch, logs)
        self._write(images=True)

    def on_train_end(self, logs: Logs = None) -> None:
        self._board.on_train_end(logs)
        if self._writer is not None:
            self._writer.close()

    @contextlib.contextmanager
    def _recording(self, step: int) -> Iterator[None]:
        # Keras would record only when its own counter is a multiple of `update_freq`.
        with self._writer.as_default(step=step), tf.summary.record_if(True):
            yield

    def _write_hparams(self, layer: PrunableLayer) -> None:
        """Writes the settings of the run where the HParams tab looks for them."""
        found: dict[str, bool | int | float | str] = {
            name: value
            for name, value in layer.pruning_schedule.get_config()["config"].items()
            if isinstance(value, (bool, int, float, str))
        }
        found["schedule"] = type(layer.pruning_schedule).__name__
        found["importance"] = type(layer.importance).__name__
        size = layer.block_size
        found["block_size"] = (
            size if isinstance(size, str) else " x ".join(map(str, size))
        )
        trial = os.path.basename(os.path.abspath(self.log_dir))
        writer = tf.summary.create_file_writer(self.log_dir)
        with writer.as_default(), tf.summary.record_if(True):
            hparams_summary.hparams(found | self.hparams, trial_id=trial)
        writer.close()

    def _write_churn(self, layer: PrunableLayer) -> list[float]:
        churns = []
        for pruned in layer.pruned_kernels:
            name = f"{layer.name}/{pruned.name}"
            support = pruned.mask.numpy()
            if name in self._supports:
                with self._recording(layer.steps_begun):
                    churns.append(support_churn(self._supports[name], support))
                    tf.summary.scalar(f"{name}/support_churn", churns[-1])
            self._supports[name] = support
        return churns

    def _write(self, images: bool) -> None:
        images = images and self.images
        layers, measured = pruned_layers(self.model), []
        for layer in layers:
            phase = phase_at(layer.pruning_schedule, layer.steps_begun)
            with self._recording(layer.steps_begun):
                if phase is not None:
                    tf.summary.scalar(f"{layer.name}/phase", int(phase))
                for pruned in layer.pruned_kernels:
                    measured.append(self._write_kernel(layer, pruned, images))
        # Every kernel may have been left dense when it was built.
        if measured:
            with self._recording(layers[0].steps_begun):
                self._write_whole(layers, measured, images)
        self._writer.flush()

    def _write_whole(
        self,
        layers: Sequence[PrunableLayer],
        measured: list[tuple[float, Any]],
        images: bool,
    ) -> None:
        """Writes averages over all kernels, weighted by their number of entries."""
        kernels = [(la, k) for la in layers for k in la.pruned_kernels]
        sizes = [np.prod(kernel.grid.kernel_shape) for _, kernel in kernels]
        masked, entropies = zip(*measured, strict=True)
        tf.summary.scalar("pruning/sparsity", np.average(masked, weights=sizes))
        schedule, step = layers[0].pruning_schedule, layers[0].steps_begun
        known = [_requested_sparsity(la) for la, _ in kernels]
        requested = [sparsity for sparsity in known if sparsity is not None]
        if len(requested) == len(kernels):
            mean = np.average(requested, weights=sizes)
            tf.summary.scalar("pruning/sparsity_requested", mean)
        if isinstance(schedule, PruningSchedule):
            tf.summary.scalar("pruning/phase", int(schedule.phase(step)))
            if images:
                self._write_schedule(schedule, step)
        if None not in entropies:
            mean = np.average(entropies, weights=sizes)
            tf.summary.scalar("pruning/attention_entropy", mean)

    def _write_schedule(self, schedule: PruningSchedule, step: int) -> None:
        try:
            drawn = schedule_picture(schedule, step)
        except ImportError:
            logger.info("TensorBoard gets no picture of the schedule: no matplotlib.")
        else:
            tf.summary.image("pruning/schedule", drawn)

    def _write_kernel(
        self, layer: PrunableLayer, pruned: PrunedKernel, images: bool
    ) -> tuple[float, Any]:
        """Writes a kernel; returns its sparsity and the entropy of its attention."""
        name = f"{layer.name}/{pruned.name}"
        mask = pruned.mask.numpy()
        sparsity = entry_sparsity(mask, pruned.grid)
        tf.summary.scalar(f"{name}/sparsity", sparsity)
        requested = _requested_sparsity(layer)
        if requested is not None:
            tf.summary.scalar(f"{name}/sparsity_requested", requested)
        gain = layer.rate_gain(pruned)
        if gain is not None:
            tf.summary.scalar(f"{name}/rate_gain", gain)
        if images:
            tf.summary.image(f"{name}/mask", picture(mask))
        importance: Any = layer.importance
        if pruned.logits is None or not hasattr(importance, "attention"):
            return sparsity, None
        attention = importance.attention(stored(pruned.logits))
        entropy = attention_entropy(attention)
        tf.summary.scalar(f"{name}/attention_entropy", entropy)
        tf.summary.histogram(f"{name}/attention", attention)
        if images:
            # It has its own tag because TensorBoard shows one kind of data for each.
            tf.summary.image(f"{name}/attention_image", picture(attention.numpy()))
        return sparsity, entropy
