"""One training of the network: any algorithm, any strategy, resumable."""

import pathlib
import time

import tensorflow as tf
import tf_keras as keras

import tf_seqattn as sa
from tf_seqattn.experiments.resuming import finished_epochs, resumable_callbacks
from tf_seqattn.imagenet.data import Split, batches
from tf_seqattn.imagenet.model import build_model
from tf_seqattn.imagenet.recipe import Recipe


def compiled_model(
    recipe: Recipe,
    algorithm: str,
    sparsity: float,
    block_size: int,
    num_classes: int,
    size: int,
    steps_per_epoch: int,
) -> keras.Model:
    """Returns the network, wrapped where the algorithm prunes, and compiled.

    Call it inside the scope of a strategy.
    """
    model = build_model(num_classes, size, recipe.weight_decay)
    steps = recipe.epochs * steps_per_epoch
    schedule = recipe.schedule(algorithm, sparsity, steps)
    if schedule is not None:
        model = sa.prune(
            model,
            pruning_schedule=schedule,
            block_size=(block_size, block_size),
            importance=recipe.importance(algorithm),
        )
    model.compile(
        optimizer=keras.optimizers.SGD(
            recipe.learning_rate(steps_per_epoch), momentum=recipe.momentum
        ),
        loss=keras.losses.CategoricalCrossentropy(
            from_logits=True, label_smoothing=recipe.label_smoothing
        ),
        metrics=[
            keras.metrics.CategoricalAccuracy(name="top_1"),
            keras.metrics.TopKCategoricalAccuracy(5, name="top_5"),
        ],
    )
    return model


def distributed_batches(
    strategy: tf.distribute.Strategy,
    split: Split,
    recipe: Recipe,
    size: int,
    training: bool,
    seed: int = 0,
    epochs: range = range(1),
):
    """Batches with one-hot labels, each worker reading its share."""

    def make(context):
        dataset = batches(
            split, recipe.batch_size, size, training, seed, context, epochs
        )
        return dataset.map(
            lambda image, label: (image, tf.one_hot(label, split.num_classes))
        )

    if strategy.num_replicas_in_sync == 1:
        return make(None)
    return strategy.distribute_datasets_from_function(make)


def train(
    strategy: tf.distribute.Strategy,
    train_split: Split,
    validation_split: Split,
    recipe: Recipe,
    algorithm: str = "seqattn",
    sparsity: float = 0.9,
    block_size: int = 16,
    size: int = 224,
    seed: int = 0,
    folder: pathlib.Path | None = None,
    verbose: int | str = "auto",
) -> tuple[keras.Model, dict]:
    """Trains the network with plain `model.fit`, and goes on where it was interrupted.

    Args:
      strategy: how it is distributed; `tf.distribute.get_strategy()` for one device.
      train_split: images to train on, at least one batch.
      validation_split: images to measure on, after each epoch.
      recipe: epochs, batches, rates and the shape of the schedule.
      algorithm: one of `algorithms.ALGORITHMS`.
      sparsity: share of the blocks to remove from each layer of 100 blocks or more.
      block_size: rows and columns of a block.
      size: pixels of a side of the images.
      seed: of the weights and of the order of the images.
      folder: see `resuming.resumable_callbacks`; a backup is resumed from.
      verbose: as `model.fit` takes it.

    Returns:
      The model, stripped, and a dict of `top_1` and `top_5` (shares of the validation
      images), `loss`, `sparsity` (share of all weights of kernels that are zero),
      `layers_pruned`, `seconds` and the settings.

    Raises:
      ValueError: if there are fewer images than a batch takes.
    """
    steps_per_epoch = train_split.num_images // recipe.batch_size
    if not steps_per_epoch:
        raise ValueError(
            "`batch_size` must be at most the number of training images, "
            f"{train_split.num_images}. Received: batch_size={recipe.batch_size}"
        )
    keras.utils.set_random_seed(seed)
    with strategy.scope():
        model = compiled_model(
            recipe,
            algorithm,
            sparsity,
            block_size,
            train_split.num_classes,
            size,
            steps_per_epoch,
        )
    pruned = len(sa.pruned_layers(model))
    callbacks = resumable_callbacks(model, folder)
    # One at least: Keras wants data even where no step is left.
    first = min(finished_epochs(folder), recipe.epochs - 1)
    epochs = range(first, recipe.epochs)
    validation = distributed_batches(strategy, validation_split, recipe, size, False)
    # A distributed dataset does not know its length.
    validation_steps = -(-validation_split.num_images // recipe.batch_size)
    started = time.perf_counter()
    model.fit(
        distributed_batches(strategy, train_split, recipe, size, True, seed, epochs),
        epochs=recipe.epochs,
        steps_per_epoch=steps_per_epoch,
        validation_data=validation,
        validation_steps=validation_steps,
        callbacks=callbacks,
        verbose=verbose,
    )
    seconds = time.perf_counter() - started
    measured = model.evaluate(
        validation, steps=validation_steps, return_dict=True, verbose=0
    )
    stripped = sa.strip_pruning(model) if pruned else model
    kernels = [w for w in stripped.trainable_weights if w.shape.rank > 1]
    zeros = sum(int(tf.math.count_nonzero(w == 0)) for w in kernels)
    return stripped, {
        "algorithm": algorithm,
        "block_size": block_size,
        "target_sparsity": sparsity if pruned else 0.0,
        "sparsity": zeros / sum(w.shape.num_elements() for w in kernels),
        "layers_pruned": pruned,
        "seed": seed,
        **{name: float(value) for name, value in measured.items()},
        "seconds": seconds,
    }
