"""Trains a click model on converted rows of any size, under any strategy.

Synchronous strategies train in plain `model.fit`. Under a parameter server workers are
not in step with one another, and Keras calls no callback for a batch; there, a loop of
our own gives out a few steps at a time and updates the masks in between.
"""

import os
import pathlib
from collections.abc import Callable

import numpy as np
import tensorflow as tf
import tf_keras as keras

import tf_seqattn as sa
from tf_seqattn.criteo.log.streaming import read_batches
from tf_seqattn.criteo.models.best_weights import BestWeights
from tf_seqattn.experiments.resuming import finished_epochs, resumable_callbacks
from tf_seqattn.keras_api import Callback, classes, is_keras3, sublayers

VALIDATION_BATCH = 8192
# Waiting for the slowest worker costs each about half a step: a twentieth of these.
STEPS_A_WORKER = 10


def distributed_batches(
    strategy: tf.distribute.Strategy,
    folder: str | os.PathLike,
    split: str,
    batch_size: int,
    seed: int | None,
    adapt: Callable | None = None,
    first_batch: int = 0,
):
    """Reads a split for a strategy, each worker its share.

    Args:
      strategy: of the training.
      folder: converted rows.
      split: "train" is repeated without end, the others are read once.
      batch_size: rows of a batch, of all replicas together.
      seed: decides the order, or None for the order of time.
      adapt: what to make of the features of a batch, such as
        `ranking.ranking_features`.
      first_batch: number of batches to skip. They are read, in the order that the seed
        gives, so that a resumed training gets the batches that it would have got.

    Returns:
      A dataset for `model.fit`.
    """

    def make(context):
        training = split == "train"
        dataset = read_batches(
            folder, split, batch_size, seed, context, drop_remainder=training
        )
        if training:
            dataset = dataset.repeat().skip(first_batch * _batches_a_step(context))
        if adapt is not None:
            dataset = dataset.map(lambda features, labels: (adapt(features), labels))
        return dataset

    if isinstance(strategy, tf.distribute.ParameterServerStrategy):
        return make(None)
    if strategy.num_replicas_in_sync == 1:
        return make(None)
    return strategy.distribute_datasets_from_function(make)


def _batches_a_step(context: tf.distribute.InputContext | None) -> int:
    """How many batches a step takes from a pipeline: one for each of its replicas."""
    if context is None:
        return 1
    return context.num_replicas_in_sync // context.num_input_pipelines


def fit(
    model: keras.Model,
    make_batches: Callable,
    steps: int,
    validations: int = 1,
    validation=None,
    folder: pathlib.Path | None = None,
    verbose: int | str = "auto",
    best: BestWeights | None = None,
    seed: int = 0,
) -> int:
    """Trains in plain `model.fit`, and goes on where it was interrupted.

    Args:
      model: compiled, pruned or not, of Keras 2 or Keras 3.
      make_batches: from a number of batches to the endless training batches after
        them.
      steps: number of training steps.
      validations: how often to validate, and to write a backup. Keras calls the steps
        between two of them an epoch; the last one may be shorter.
      validation: batches to measure on after each epoch.
      folder: see `resuming.resumable_callbacks`; a backup is resumed from.
      verbose: as `model.fit` takes it.
      best: what may end the training early; the model gets its weights then.
      seed: of what dropout leaves out.

    Returns:
      The number of training steps that made the model's weights.
    """
    epoch_steps = -(-steps // min(validations, steps))
    callbacks = [
        *resumable_callbacks(model, folder),
        _StopAfter(steps),
        _SeededDropout(seed),
    ]
    if best is not None:
        # Before the backup, which says that the epoch is over.
        callbacks.insert(0, sa.AfterPruning(best))
    if best is None or not best.state["stopped"]:
        model.fit(
            make_batches(min(steps, epoch_steps * finished_epochs(folder))),
            steps_per_epoch=epoch_steps,
            epochs=-(-steps // epoch_steps),
            validation_data=validation,
            callbacks=callbacks,
            verbose=verbose,
        )
    if best is None or best.state["epoch"] is None:
        return steps
    best.restore(model)
    return min(steps, epoch_steps * (best.state["epoch"] + 1))


def _num_workers() -> int:
    """Workers of the cluster that this process, its chief, is connected to."""
    devices = tf.config.list_logical_devices()
    specs = [tf.DeviceSpec.from_string(device.name) for device in devices]
    return len({spec.task for spec in specs if spec.job == "worker"})


class _StopAfter(Callback):
    """Ends the last epoch, and with it the training, after so many steps."""

    def __init__(self, steps: int):
        super().__init__()
        self.steps = steps
        self._before = 0

    def on_epoch_begin(self, epoch, logs=None):
        self._before = epoch * self.params["steps"]

    def on_train_batch_end(self, batch, logs=None):
        if self._before + batch + 1 >= self.steps:
            self.model.stop_training = True


class _SeededDropout(Callback):
    """Starts dropout anew in each epoch, since no backup of Keras holds its state."""

    def __init__(self, seed: int):
        super().__init__()
        self.seed = seed

    def on_epoch_begin(self, epoch, logs=None):
        model = self.model
        layers = sublayers(model) if is_keras3(model) else model.submodules
        for number, layer in enumerate(layers):
            if not isinstance(layer, classes("Dropout")):
                continue
            parts = np.random.SeedSequence([self.seed, epoch, number])
            state = int(parts.generate_state(1)[0])
            if is_keras3(layer):
                layer.seed_generator.state.assign([state, 0])
            else:
                layer._random_generator._generator.reset_from_seed(state)


def fit_with_parameter_servers(
    strategy: tf.distribute.ParameterServerStrategy,
    model: keras.Model,
    make_batches,
    steps: int,
    steps_between_masks: int | None = None,
    progress=lambda steps: None,
) -> list[float]:
    """Trains with workers that are not in step with one another.

    Args:
      strategy: of the model.
      model: compiled under the strategy, pruned or not.
      make_batches: returns endless training batches, called by each worker.
      steps: number of training steps of all workers together.
      steps_between_masks: steps that are given out before the workers wait for one
        another and masks are updated; ten for each worker by default, and fewer at the
        end of a phase.
      progress: called with the number of steps done since the last call.

    Returns:
      The loss of every step, in the order in which they were given out.
    """
    if steps_between_masks is None:
        steps_between_masks = STEPS_A_WORKER * _num_workers()
    coordinator = tf.distribute.coordinator.ClusterCoordinator(strategy)
    iterator = iter(coordinator.create_per_worker_dataset(make_batches))
    pruning = None
    if sa.pruned_layers(model):
        pruning = sa.UpdatePruningStep.for_loop(model)

    @tf.function
    def train_step(batches):
        def one(batch):
            return model.train_step(batch)["loss"]

        return strategy.run(one, args=(next(batches),))

    losses, done = [], 0
    while done < steps:
        now = min(steps_between_masks, steps - done)
        if pruning is not None:
            now = int(min(now, pruning.steps_to_phase_change()))
            pruning.step(now)
        results = [coordinator.schedule(train_step, (iterator,)) for _ in range(now)]
        coordinator.join()
        losses += [float(result.fetch()) for result in results]
        done += now
        progress(now)
    return losses
