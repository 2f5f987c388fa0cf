"""Compares ways to an N:M pattern on real data that come inside packages.

Three tasks of `benchmarks/quality.py` with fewer steps; in the transformer the
feed-forward layers are pruned. All arms have the same data,
steps, batches and learning rate, which was chosen for the dense network; nothing was
tuned for any arm. A tenth of the steps is dense, the pattern is reached after three
quarters, and the rest trains at the pattern; SR-STE has it from the first step. The
last fifth of the rows is held out. Every cell is kept in a file, so an interrupted run
goes on where it stopped.

    pip install 'tf-seqattn[quality]'
    python -m benchmarks.nm_quality
"""

import argparse
import json
import pathlib
from typing import NamedTuple

import numpy as np
import tensorflow as tf
import tf_keras as keras

import tf_seqattn as sa
from benchmarks.quality_tasks import networks
from benchmarks.quality_tasks.data import split
from tf_seqattn.experiments.markdown_table import markdown_table
from tf_seqattn.experiments.mean_and_error import mean_and_error, mean_and_error_text
from tf_seqattn.experiments.progress import progress_bar
from tf_seqattn.files import write_json, write_whole

RESULTS = pathlib.Path(__file__).parent / "results"
# Data, network, learning rate of Adam, steps, rows of a batch.
TASKS = {
    "digits": ("digits", networks.perceptron, 1e-3, 300, 64),
    "flights": ("flights", networks.click_model_of_flights, 1e-3, 200, 256),
    "source code": ("source code", networks.transformer, 3e-3, 300, 32),
}
PATTERNS = ("2:4", "1:4", "1:8", "1:16", "1:32")
_CODE = {"gradient": "straight", "every_step": True}


class Arm(NamedTuple):
    """A way to a pattern.

    Attributes:
      title: in the table.
      options: of `sa.NofM`.
      importance: what is scored; None for our default.
      from_start: whether the pattern is there from the first step.
    """

    title: str
    options: dict
    importance: sa.Importance | None = sa.Magnitude()
    from_start: bool = False


ARMS = {
    "linear": Arm("mask decay, linear (code)", {"decay": "linear", **_CODE}),
    "exponential": Arm(
        "mask decay, exponential (code)", {"decay": "exponential", **_CODE}
    ),
    "stepwise": Arm("structure decay, stepwise (code)", {"decay": "stepwise", **_CODE}),
    "geometric": Arm(
        "structure decay, geometric (code)", {"decay": "geometric", **_CODE}
    ),
    "linear, damped": Arm(
        "mask decay, linear (text: damped)", {"decay": "linear", "every_step": True}
    ),
    "exponential, damped": Arm(
        "mask decay, exponential (text: damped)",
        {"decay": "exponential", "every_step": True},
    ),
    "linear, at updates": Arm(
        "mask decay, linear, damped, chosen at updates", {"decay": "linear"}
    ),
    "attention": Arm(
        "the same with sequential attention (our default)",
        {"decay": "linear"},
        None,
    ),
    "sr-ste": Arm(
        "SR-STE", {"gradient": "regularized", "every_step": True}, from_start=True
    ),
}
BASELINE = "sr-ste"


class Cell(NamedTuple):
    """One training: `pattern` is "" for the dense network."""

    task: str
    arm: str
    pattern: str
    seed: int

    def file(self, folder: pathlib.Path) -> pathlib.Path:
        """Where its result is kept; the name tells the budget too."""
        parts = (self.task, str(TASKS[self.task][3]), self.arm, self.pattern)
        name = "_".join(parts).replace(", ", "_").replace(" ", "_").replace(":", "of")
        return folder / f"{name}_{self.seed}.json"


def cells(seeds: list[int], patterns: list[str]) -> list[Cell]:
    """All trainings."""
    return [
        cell
        for seed in seeds
        for task in TASKS
        for cell in [
            Cell(task, "dense", "", seed),
            *(Cell(task, arm, p, seed) for p in patterns for arm in ARMS),
        ]
    ]


class HiddenLayers(sa.PruningPolicy):
    """Prunes the dense hidden layers, as the paper does the feed-forward ones."""

    def allow_pruning(self, layer) -> bool:
        is_dense = isinstance(layer, keras.layers.Dense)
        return is_dense and layer.name.startswith("hidden")


def _pruned(model: keras.Model, cell: Cell, steps: int) -> keras.Model:
    arm = ARMS[cell.arm]
    pattern = sa.NofM(cell.pattern, **arm.options)
    schedule = sa.GradualSchedule(
        pattern.sparsity, end_step=3 * steps // 4, begin_step=steps // 10, power=1
    )
    if arm.from_start:
        schedule = sa.OneShotSchedule(pattern.sparsity, prune_step=0)
    return sa.prune(
        model,
        schedule,
        importance=arm.importance,
        pruning_policy=HiddenLayers(),
        pattern=pattern,
    )


