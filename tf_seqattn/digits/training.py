"""Training the network, dense and with SequentialAttention++."""

from typing import NamedTuple

import numpy as np
import tf_keras as keras

import tf_seqattn as sa
from tf_seqattn.digits.data import Digits

BATCH_SIZE = 32
LEARNING_RATE = 5e-3


class Trained(NamedTuple):
    """A trained model and what was seen on the way.

    Attributes:
      model: the model; one that was pruned is stripped, with zeros in its blocks.
      accuracy: test accuracy after each epoch.
      sparsity: share of blocks that were masked after each epoch.
    """

    model: keras.Model
    accuracy: list[float]
    sparsity: list[float]


def steps_per_epoch(digits: Digits) -> int:
    """Number of batches in the training images, the last one partial."""
    return -(-len(digits.train_images) // BATCH_SIZE)


def _fit(model: keras.Model, digits: Digits, epochs: int, callbacks) -> list[float]:
    """Trains `model` and returns its test accuracy after each epoch."""
    learning_rate = keras.optimizers.schedules.CosineDecay(
        LEARNING_RATE, epochs * steps_per_epoch(digits)
    )
    model.compile(
        optimizer=keras.optimizers.Adam(learning_rate),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    history = model.fit(
        digits.train_images,
        digits.train_labels,
        batch_size=BATCH_SIZE,
        epochs=epochs,
        validation_data=(digits.test_images, digits.test_labels),
        callbacks=callbacks,
        verbose=0,
    )
    return history.history["val_accuracy"]


def _masked_share(model: keras.Model) -> float:
    """Share of the blocks of all pruned kernels that are masked now."""
    wrappers = [la for la in model.layers if isinstance(la, sa.PrunableLayer)]
    masks = [kernel.mask for la in wrappers for kernel in la.pruned_kernels]
    return 1.0 - float(np.concatenate([np.ravel(mask) for mask in masks]).mean())


def train_dense(model: keras.Model, digits: Digits, epochs: int) -> Trained:
    """Trains `model` as it is."""
    accuracy = _fit(model, digits, epochs, callbacks=[])
    return Trained(model, accuracy, [0.0] * epochs)


def train_pruned(
    model: keras.Model,
    digits: Digits,
    epochs: int,
    target_sparsity: float,
    block_size: tuple[int, int],
) -> Trained:
    """Trains `model` with SequentialAttention++ and strips it.

    Args:
      model: an untrained Keras 2 model.
      digits: the data.
      epochs: how often the training images are seen; the schedule fills them.
      target_sparsity: share of the blocks to remove from each pruned kernel.
      block_size: (rows, columns) of a block.

    Returns:
      A `Trained`, its model of the same layers as `model`.
    """
    schedule = sa.SequentialAttentionSchedule(
        target_sparsity, end_step=epochs * steps_per_epoch(digits)
    )
    pruned = sa.prune(model, pruning_schedule=schedule, block_size=block_size)
    sparsity: list[float] = []
    record = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: sparsity.append(_masked_share(pruned))
    )
    accuracy = _fit(pruned, digits, epochs, [sa.UpdatePruningStep(), record])
    return Trained(sa.strip_pruning(pruned), accuracy, sparsity)
