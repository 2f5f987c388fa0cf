"""Compares ways to prune on real data that ship in packages.

Nine tasks on five data sets (`quality_tasks/data.py`): perceptrons, convolutions, click
models, a transformer and an LSTM; Adam, SGD and Adagrad; 300 to 4,000 steps. Two of the
tasks were held back from every choice of the default recipe: see `HELD_BACK`. All arms
have the same data, steps, batches and learning rate, which was chosen for the dense
network; nothing was tuned for any arm. The last fifth of the rows is held out. Every
cell is kept in a file, so an interrupted run goes on where it stopped.

    pip install 'tf-seqattn[quality]' && pip install --no-deps recbole
    python -m benchmarks.quality
"""

import argparse
import functools
import json
import multiprocessing
import os
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf
import tf_keras as keras

import tf_seqattn as sa
from benchmarks.quality_tasks import networks
from benchmarks.quality_tasks.data import split
from benchmarks.quality_tasks.fixed_support import FixedSupport
from benchmarks.quality_tasks.report import report
from tf_seqattn.experiments.algorithms import Phases, find_algorithm, pruning_schedule
from tf_seqattn.experiments.progress import progress_bar
from tf_seqattn.files import write_json, write_whole

RESULTS = pathlib.Path(__file__).parent / "results"
ARMS = (
    "narrow",
    "random",
    "magnitude",
    "gradual",
    "powerprop",
    "acdc",
    "regrowth",
    "seqattn",
    "recommended",
)
# The paper's phases for ImageNet.
PHASES = Phases(cycles=7, dense_fraction=0.10, finetune_fraction=0.15)


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
HELD_BACK = ("films", "English, LSTM")


class Cell(NamedTuple):
    """One training.

    Attributes:
      task: of `TASKS`.
      arm: of `ARMS`, or "dense".
      sparsity: share of the blocks to remove from the hidden layers.
      block_size: side of a block.
      seed: of the weights and the order of the rows.
    """

    task: str
    arm: str
    sparsity: float
    block_size: int
    seed: int

    def file(self, folder: pathlib.Path) -> pathlib.Path:
        """Where its result is kept; the name tells the budget too."""
        steps, arm = TASKS[self.task].steps, f"{self.arm}_{self.sparsity:g}"
        task = self.task.replace(", ", "_").replace(" ", "_")
        return folder / f"{task}_{steps}_{arm}_b{self.block_size}_{self.seed}.json"


def cells(seeds: list[int], arms: list[str]) -> list[Cell]:
    """All trainings; a dense model has neither sparsity nor blocks."""
    found = []
    for seed in seeds:
        for name, task in TASKS.items():
            found.append(Cell(name, "dense", 0.0, 0, seed))
            for sparsity, block in task.cells:
                found += [Cell(name, arm, sparsity, block, seed) for arm in arms]
    return found


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


def _prepare(
    cell: Cell, task: Task, batches: tf.data.Dataset
) -> tuple[keras.Model, list[keras.callbacks.Callback]]:
    """The network of a cell, and the callbacks of its arm."""
    if cell.arm == "narrow":
        share = networks.narrow_share(task.network, cell.sparsity)
        keras.utils.set_random_seed(cell.seed)
        return task.network(share), []
    model = task.network()
    if cell.arm == "dense":
        return model, []
    if cell.arm in ("random", "regrowth"):
        data = batches if cell.arm == "regrowth" else None
        support = FixedSupport(
            cell.sparsity, cell.block_size, task.steps, data, cell.seed
        )
        return model, [support]
    pruned = sa.prune(
        model,
        pruning_schedule(cell.arm, cell.sparsity, task.steps, PHASES),
        block_size=(cell.block_size, cell.block_size),
        importance=find_algorithm(cell.arm).importance(0.0),
        pruning_policy=HiddenLayers(),
    )
    return pruned, [sa.UpdatePruningStep()]


def run_cell(cell: Cell, folder: pathlib.Path) -> None:
    """Trains a cell and writes its loss (nats) and accuracy on the rows held out."""
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    keras.backend.clear_session()
    keras.utils.set_random_seed(cell.seed)
    task = TASKS[cell.task]
    rows, labels, held_rows, held_labels = split(task.data)
    batches = repeated_batches(rows, labels, task, cell.seed)
    model, callbacks = _prepare(cell, task, batches)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(new_optimizer(task), loss, metrics=["accuracy"])
    model.fit(batches, steps_per_epoch=task.steps, verbose=0, callbacks=callbacks)
    if sa.pruned_layers(model):
        model = sa.strip_pruning(model)
        model.compile(loss=loss, metrics=["accuracy"])
    found = model.evaluate(
        held_rows, held_labels, batch_size=1024, verbose=0, return_dict=True
    )
    kept = sum(int(np.count_nonzero(w)) for w in model.get_weights())
    write_json(cell.file(folder), {**cell._asdict(), **found, "weights": kept})


def main() -> None:
    """Trains the cells that are missing and writes the table and the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], help="two or more")
    add("--arms", nargs="+", default=list(ARMS), choices=ARMS, help="beside the dense")
    add("--workers", type=int, default=os.cpu_count(), help="cells at a time")
    add("--output", type=pathlib.Path, default=pathlib.Path("out/quality"))
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    every = cells(options.seeds, options.arms)
    missing = [cell for cell in every if not cell.file(options.output).exists()]
    context = multiprocessing.get_context("spawn")
    with (
        progress_bar(len(missing), "cells", "Quality") as bar,
        context.Pool(options.workers, maxtasksperchild=10) as pool,
    ):
        train = functools.partial(run_cell, folder=options.output)
        for _ in pool.imap_unordered(train, missing):
            bar.update(1)
    results = [json.loads(cell.file(options.output).read_text()) for cell in every]
    columns = [(name, *cell) for name, task in TASKS.items() for cell in task.cells]
    seeds = " ".join(map(str, options.seeds))
    command = f"python -m benchmarks.quality --seeds {seeds}"
    if options.arms != list(ARMS):
        command += f" --arms {' '.join(options.arms)}"
    text = report(results, columns, HELD_BACK, command, RESULTS / "quality.png")
    write_whole(RESULTS / "quality.md", text)
    write_json(RESULTS / "quality.json", results)
    print(text)


if __name__ == "__main__":
    main()
