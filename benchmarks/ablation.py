"""What each part of the recipes is worth: one part at a time is left out.

On four cells of `benchmarks/quality.py`, the default and the paper's recipe for
ImageNet are trained whole, and without their parts. Every arm has the same steps and
batches, and a learning rate that `benchmarks/quality.py` chose.
Every training is kept in a file, so an interrupted run goes on where it stopped.

    pip install 'tf-seqattn[quality]'
    python -m benchmarks.ablation
"""

import argparse
import json
import os
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

import tf_seqattn as sa
from benchmarks.quality import PHASES
from benchmarks.quality_tasks.tasks import (
    TASKS,
    HiddenLayers,
    file_of,
    held_out,
    run_missing,
    start,
    train,
)
from tf_seqattn.experiments.algorithms import find_algorithm, pruning_schedule
from tf_seqattn.experiments.markdown_table import markdown_table
from tf_seqattn.experiments.mean_and_error import mean_and_error_text
from tf_seqattn.files import write_json, write_whole

RESULTS = pathlib.Path(__file__).parent / "results"
# (task, sparsity, side of a block).
COLUMNS = (
    ("digits, Adam", 0.9, 8),
    ("digits, SGD", 0.97, 16),
    ("flights", 0.9, 8),
    ("source code, transformer", 0.8, 8),
)
DEFAULT, PAPER = "our default", "the paper's recipe"
# Their names in the table of quality.
_ARMS = {DEFAULT: "recommended", PAPER: "seqattn"}

Schedule = Callable[[float, int], sa.PruningSchedule | None]


class Recipe(NamedTuple):
    """A way to prune.

    Attributes:
      whole: the recipe of which a part is left out or replaced.
      schedule: from target sparsity and training steps to a schedule.
      importance: makes what scores the blocks.
      reset: as in `sa.UpdatePruningStep`.
      rates: arm of the table of quality whose learning rates it has, if not the whole
        recipe's.
    """

    whole: str
    schedule: Schedule
    importance: Callable[[], sa.Importance]
    reset: bool | None = None
    rates: str | None = None


def _rise(**options) -> Schedule:
    return lambda sparsity, steps: sa.SequentialAttentionSchedule(
        sparsity, steps, **options
    )


def _phases_of(name: str) -> Schedule:
    return lambda sparsity, steps: pruning_schedule(name, sparsity, steps, PHASES)


def _ours(**changed) -> Callable[[], sa.Importance]:
    return lambda: sa.SoftmaxAttention(**changed)


def _papers(**changed) -> Callable[[], sa.Importance]:
    return lambda: sa.SoftmaxAttention(rank="attention", logit_rate=None, **changed)


RECIPES = {
    DEFAULT: Recipe(DEFAULT, _rise(), _ours()),
    "a learning rate that does not grow": Recipe(
        DEFAULT, _rise(rate_power=0.0), _ours(), rates="long_rise"
    ),
    "a rate that grows by the fourth root": Recipe(
        DEFAULT, _rise(rate_power=0.25), _ours()
    ),
    "the rise over half of the steps": Recipe(DEFAULT, _rise(rise=0.5), _ours()),
    "blocks that go never come back": Recipe(DEFAULT, _rise(revise=False), _ours()),
    "norm alone, without attention": Recipe(DEFAULT, _rise(), sa.Magnitude),
    "ranked by attention alone": Recipe(DEFAULT, _rise(), _ours(rank="attention")),
    "ranked by attention times the whole norm": Recipe(
        DEFAULT, _rise(), _ours(rank="effective")
    ),
    "ranked by the eighth root of the norm in every kernel": Recipe(
        DEFAULT, _rise(), _ours(rank=0.125)
    ),
    "logits twice as fast": Recipe(DEFAULT, _rise(), _ours(logit_rate=1.0)),
    "logits moved by the optimizer": Recipe(DEFAULT, _rise(), _ours(logit_rate=None)),
    "without the clip": Recipe(DEFAULT, _rise(), _ours(clip=None)),
    "optimizer reset at phases": Recipe(DEFAULT, _rise(), _ours(), True),
    "in the paper's cycles, the rate as it is": Recipe(
        DEFAULT, _phases_of("seqattn"), _ours(), False, "long_rise"
    ),
    PAPER: Recipe(PAPER, _phases_of("seqattn"), _papers(), True),
    "without the reset": Recipe(PAPER, _phases_of("seqattn"), _papers(), False),
    "without its clip": Recipe(PAPER, _phases_of("seqattn"), _papers(clip=None), True),
    "without sparsification phases (ACDC's)": Recipe(
        PAPER, _phases_of("acdc"), _papers(), True
    ),
    "without cycles": Recipe(PAPER, _rise(rate_power=0.0), _papers(), True),
}


