"""Compares ways to prune on real data that ship in packages.

Nine tasks on five data sets (`quality_tasks/data.py`): perceptrons, convolutions, click
models, a transformer and an LSTM; Adam, SGD and Adagrad; 300 to 4,000 steps. Two of the
tasks were held back from every choice of the default recipe: see `HELD_BACK`. All arms
have the same data, steps and batches. The learning rate of each arm is halved and
doubled for each task until the two rates on either side of the best are worse, in the
task's sparsest cell, by the mean of two seeds that are not reported. Where trainings
are short, the two best rates are then tried on two more seeds. The last fifth of the
rows is held out.

Two dense networks are narrower: one has as many weights as the pruned ones keep, one
takes as long on this machine as a pruned one that is packed. That is measured first, so
the machine should be idle when the run begins.
Every cell is kept in a file, so an interrupted run goes on where it stopped.

    pip install 'tf-seqattn[quality]' && pip install --no-deps recbole
    python -m benchmarks.quality

With `--dense-rates` no rate is chosen for the pruned networks: they have the one that
is best for the dense network, as those who do not tune again would have it.
"""

import argparse
import functools
import json
import os
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tf_keras as keras

import tf_seqattn as sa
from benchmarks.quality_tasks import networks
from benchmarks.quality_tasks.data import split
from benchmarks.quality_tasks.fixed_support import FixedSupport
from benchmarks.quality_tasks.latency import EqualLatency, equal_latency, measured_once
from benchmarks.quality_tasks.report import report
from benchmarks.quality_tasks.tasks import (
    TASKS,
    HiddenLayers,
    Task,
    held_out,
    repeated_batches,
    run_missing,
    start,
    train,
)
from benchmarks.quality_tasks.tuning import Factors, best_factors
from tf_seqattn.experiments.algorithms import Phases, find_algorithm, pruning_schedule
from tf_seqattn.files import write_json, write_whole

RESULTS = pathlib.Path(__file__).parent / "results"
ARMS = (
    "narrow",
    "narrow_fast",
    "random",
    "magnitude",
    "gradual",
    "gradual_half",
    "powerprop",
    "acdc",
    "regrowth",
    "seqattn",
    "recommended",
    "half_rise",
    "long_rise",
    "unrevised",
    "sparse_start",
)
# The paper's phases for ImageNet.
PHASES = Phases(cycles=7, dense_fraction=0.10, finetune_fraction=0.15)


# Factors of the task's learning rate that are tried first, and the seeds of the trials.
# The last one is for networks that learn nothing at all with small ones.
FACTORS = (0.5, 1.0, 2.0, 16.0)
TUNING_SEEDS = (100, 101)
# On which the two best rates are tried as well, in the tasks of short trainings.
MORE_TUNING_SEEDS = (102, 103)
LONG_TRAININGS = ("digits, long", "source code, transformer", "English, LSTM")
HELD_BACK = ("films", "English, LSTM")


class Cell(NamedTuple):
    """One training.

    Attributes:
      task: of `TASKS`.
      arm: of `ARMS`, or "dense".
      sparsity: share of the blocks to remove from the hidden layers.
      block_size: side of a block.
      seed: of the weights and the order of the rows.
      factor: of the task's learning rate.
    """

    task: str
    arm: str
    sparsity: float
    block_size: int
    seed: int
    factor: float

    def file(self, folder: pathlib.Path) -> pathlib.Path:
        """Where its result is kept; the name tells the budget too."""
        steps, arm = TASKS[self.task].steps, f"{self.arm}_{self.sparsity:g}"
        task = self.task.replace(", ", "_").replace(" ", "_")
        rest = f"b{self.block_size}_r{self.factor:g}_{self.seed}"
        return folder / f"{task}_{steps}_{arm}_{rest}.json"


def tuning_cells(arms: list[str]) -> list[Cell]:
    """The first trainings that choose a learning rate for each task and arm."""
    sides = {name: task.cells[-1] for name, task in TASKS.items()}
    return [
        Cell(name, arm, *((0.0, 0) if arm == "dense" else side), seed, factor)
        for name, side in sides.items()
        for arm in ("dense", *arms)
        for factor in FACTORS
        for seed in TUNING_SEEDS
    ]


def cells(seeds: list[int], arms: list[str], factors: Factors) -> list[Cell]:
    """All trainings; a dense model has neither sparsity nor blocks."""
    found = []
    for seed in seeds:
        for name, task in TASKS.items():
            dense = factors[name, "dense"]
            found.append(Cell(name, "dense", 0.0, 0, seed, dense))
            for sparsity, block in task.cells:
                found += [
                    Cell(name, arm, sparsity, block, seed, factors[name, arm])
                    for arm in arms
                ]
    return found


def latency_file(cell: Cell, folder: pathlib.Path) -> pathlib.Path:
    """Where the width of a dense network is kept that is as fast as a pruned one."""
    name = cell.task.replace(", ", "_").replace(" ", "_")
    return folder / f"latency_{name}_{cell.sparsity:g}_b{cell.block_size}.json"


