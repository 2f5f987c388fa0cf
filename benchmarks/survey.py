"""Seven pairs of ways to prune at one budget (the survey of arXiv 2308.06767).

Two tasks of `benchmarks/quality.py`, each with two hidden layers of 256, Adam, and two
sparsities. All arms have the same steps in all,
batches, learning rate and weights kept in the hidden layers; nothing was tuned for any
arm. What is pruned after training is pruned after a third of the steps. The last fifth
of the rows is held out. Every cell is kept in a file, so an interrupted run goes on
where it stopped.

    pip install 'tf-seqattn[quality]'
    python -m benchmarks.survey
"""

import argparse
import itertools
import json
import pathlib
from typing import NamedTuple

import numpy as np
import tensorflow as tf
import tf_keras as keras

import tf_seqattn as sa
from benchmarks.quality_tasks import networks
from benchmarks.quality_tasks.data import split
from benchmarks.quality_tasks.fixed_support import FixedSupport
from benchmarks.quality_tasks.tasks import HiddenLayers
from tf_seqattn.experiments.markdown_table import markdown_table
from tf_seqattn.experiments.mean_and_error import mean_and_error, mean_and_error_text
from tf_seqattn.experiments.progress import progress_bar
from tf_seqattn.files import write_json, write_whole

RESULTS = pathlib.Path(__file__).parent / "results"
# Network and rows of a batch.
TASKS = {
    "digits": (networks.perceptron, 64),
    "flights": (networks.click_model_of_flights, 256),
}
STEPS, RATE = 300, 1e-3
BEFORE = STEPS // 3
SPARSITIES = (0.8, 0.95)
_ENTRIES = (1, 1)
ARMS = (
    "one-shot",
    "channels",
    "gradual",
    "attention",
    "global",
    "at initialization",
    "random",
    "regrowth",
    "new weights",
)
# The setting, its first side and arm, its second side and arm.
PAIRS = (
    ("structure", "unstructured", "one-shot", "structured", "channels"),
    ("rounds", "one-shot", "one-shot", "iterative", "gradual"),
    ("criterion", "data-free (magnitude)", "gradual", "data-driven (attention)",
     "attention"),
    ("ranking", "local", "one-shot", "global", "global"),
    ("when", "pretrained", "one-shot", "at initialization", "at initialization"),
    ("support", "static, random", "random", "dynamic (RigL)", "regrowth"),
    ("weights", "kept", "one-shot", "new, same mask", "new weights"),
)  # fmt: skip


class Cell(NamedTuple):
    """One training: `sparsity` is 0 for the dense network."""

    task: str
    arm: str
    sparsity: float
    seed: int

    def file(self, folder: pathlib.Path) -> pathlib.Path:
        """Where its result is kept; the name tells the budget too."""
        arm = self.arm.replace(" ", "_")
        return folder / f"{self.task}_{arm}_{self.sparsity:g}_{STEPS}_{self.seed}.json"


def cells(seeds: list[int]) -> list[Cell]:
    """All trainings."""
    return [
        cell
        for seed in seeds
        for task in TASKS
        for cell in [
            Cell(task, "dense", 0.0, seed),
            *(Cell(task, arm, s, seed) for s in SPARSITIES for arm in ARMS),
        ]
    ]


def _at_once(model: keras.Model, cell: Cell, **options) -> keras.Model:
    """Prunes by magnitude, with no training."""
    return sa.prune(
        model,
        sa.OneShotSchedule(cell.sparsity, prune_step=0),
        importance=sa.Magnitude(),
        pruning_policy=HiddenLayers(),
        **{"block_size": _ENTRIES, **options},
    )


