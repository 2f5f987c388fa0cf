"""Bounds and activations of attention: what they are worth, how large attention gets.

Tasks of `benchmarks/quality.py`, pruned by our default, with other functions from
logits to attention, without bounds, and by the paper's recipe for ImageNet. By default
attention is the softmax over the blocks of a kernel, with mean 1; the layer multiplies
by it after clipping to `[d, 1 / d]`, `d` being the density at the end. Beside them
stand gradual magnitude, which has the same schedule and no attention, and a narrower
dense network.

    pip install 'tf-seqattn[quality]'
    python -m benchmarks.attention_bounds
"""

import argparse
import json
import pathlib
from typing import NamedTuple

import numpy as np
import tf_keras as keras

import tf_seqattn as sa
from benchmarks.quality import PHASES
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
from tf_seqattn.experiments.algorithms import pruning_schedule
from tf_seqattn.experiments.markdown_table import markdown_table
from tf_seqattn.experiments.mean_and_error import mean_and_error_text
from tf_seqattn.files import write_json, write_whole
from tf_seqattn.sparsity.importance import attention_entropy

RESULTS = pathlib.Path(__file__).parent / "results"
# (task, sparsity, side of a block).
COLUMNS = (
    ("digits, Adam", 0.9, 8),
    ("digits, convolutions", 0.9, 8),
    ("source code, transformer", 0.9, 8),
)
DEFAULT, PAPER, NARROW = "our default", "the paper's recipe", "narrower dense network"
# What scores the blocks.
ARMS = {
    DEFAULT: sa.SoftmaxAttention(),
    "without bounds": sa.SoftmaxAttention(clip=None),
    "exp": sa.SoftmaxAttention("exp"),
    "sigmoid": sa.SoftmaxAttention("sigmoid"),
    "identity": sa.SoftmaxAttention("identity"),
    "gradual magnitude": sa.Magnitude(),
    PAPER: sa.SoftmaxAttention.paper(),
    NARROW: None,
}
# Shares of the training.
TIMES = (0.1, 0.25, 0.5, 0.75, 1.0)


class Cell(NamedTuple):
    """One training."""

    arm: str
    task: str
    sparsity: float
    block_size: int
    seed: int

    def file(self, folder: pathlib.Path) -> pathlib.Path:
        """Where its result is kept; the name tells the budget too."""
        return file_of(folder, self.arm, self.task, TASKS[self.task].steps, *self[2:])


class Attention(keras.callbacks.Callback):
    """Notes the attention of all kernels at some times of the training.

    Args:
      steps: of the training.
      density: share of the blocks that stay at the end.
    """

    def __init__(self, steps: int, density: float):
        super().__init__()
        self._at = {round(share * steps) for share in TIMES}
        self._density = density
        self.found: list[dict] = []

    def on_train_batch_end(self, batch, logs=None):
        if batch + 1 not in self._at:
            return
        largest, entropies, low, high, kept = [], [], 0, 0, 0
        for wrapper in sa.pruned_layers(self.model):
            for pruned in wrapper.pruned_kernels:
                attention = wrapper.importance.attention(pruned.logits).numpy()
                active = pruned.mask.numpy() > 0
                largest.append(float(attention.max()))
                entropies.append(float(attention_entropy(attention)))
                low += int(np.sum(attention[active] < self._density))
                high += int(np.sum(attention[active] > 1 / self._density))
                kept += int(active.sum())
        self.found.append(
            {
                "step": batch + 1,
                "largest": max(largest),
                "entropy": float(np.mean(entropies)),
                "below": low / kept,
                "above": high / kept,
            }
        )