def measure_latencies(folder: pathlib.Path) -> dict[tuple, EqualLatency]:
    """Times the networks of all columns, where that was not done before."""
    found = {}
    for name, task in TASKS.items():
        for sparsity, block in task.cells:
            cell = Cell(name, "narrow_fast", sparsity, block, 0, 1.0)
            found[name, sparsity, block] = measured_once(
                latency_file(cell, folder),
                functools.partial(equal_latency, task, sparsity, block),
            )
    return found


def _prepare(
    cell: Cell, task: Task, folder: pathlib.Path
) -> tuple[keras.Model, list[keras.callbacks.Callback]]:
    """The network of a cell, and the callbacks of its arm."""
    if cell.arm in ("narrow", "narrow_fast"):
        if cell.arm == "narrow":
            share = networks.narrow_share(task.network, cell.sparsity)
        else:
            share = json.loads(latency_file(cell, folder).read_text())["share"]
        keras.utils.set_random_seed(cell.seed)
        return task.network(share), []
    model = task.network()
    if cell.arm == "dense":
        return model, []
    if cell.arm in ("random", "regrowth"):
        rows, labels, *_ = split(task.data)
        batches = repeated_batches(rows, labels, task, cell.seed)
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
    start(cell.seed)
    task = TASKS[cell.task]
    task = task._replace(rate=task.rate * cell.factor)
    model, callbacks = _prepare(cell, task, folder)
    model = train(model, task, cell.seed, callbacks)
    kept = sum(int(np.count_nonzero(w)) for w in model.get_weights())
    found = {**cell._asdict(), **held_out(model, task), "weights": kept}
    write_json(cell.file(folder), found)


def chosen_rates(arms: list[str], run: Callable[[list[Cell]], list[dict]]) -> Factors:
    """The factors of the dense network and of `arms` in all tasks."""
    trials = tuning_cells(arms)
    factors = best_factors([c for c in trials if c.task in LONG_TRAININGS], run)
    factors |= best_factors(
        [c for c in trials if c.task not in LONG_TRAININGS],
        run,
        more_seeds=MORE_TUNING_SEEDS,
    )
    return factors


def dense_rates(arms: list[str], run: Callable[[list[Cell]], list[dict]]) -> Factors:
    """The factors of the dense network in all tasks, for itself and for `arms`."""
    factors = chosen_rates([], run)
    of_all = {(task, arm): factors[task, "dense"] for task in TASKS for arm in arms}
    return factors | of_all


def how_chosen(whose: str) -> str:
    """How the learning rates were chosen, in words."""
    return (
        f"{whose} was chosen for each task by doubling and halving, until the two "
        "rates on either side of the best were worse, by the mean of two seeds that "
        f"are not reported. In all tasks but {'; '.join(LONG_TRAININGS)} the two best "
        "rates were then tried on two more. Nothing else was tuned."
    )


def main() -> None:
    """Trains the cells that are missing and writes the table and the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], help="two or more")
    add("--arms", nargs="+", default=list(ARMS), choices=ARMS, help="beside the dense")
    add("--workers", type=int, default=os.cpu_count(), help="cells at a time")
    add("--output", type=pathlib.Path, default=pathlib.Path("out/quality"))
    add("--dense-rates", action="store_true", help="tune the dense networks alone")
    options = parser.parse_args()

    def run(wanted: list[Cell]) -> list[dict]:
        run_missing(wanted, run_cell, options.output, options.workers)
        return [json.loads(cell.file(options.output).read_text()) for cell in wanted]

    options.output.mkdir(parents=True, exist_ok=True)
    latencies = {}
    if "narrow_fast" in options.arms:
        latencies = measure_latencies(options.output)
    name, heading, choose = "quality", "Quality on real data", chosen_rates
    how = how_chosen("The learning rate of each arm")
    if options.dense_rates:
        name, heading = "quality_dense_rates", "Quality at the dense network's rate"
        choose = dense_rates
        how = how_chosen("All arms have the learning rate of the dense network, which")
    factors = choose(options.arms, run)
    results = run(cells(options.seeds, options.arms, factors))
    columns = [(name, *cell) for name, task in TASKS.items() for cell in task.cells]
    seeds = " ".join(map(str, options.seeds))
    command = f"python -m benchmarks.quality --seeds {seeds}"
    if options.arms != list(ARMS):
        command += f" --arms {' '.join(options.arms)}"
    if options.dense_rates:
        command += " --dense-rates"
    picture = RESULTS / f"{name}.png"
    text = report(
        results,
        columns,
        HELD_BACK,
        heading,
        how,
        factors,
        latencies,
        command,
        picture,
    )
    write_whole(RESULTS / f"{name}.md", text)
    write_json(RESULTS / f"{name}.json", results)
    print(text)


if __name__ == "__main__":
    main()