def _gradually(model: keras.Model, cell: Cell, importance: sa.Importance):
    schedule = sa.GradualSchedule(cell.sparsity, end_step=3 * STEPS // 4)
    policy = HiddenLayers()
    return sa.prune(model, schedule, _ENTRIES, importance, policy)


def _with_new_weights(pruned: keras.Model, cell: Cell) -> keras.Model:
    """The same zeros among other random weights."""
    zeros = [w == 0 for w in sa.strip_pruning(pruned).get_weights()]
    keras.utils.set_random_seed(1000 + cell.seed)
    model = TASKS[cell.task][0]()
    weights = model.get_weights()
    kernels = [
        np.where(zero, 0.0, w) if w.ndim > 1 else w
        for zero, w in zip(zeros, weights, strict=True)
    ]
    model.set_weights(kernels)
    return _at_once(model, cell)


class _Later(keras.optimizers.schedules.LearningRateSchedule):
    """The cosine of all steps, from a later one on."""

    def __init__(self, first: int):
        self._first = first
        self._cosine = keras.optimizers.schedules.CosineDecay(RATE, STEPS)

    def __call__(self, step):
        return self._cosine(step + self._first)


def _fit(model: keras.Model, batches, steps: int, first: int, callbacks=()) -> None:
    """Trains for some of the steps, with the rate of one cosine over all of them."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(_Later(first)), loss)
    callbacks = list(callbacks)
    if sa.pruned_layers(model):
        callbacks.append(sa.UpdatePruningStep())
    model.fit(batches, steps_per_epoch=steps, verbose=0, callbacks=callbacks)


def run_cell(cell: Cell, folder: pathlib.Path) -> None:
    """Trains a cell and writes its loss (nats) and accuracy on the rows held out."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(cell.seed)
    network, batch = TASKS[cell.task]
    rows, labels, held_rows, held_labels = split(cell.task)
    data = tf.data.Dataset.from_tensor_slices((rows, labels))
    batches = data.shuffle(min(len(rows), 50_000), seed=cell.seed).repeat()
    batches = batches.batch(batch).prefetch(2)
    model = network()
    callbacks, done = [], 0
    if cell.arm in ("random", "regrowth"):
        gradients_on = batches if cell.arm == "regrowth" else None
        callbacks.append(FixedSupport(cell.sparsity, 1, STEPS, gradients_on, cell.seed))
    elif cell.arm == "gradual":
        model = _gradually(model, cell, sa.Magnitude())
    elif cell.arm == "attention":
        model = _gradually(model, cell, sa.SoftmaxAttention())
    elif cell.arm == "at initialization":
        model = _at_once(model, cell)
    elif cell.arm != "dense":
        done = BEFORE
        _fit(model, batches, done, 0)
        options = {}
        if cell.arm == "channels":
            options["block_size"] = (None, 1)
        if cell.arm == "global":
            options["sparsity"] = sa.global_allocation(
                model, cell.sparsity, _ENTRIES, HiddenLayers()
            )
        model = _at_once(model, cell, **options)
        if cell.arm == "new weights":
            model = _with_new_weights(model, cell)
    _fit(model, batches, STEPS - done, done, callbacks)
    if sa.pruned_layers(model):
        model = sa.strip_pruning(model)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(loss=loss, metrics=["accuracy"])
    found = model.evaluate(
        held_rows, held_labels, batch_size=1024, verbose=0, return_dict=True
    )
    kept = sum(
        int(np.count_nonzero(layer.kernel))
        for layer in model.layers
        if layer.name.startswith("hidden")
    )
    write_json(cell.file(folder), {**cell._asdict(), **found, "kept": kept})


def report(results: list[dict], command: str) -> str:
    """The page of results."""
    losses: dict[tuple, list[float]] = {}
    for result in sorted(results, key=lambda r: r["seed"]):
        key = result["task"], result["arm"], result["sparsity"]
        losses.setdefault(key, []).append(result["loss"])
    seeds = len(next(iter(losses.values())))
    rows, summary = [], []
    for setting, first, first_arm, second, second_arm in PAIRS:
        found = []
        for task, sparsity in itertools.product(TASKS, SPARSITIES):
            one = losses[task, first_arm, sparsity]
            other = losses[task, second_arm, sparsity]
            more, error = mean_and_error(np.subtract(one, other))
            better = second if more > 0 else first
            clear = abs(more) > 2 * error
            found.append(better if clear else "undecided")
            rows.append(
                [
                    setting,
                    f"{task}, {sparsity:.0%}",
                    f"{first}: {mean_and_error_text(one)}",
                    f"{second}: {mean_and_error_text(other)}",
                    found[-1],
                ]
            )
        counts = [
            f"{name}: {found.count(name)}" for name in (first, second, "undecided")
        ]
        summary.append([setting, *counts])
    kept = {(r["task"], r["arm"], r["sparsity"]): r["kept"] for r in results}
    shares = [
        f"- {task}, {sparsity:.0%}: "
        + ", ".join(f"{arm} {kept[task, arm, sparsity]:,}" for arm in ARMS)
        for task, sparsity in itertools.product(TASKS, SPARSITIES)
    ]
    dense = " and ".join(
        f"{mean_and_error_text(losses[t, 'dense', 0.0])} ({t})" for t in TASKS
    )
    return (
        "# Seven pairs of ways to prune at one budget\n\n"
        f"`{command}`: log loss on the rows held out, {seeds} seeds, ± is a standard "
        f"error; {STEPS} steps in all for every arm. The dense networks reach {dense}. "
        "A pair is decided if the seeds' differences are over 2 standard errors from 0."
        f"\n\n## In how many of {len(TASKS) * len(SPARSITIES)} cells is which side "
        "better?\n\n"
        + markdown_table(["pair", "one", "other", ""], summary)
        + "\n## Losses\n\n"
        + markdown_table(["pair", "task, sparsity", "one", "other", "better"], rows)
        + "\n## Weights that stay in the hidden layers\n\n"
        + "\n".join(shares)
        + "\n"
    )


def main() -> None:
    """Trains the cells that are missing and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], help="two or more")
    add("--output", type=pathlib.Path, default=pathlib.Path("out/survey"))
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    every = cells(options.seeds)
    missing = [cell for cell in every if not cell.file(options.output).exists()]
    with progress_bar(len(missing), "cells", "Survey") as bar:
        for cell in missing:
            run_cell(cell, options.output)
            bar.update(1)
    results = [json.loads(cell.file(options.output).read_text()) for cell in every]
    seeds = " ".join(map(str, options.seeds))
    text = report(results, f"python -m benchmarks.survey --seeds {seeds}")
    write_whole(RESULTS / "survey.md", text)
    write_json(RESULTS / "survey.json", results)
    print(text)


if __name__ == "__main__":
    main()