class Cell(NamedTuple):
    """One training: of `RECIPES`, on a cell of `COLUMNS`.

    `factor` is that of the task's learning rate.
    """

    recipe: str
    task: str
    sparsity: float
    block_size: int
    seed: int
    factor: float

    def file(self, folder: pathlib.Path) -> pathlib.Path:
        """Where its result is kept; the name tells the budget too."""
        steps = TASKS[self.task].steps
        return file_of(folder, self.recipe, self.task, steps, *self[2:])


def run_cell(cell: Cell, folder: pathlib.Path) -> None:
    """Trains a cell and writes its loss (nats) on the rows held out."""
    start(cell.seed)
    task, recipe = TASKS[cell.task], RECIPES[cell.recipe]
    task = task._replace(rate=task.rate * cell.factor)
    model = sa.prune(
        task.network(),
        recipe.schedule(cell.sparsity, task.steps),
        block_size=(cell.block_size, cell.block_size),
        importance=recipe.importance(),
        pruning_policy=HiddenLayers(),
    )
    callbacks = [sa.UpdatePruningStep(reset_optimizer=recipe.reset)]
    sparse = train(model, task, cell.seed, callbacks)
    found = {**cell._asdict(), "loss": held_out(sparse, task)["loss"]}
    write_json(cell.file(folder), found)


def table(results: list[dict]) -> str:
    """Losses of the whole recipes; of the others the difference, seed by seed."""
    losses: dict = {}
    for r in sorted(results, key=lambda r: r["seed"]):
        key = (r["recipe"], (r["task"], r["sparsity"], r["block_size"]))
        losses.setdefault(key, []).append(r["loss"])
    lines = []
    for name, recipe in RECIPES.items():
        cells = []
        for column in COLUMNS:
            own = np.array(losses[name, column])
            if name == recipe.whole:
                cells.append(f"{own.mean():.4f}")
                continue
            more = own - losses[recipe.whole, column]
            cells.append(mean_and_error_text(more, signed=True))
        lines.append([f"**{name}**" if name == recipe.whole else name, *cells])
    titles = [f"{task}, {sparsity:.0%}, {b} x {b}" for task, sparsity, b in COLUMNS]
    return markdown_table(["recipe", *titles], lines)


def main(arguments: list[str] | None = None) -> None:
    """Trains what is missing and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], help="two or more")
    add("--workers", type=int, default=os.cpu_count(), help="trainings at a time")
    add("--output", type=pathlib.Path, default=pathlib.Path("out/ablation"))
    options = parser.parse_args(arguments)
    chosen = {
        (result["task"], result["arm"]): result["factor"]
        for result in json.loads((RESULTS / "quality.json").read_text())
    }
    every = [
        Cell(
            name, *column, seed, chosen[column[0], recipe.rates or _ARMS[recipe.whole]]
        )
        for seed in options.seeds
        for column in COLUMNS
        for name, recipe in RECIPES.items()
    ]
    run_missing(every, run_cell, options.output, options.workers)
    results = [json.loads(cell.file(options.output).read_text()) for cell in every]
    seeds = " ".join(map(str, options.seeds))
    text = (
        "# Parts of the recipes\n\n"
        f"`python -m benchmarks.ablation --seeds {seeds}`: {len(options.seeds)} seeds. "
        "The learning rates are those that `benchmarks/quality.py` chose for the whole "
        "recipes. Where the rate does not grow in ours, they are those that it chose "
        f"for `{find_algorithm('long_rise').title}`. Log loss on rows held "
        "out; below each whole recipe the difference that a change makes, taken seed "
        "by seed, with its standard error. Above 0 the part helps."
        f"\n\n{table(results)}"
    )
    write_whole(RESULTS / "ablation.md", text)
    write_json(RESULTS / "ablation.json", results)
    print(text)


if __name__ == "__main__":
    main()