def run_cell(cell: Cell, folder: pathlib.Path) -> None:
    """Trains a cell and writes what its attention was."""
    start(cell.seed)
    task = TASKS[cell.task]
    attention = Attention(task.steps, 1 - cell.sparsity)
    if cell.arm == NARROW:
        share = networks.narrow_share(task.network, cell.sparsity)
        keras.utils.set_random_seed(cell.seed)
        model, callbacks = task.network(share), []
    else:
        algorithm = "seqattn" if cell.arm == PAPER else "long_rise"
        model = sa.prune(
            task.network(),
            pruning_schedule(algorithm, cell.sparsity, task.steps, PHASES),
            block_size=(cell.block_size, cell.block_size),
            importance=ARMS[cell.arm],
            pruning_policy=HiddenLayers(),
        )
        callbacks = [sa.UpdatePruningStep()]
        if isinstance(ARMS[cell.arm], sa.SoftmaxAttention):
            callbacks.append(attention)
    model = train(model, task, cell.seed, callbacks)
    found = {**cell._asdict(), "loss": held_out(model, task)["loss"]}
    write_json(cell.file(folder), {**found, "attention": attention.found})


def _losses(results: list[dict]) -> str:
    """Losses, and of all but our default the difference from it, seed by seed."""
    rows = differences_from(results, ARMS, [task for task, *_ in COLUMNS], DEFAULT)
    titles = [f"{task}, {sparsity:.0%}, {b} x {b}" for task, sparsity, b in COLUMNS]
    return markdown_table(["arm", *titles], rows)


def report(results: list[dict], command: str) -> str:
    """The page of results."""
    seeds = len({r["seed"] for r in results})
    parts = []
    for arm in (DEFAULT, PAPER):
        rows = []
        for column in COLUMNS:
            mine = [
                r["attention"]
                for r in results
                if (r["arm"], r["task"]) == (arm, column[0])
            ]
            for number, share in enumerate(TIMES):
                notes = [found[number] for found in mine]
                rows.append(
                    [
                        f"{column[0]}, {column[1]:.0%}, {column[2]} x {column[2]}",
                        f"{share:.0%}",
                        mean_and_error_text([n["largest"] for n in notes], 2),
                        mean_and_error_text([n["entropy"] for n in notes], 5),
                        mean_and_error_text([100 * n["below"] for n in notes], 1),
                        mean_and_error_text([100 * n["above"] for n in notes], 1),
                    ]
                )
        titles = [
            "task",
            "of the steps",
            "largest attention",
            "entropy",
            "kept blocks below d, %",
            "above 1 / d, %",
        ]
        parts.append(f"## Attention of {arm}\n\n{markdown_table(titles, rows)}")
    return (
        "# Bounds and activations of attention\n\n"
        f"`{command}`: {seeds} seeds, ± is a standard error. Attention has mean 1 over "
        "the blocks of a kernel; the largest is that of all kernels, before clipping "
        "to [d, 1 / d], where d is the share of the blocks that stay: 0.1 to 10 here. "
        "Entropy is a share of that of uniform attention, a mean over kernels. Our "
        "default has `rate_power=0` here.\n\n"
        "## Log loss on rows held out\n\nBelow our default stands the difference from "
        "it, taken seed by seed: above 0 the default is better.\n\n"
        f"{_losses(results)}\n" + "\n".join(parts)
    )


def main() -> None:
    """Trains what is missing and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], help="two or more")
    add("--workers", type=int, default=1, help="trainings at a time")
    add("--output", type=pathlib.Path, default=pathlib.Path("out/attention_bounds"))
    options = parser.parse_args()
    every = [
        Cell(arm, *column, seed)
        for seed in options.seeds
        for column in COLUMNS
        for arm in ARMS
    ]
    run_missing(every, run_cell, options.output, options.workers)
    results = [json.loads(cell.file(options.output).read_text()) for cell in every]
    seeds = " ".join(map(str, options.seeds))
    text = report(results, f"python -m benchmarks.attention_bounds --seeds {seeds}")
    write_whole(RESULTS / "attention_bounds.md", text)
    write_json(RESULTS / "attention_bounds.json", results)
    print(text)


if __name__ == "__main__":
    main()
