"""Nine tasks, and how a network is trained on one of them."""

import functools
import multiprocessing
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import tensorflow as tf
import tf_keras as keras

import tf_seqattn as sa
from benchmarks.quality_tasks import networks
from benchmarks.quality_tasks.data import split
from tf_seqattn.experiments.progress import progress_bar


class Task(NamedTuple):
    """What is learnt, and within which budget.

    Attributes:
      data: of `data.LOADERS`.
      network: of `networks`.
      optimizer: "adam", "sgd", which has a momentum of .9, or "adagrad".
      rate: first learning rate; it falls to 0 as a cosine.
      steps: training steps.
      batch_size: rows of a batch.
      cells: (sparsity, side of a block) of its pruned arms.
    """

    data: str
    network: Callable[..., keras.Model]
    optimizer: str
    rate: float
    steps: int
    batch_size: int
    cells: tuple[tuple[float, int], ...]


_TWO = ((0.9, 8), (0.97, 16))
TASKS = {
    "digits, Adam": Task(
        "digits", networks.perceptron, "adam", 1e-3, 1200, 64, ((0.7, 8), *_TWO)
    ),
    "digits, SGD": Task("digits", networks.perceptron, "sgd", 5e-2, 1200, 64, _TWO),
    "digits, short": Task(
        "digits", networks.perceptron, "adam", 1e-3, 300, 64, ((0.9, 8),)
    ),
    "digits, long": Task(
        "digits", networks.perceptron, "adam", 1e-3, 4000, 64, ((0.97, 8),)
    ),
    "digits, convolutions": Task(
        "digits", networks.convolutions, "sgd", 5e-2, 600, 64, ((0.9, 8),)
    ),
    "flights": Task(
        "flights", networks.click_model_of_flights, "adam", 1e-3, 1000, 512, _TWO
    ),
    "source code, transformer": Task(
        "source code", networks.transformer, "adam", 3e-3, 600, 32, ((0.8, 8), (0.9, 8))
    ),
    "films": Task(
        "films",
        networks.click_model_of_films,
        "adagrad",
        5e-2,
        800,
        256,
        ((0.9, 8), (0.97, 16)),
    ),
    "English, LSTM": Task(
        "English", networks.lstm, "adam", 4e-3, 500, 32, ((0.8, 8), (0.9, 16))
    ),
}


class HiddenLayers(sa.PruningPolicy):
    """Prunes the hidden layers."""

    def allow_pruning(self, layer) -> bool:
        return layer.name.startswith("hidden")


def new_optimizer(task: Task) -> keras.optimizers.Optimizer:
    """The optimizer of a task; its rate falls to 0 as a cosine."""
    rate = keras.optimizers.schedules.CosineDecay(task.rate, task.steps)
    if task.optimizer == "sgd":
        return keras.optimizers.SGD(rate, momentum=0.9)
    kinds = {"adam": keras.optimizers.Adam, "adagrad": keras.optimizers.Adagrad}
    return kinds[task.optimizer](rate)


def repeated_batches(rows, labels, task: Task, seed: int) -> tf.data.Dataset:
    """Shuffled batches of a task's training rows, without end."""
    data = tf.data.Dataset.from_tensor_slices((rows, labels))
    shuffled = data.shuffle(min(len(rows), 50_000), seed=seed).repeat()
    return shuffled.batch(task.batch_size).prefetch(2)


def train(
    model: keras.Model,
    task: Task,
    seed: int,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> keras.Model:
    """Trains a network for the steps of its task.

    Returns:
      The network without its pruning, to be evaluated by `held_out`.
    """
    rows, labels, *_ = split(task.data)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(new_optimizer(task), loss, metrics=["accuracy"])
    model.fit(
        repeated_batches(rows, labels, task, seed),
        steps_per_epoch=task.steps,
        verbose=0,
        callbacks=list(callbacks),
    )
    if sa.pruned_layers(model):
        model = sa.strip_pruning(model)
        model.compile(loss=loss, metrics=["accuracy"])
    return model


def held_out(model: keras.Model, task: Task) -> dict[str, float]:
    """`loss` (nats) and `accuracy` on the rows held out."""
    *_, rows, labels = split(task.data)
    return model.evaluate(rows, labels, batch_size=1024, verbose=0, return_dict=True)


def start(seed: int) -> None:
    """Makes a training repeatable, and leaves the other cores to other trainings."""
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)


def file_of(folder: pathlib.Path, *parts: object) -> pathlib.Path:
    """A file for the result of a training, named by what it depends on.

    >>> file_of(pathlib.Path("out"), "our default", 0.9, 3).name
    'ourdefault_09_3.json'
    """
    name = "_".join("".join(c for c in str(part) if c.isalnum()) for part in parts)
    return folder / f"{name}.json"


def run_missing(cells: Sequence, run: Callable, folder, workers: int | None) -> None:
    """Runs those cells whose file is missing, each in one of several processes.

    Args:
      cells: each has a method `file(folder)`, where its result is kept.
      run: called with a cell and `folder=`; writes that file.
      folder: of the results.
      workers: number of processes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    missing = [cell for cell in cells if not cell.file(folder).exists()]
    context = multiprocessing.get_context("spawn")
    with (
        progress_bar(len(missing), "trainings", "Trained") as bar,
        context.Pool(workers or os.cpu_count(), maxtasksperchild=10) as pool,
    ):
        for _ in pool.imap_unordered(functools.partial(run, folder=folder), missing):
            bar.update(1)
