"""How long the sparsity should rise, and how the paper's phases share out the steps.

Three tasks of `benchmarks/quality.py` without 90 % of their blocks. Our default and
gradual magnitude end their rise at several shares of the training; then the mask is
fixed. The paper's recipe has other durations of its first dense and its last sparse
phase. A narrower dense network stands beside them. Each algorithm has the learning rate
that `quality.py` chose for it in the task.

    pip install 'tf-seqattn[quality]'
    python -m benchmarks.phase_durations
"""

import argparse
import json
import os
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import tf_keras as keras

import tf_seqattn as sa
from benchmarks.quality_tasks import networks
from benchmarks.quality_tasks.report import differences_from
from benchmarks.quality_tasks.tasks import (
    TASKS,
    HiddenLayers,
    file_of,
    held_out,
    run_missing,
    start,
    train,
)
from tf_seqattn.experiments import command_line
from tf_seqattn.experiments.markdown_table import markdown_table
from tf_seqattn.files import write_json, write_whole

RESULTS = pathlib.Path(__file__).parent / "results"
COLUMNS = ("digits, Adam", "digits, convolutions", "source code, transformer")
SPARSITY, SIDE = 0.9, 8
# Shares of the steps at whose end the sparsity is reached.
RISES = (0.25, 0.5, 0.75, 0.9)
# Of the paper's recipe: shares of the first dense and the last sparse phase.
PAPER = ((0.1, 0.15), (0.1, 0.5), (0.3, 0.15), (0.3, 0.5))
DEFAULT = "our default, rise over 75%"
NARROW = "narrower dense network"


class Arm(NamedTuple):
    """A way to train.

    Attributes:
      rate_of: the arm of `quality.py` whose learning rate it has.
      schedule: from the steps; None for a dense network.
      importance: what scores the blocks; None for what the schedule goes with.
    """

    rate_of: str
    schedule: Callable[[int], sa.PruningSchedule] | None
    importance: sa.Importance | None = None


def _ours(share: float) -> Arm:
    return Arm(
        "recommended",
        lambda steps: sa.SequentialAttentionSchedule(SPARSITY, steps, rise=share),
    )


def _gradual(share: float) -> Arm:
    return Arm(
        "gradual",
        lambda steps: sa.GradualSchedule(SPARSITY, end_step=round(share * steps)),
        sa.Magnitude(),
    )


def _paper(dense: float, sparse: float) -> Arm:
    return Arm(
        "seqattn",
        lambda steps: sa.SequentialAttentionSchedule(
            SPARSITY, steps, cycles=7, dense_fraction=dense, finetune_fraction=sparse
        ),
    )


ARMS = (
    {f"our default, rise over {share:.0%}": _ours(share) for share in RISES}
    | {f"gradual magnitude, rise over {s:.0%}": _gradual(s) for s in RISES}
    | {f"the paper's, {d:.0%} dense, {s:.0%} sparse": _paper(d, s) for d, s in PAPER}
    | {NARROW: Arm("narrow", None)}
)


class Cell(NamedTuple):
    """One training."""

    arm: str
    task: str
    factor: float
    seed: int

    def file(self, folder: pathlib.Path) -> pathlib.Path:
        """Where its result is kept; the name tells the budget too."""
        return file_of(folder, self.arm, self.task, TASKS[self.task].steps, *self[2:])


def factors() -> dict[tuple[str, str], float]:
    """Factors of the rates of tasks, by task and arm, as `quality.py` chose them."""
    results = json.loads((RESULTS / "quality.json").read_text())
    return {(r["task"], r["arm"]): r["factor"] for r in results}


def run_cell(cell: Cell, folder: pathlib.Path) -> None:
    """Trains a cell and writes its loss (nats) and accuracy on the rows held out."""
    start(cell.seed)
    task, arm = TASKS[cell.task], ARMS[cell.arm]
    task = task._replace(rate=task.rate * cell.factor)
    if arm.schedule is None:
        share = networks.narrow_share(task.network, SPARSITY)
        keras.utils.set_random_seed(cell.seed)
        model, callbacks = task.network(share), []
    else:
        model = sa.prune(
            task.network(),
            arm.schedule(task.steps),
            block_size=(SIDE, SIDE),
            importance=arm.importance,
            pruning_policy=HiddenLayers(),
        )
        callbacks = [sa.UpdatePruningStep()]
    model = train(model, task, cell.seed, callbacks)
    write_json(cell.file(folder), {**cell._asdict(), **held_out(model, task)})


def report(results: list[dict], command: str) -> str:
    """The page of results: losses, and differences from the default seed by seed."""
    rows = differences_from(results, ARMS, COLUMNS, DEFAULT)
    seeds = len({r["seed"] for r in results})
    return (
        "# Durations of phases\n\n"
        f"`{command}`: log loss (nats) on rows held out without {SPARSITY:.0%} of the "
        f"blocks of {SIDE} x {SIDE}, {seeds} seeds, ± is a standard error. All but our "
        "default show the difference from it, taken seed by seed: above 0 the default "
        "is better. After a rise the mask is fixed. The paper's recipe has 7 cycles "
        "between its first dense and its last sparse phase. Each algorithm has the "
        "learning rate that was chosen for it, with its usual durations, on other "
        "seeds.\n\n" + markdown_table(["arm", *COLUMNS], rows)
    )


def main() -> None:
    """Trains what is missing and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], help="two or more")
    add("--workers", type=int, default=os.cpu_count(), help="trainings at a time")
    add("--output", type=pathlib.Path, default=pathlib.Path("out/phase_durations"))
    options = parser.parse_args()
    chosen = factors()
    every = [
        Cell(arm, task, chosen[task, ARMS[arm].rate_of], seed)
        for seed in options.seeds
        for task in COLUMNS
        for arm in ARMS
    ]
    run_missing(every, run_cell, options.output, options.workers)
    results = [json.loads(cell.file(options.output).read_text()) for cell in every]
    seeds = ["--seeds", *map(str, options.seeds)]
    text = report(
        results, command_line.command_text("benchmarks.phase_durations", seeds)
    )
    write_whole(RESULTS / "phase_durations.md", text)
    write_json(RESULTS / "phase_durations.json", results)
    print(text)


if __name__ == "__main__":
    main()