def run_cell(cell: Cell, folder: pathlib.Path) -> None:
    """Trains a cell and writes its loss (nats) and accuracy on the rows held out."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(cell.seed)
    name, network, rate, steps, batch_size = TASKS[cell.task]
    rows, labels, held_rows, held_labels = split(name)
    data = tf.data.Dataset.from_tensor_slices((rows, labels))
    batches = data.shuffle(min(len(rows), 50_000), seed=cell.seed).repeat()
    batches = batches.batch(batch_size).prefetch(2)
    model = network()
    if cell.arm != "dense":
        model = _pruned(model, cell, steps)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    decay = keras.optimizers.schedules.CosineDecay(rate, steps)
    model.compile(keras.optimizers.Adam(decay), loss)
    callbacks = [sa.UpdatePruningStep()] if sa.pruned_layers(model) else []
    model.fit(batches, steps_per_epoch=steps, verbose=0, callbacks=callbacks)
    zeros = []
    if sa.pruned_layers(model):
        model = sa.strip_pruning(model)
        zeros = [
            float(np.mean(layer.kernel.numpy() == 0))
            for layer in model.layers
            if isinstance(layer, keras.layers.Dense) and "hidden" in layer.name
        ]
    model.compile(loss=loss, metrics=["accuracy"])
    found = model.evaluate(
        held_rows, held_labels, batch_size=2048, verbose=0, return_dict=True
    )
    write_json(cell.file(folder), {**cell._asdict(), **found, "zeros": zeros})


def report(results: list[dict], patterns: list[str], command: str) -> str:
    """The page of results."""
    losses: dict[tuple, list[float]] = {}
    for result in sorted(results, key=lambda r: r["seed"]):
        key = (result["task"], result["arm"], result["pattern"])
        losses.setdefault(key, []).append(result["loss"])
    seeds = len(next(iter(losses.values())))

    def text(values: list[float], is_best: bool) -> str:
        cell = mean_and_error_text(values)
        return f"**{cell}**" if is_best else cell

    parts, ranks, duels = [], {arm: [] for arm in ARMS}, {arm: [] for arm in ARMS}
    for task in TASKS:
        rows = {arm: [ARMS[arm].title] for arm in ARMS}
        for pattern in patterns:
            column = {arm: losses[task, arm, pattern] for arm in ARMS}
            means = {arm: np.mean(values) for arm, values in column.items()}
            order = sorted(ARMS, key=means.get)
            for arm in ARMS:
                rows[arm].append(text(column[arm], arm == order[0]))
                ranks[arm].append(1 + order.index(arm))
                more, error = mean_and_error(np.subtract(column[arm], column[BASELINE]))
                duels[arm].append(more / max(error, 1e-12))
        dense = text(losses[task, "dense", ""], False)
        parts.append(
            f"## {task}: log loss on the rows held out (dense {dense})\n\n"
            + markdown_table(["way", *patterns], list(rows.values()))
        )
    summary = markdown_table(
        ["way", "mean rank", "ahead of SR-STE by over 2 standard errors", "behind"],
        [
            [
                ARMS[arm].title,
                f"{np.mean(ranks[arm]):.1f}",
                None if arm == BASELINE else str(int(np.sum(np.array(d) < -2))),
                None if arm == BASELINE else str(int(np.sum(np.array(d) > 2))),
            ]
            for arm, d in sorted(duels.items(), key=lambda a: np.mean(ranks[a[0]]))
        ],
    )
    return (
        "# Ways to an N:M pattern\n\n"
        f"`{command}`: {seeds} seeds, one thread, ± is a standard error, the least "
        "of a column is bold; nothing was tuned. A standard error of few seeds is "
        "rough. `(code)` is the paper's "
        "repository: the gradient goes straight through the mask, and the choice is "
        "made at every step. `(text)` damps it by the mask. No runtime that we export "
        "to computes N:M any faster: the entries are zeros, and the files have a plan "
        "for blocks alone.\n\n"
        f"## {len(TASKS) * len(patterns)} cells\n\n{summary}\n" + "\n".join(parts)
    )


def main() -> None:
    """Trains the cells that are missing and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], help="two or more")
    add("--patterns", nargs="+", default=list(PATTERNS), choices=PATTERNS)
    add("--output", type=pathlib.Path, default=pathlib.Path("out/nm_quality"))
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    every = cells(options.seeds, options.patterns)
    missing = [cell for cell in every if not cell.file(options.output).exists()]
    with progress_bar(len(missing), "cells", "N:M") as bar:
        for cell in missing:
            run_cell(cell, options.output)
            bar.update(1)
    results = [json.loads(cell.file(options.output).read_text()) for cell in every]
    seeds = " ".join(map(str, options.seeds))
    command = f"python -m benchmarks.nm_quality --seeds {seeds}"
    if options.patterns != list(PATTERNS):
        command += f" --patterns {' '.join(options.patterns)}"
    text = report(results, options.patterns, command)
    write_whole(RESULTS / "nm_quality.md", text)
    write_json(RESULTS / "nm_quality.json", results)
    print(text)


if __name__ == "__main__":
    main()
