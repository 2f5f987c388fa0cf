"""Fewer rows for embedding tables: loss against bytes on real clicks.

The click models of `benchmarks/quality.py` on flights and films, with tables of 2,000
rows, are trained whole. Then rows go, by importance, frequency or norm, or at random,
and the model is measured as it is and after a tenth of the steps more. Beside them
stand models with smaller tables from the start, trained for as many steps in all.
Numbers share rows by their remainder (the hashing trick), or the most frequent ones of
the first batch have rows of their own, for good or revised in training.

    pip install 'tf-seqattn[quality]' && pip install --no-deps recbole
    python -m benchmarks.table_rows
"""

import argparse
import json
import os
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tf_keras as keras

import tf_seqattn as sa
from benchmarks.quality_tasks.data import TABLE_ROWS, split
from benchmarks.quality_tasks.tasks import (
    TASKS,
    Task,
    held_out,
    run_missing,
    start,
    train,
)
from tf_seqattn.experiments.markdown_table import markdown_table
from tf_seqattn.experiments.mean_and_error import mean_and_error_text
from tf_seqattn.files import write_json, write_whole

RESULTS = pathlib.Path(__file__).parent / "results"
NAMES = ("flights", "films")
KEPT = (0.2, 0.05, 0.02)
WAYS = ("importance", "frequency", "norm", "random")
HASHED = "hashed from the start"
FIXED, REVISED = "first batch, fixed", "first batch, revised"
REVISIONS = 20
BATCH = 4096


class Cell(NamedTuple):
    """The trainings of a task and a seed."""

    task: str
    seed: int

    def file(self, folder: pathlib.Path) -> pathlib.Path:
        """Where its results are kept."""
        return folder / f"{self.task}_{TASKS[self.task].steps}_{self.seed}.json"


def tables_of(model: keras.Model) -> list[keras.layers.Layer]:
    """The tables that rows may leave."""
    return [la for la in model.layers if hasattr(la, "embeddings")]


def table_bytes(model: keras.Model) -> int:
    """Bytes of the tables and of the numbers of their rows."""
    return sum(
        w.dtype.size * w.shape.num_elements()
        for la in tables_of(model)
        for w in la.weights
    )


def hashed(network: Callable[[], keras.Model], keep: float) -> keras.Model:
    """The network with smaller tables, read at the remainder of the number."""
    rows = round(keep * TABLE_ROWS)

    def smaller(layer: keras.layers.Layer) -> keras.layers.Layer:
        config = layer.get_config()
        if isinstance(layer, keras.layers.Embedding):
            config["input_dim"] = rows
        return type(layer).from_config(config)

    model = keras.models.clone_model(network(), clone_function=smaller)
    inputs = keras.Input(model.input_shape[1:], dtype="int32")
    return keras.Model(inputs, model(inputs % rows))


def few_from_the_start(
    cell: Cell, keep: float, task: Task, revised: bool
) -> keras.Model:
    """A model of few rows at once: those that are frequent in the first batch.

    Args:
      cell: for its seed.
      keep: share of the weights of all tables.
      task: with the steps of the training.
      revised: whether training revises which they are.
    """
    start(cell.seed)
    network = task.network()
    rows, *_ = split(task.data)
    counts = sa.count_rows(network, [rows[: task.batch_size]])
    small = sa.prune_rows(network, keep, counts, "frequency", revised)
    if not revised:
        return train(small, task, cell.seed)
    every = task.steps // REVISIONS
    small = train(small, task, cell.seed, [sa.ReviseRows(every)])
    fixed = sa.fix_rows(small)
    fixed.compile(loss=small.loss, metrics=["accuracy"])
    return fixed


def run_cell(cell: Cell, folder: pathlib.Path) -> None:
    """Trains, prunes and measures all that a task and seed have."""
    task = TASKS[cell.task]
    longer = task._replace(steps=task.steps + task.steps // 10)
    more = task._replace(steps=task.steps // 10, rate=task.rate / 10)
    rows, *_ = split(task.data)
    results = []

    def add(way: str, keep: float, model: keras.Model, cost: int, after: bool) -> None:
        found = held_out(model, task)
        results.append(
            {**cell._asdict(), "way": way, "keep": keep, "bytes": cost,
             "trained_on": after, **found}
        )  # fmt: skip

    start(cell.seed)
    whole = train(task.network(), longer, cell.seed)
    add("whole", 1.0, whole, table_bytes(whole), True)
    start(cell.seed)
    model = train(task.network(), task, cell.seed)
    batches = [rows[at : at + BATCH] for at in range(0, len(rows), BATCH)]
    counts = sa.count_rows(model, batches)
    random = np.random.default_rng(cell.seed)
    drawn = {name: random.permutation(len(read)) for name, read in counts.items()}
    for keep in KEPT:
        for way in WAYS:
            by = "frequency" if way == "random" else way
            given = drawn if way == "random" else counts
            copy = keras.models.clone_model(model)
            copy.set_weights(model.get_weights())
            small = sa.prune_rows(copy, keep, given, by)
            small.compile(loss=model.loss, metrics=["accuracy"])
            add(way, keep, small, table_bytes(small), False)
            small = train(small, more, cell.seed)
            add(way, keep, small, table_bytes(small), True)
        start(cell.seed)
        rival = train(hashed(task.network, keep), longer, cell.seed)
        cost = (
            round(keep * TABLE_ROWS) * 4 * sum(la.output_dim for la in tables_of(model))
        )
        add(HASHED, keep, rival, cost, True)
        for way in (FIXED, REVISED):
            few = few_from_the_start(cell, keep, longer, way == REVISED)
            add(way, keep, few, table_bytes(few), True)
    write_json(cell.file(folder), results)


def table(results: list[dict]) -> str:
    """Loss less that of the whole model, seed by seed."""
    losses: dict = {}
    sizes: dict = {}
    for r in sorted(results, key=lambda r: r["seed"]):
        key = (r["task"], r["way"], r["keep"], r["trained_on"])
        losses.setdefault(key, []).append(r["loss"])
        sizes[key] = r["bytes"]

    def cell(task: str, way: str, keep: float, after: bool) -> str | None:
        if (task, way, keep, after) not in losses:
            return None
        own = np.array(losses[task, way, keep, after])
        more = own - losses[task, "whole", 1.0, True]
        return mean_and_error_text(more, signed=True)

    lines = []
    for task in NAMES:
        whole = np.mean(losses[task, "whole", 1.0, True])
        size = sizes[task, "whole", 1.0, True] / 1024
        lines.append([task, "whole", "100%", f"{size:.0f}", None, f"{whole:.4f}"])
        for keep in KEPT:
            for way in (*WAYS, HASHED, FIXED, REVISED):
                size = sizes[task, way, keep, True] / 1024
                cells = [cell(task, way, keep, after) for after in (False, True)]
                lines.append([task, way, f"{keep:.0%}", f"{size:.0f}", *cells])
    titles = ["task", "rows go by", "weights of tables kept", "tables, KiB"]
    return markdown_table([*titles, "loss at once", "loss after training on"], lines)


def main(arguments: list[str] | None = None) -> None:
    """Trains what is missing and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], help="two or more")
    add("--workers", type=int, default=os.cpu_count(), help="trainings at a time")
    add("--output", type=pathlib.Path, default=pathlib.Path("out/table_rows"))
    options = parser.parse_args(arguments)
    every = [Cell(task, seed) for seed in options.seeds for task in NAMES]
    run_missing(every, run_cell, options.output, options.workers)
    results = [
        r for cell in every for r in json.loads(cell.file(options.output).read_text())
    ]
    seeds = " ".join(map(str, options.seeds))
    text = (
        "# Rows of tables\n\n"
        f"`python -m benchmarks.table_rows --seeds {seeds}`: {len(options.seeds)} "
        "seeds. Log loss (nats) on rows held out; below each whole model the "
        "difference to it, seed by seed, with its standard error. Bytes count the row "
        "numbers too. "
        f"Training on takes a tenth of the steps; `whole`, `{HASHED}` and those "
        "of the first batch have as many in all. In the latter what is frequent in one "
        f"batch has rows of its own, for good or revised {REVISIONS} times "
        f"(`sa.ReviseRows`).\n\n{table(results)}"
    )
    write_whole(RESULTS / "table_rows.md", text)
    write_json(RESULTS / "table_rows.json", results)
    print(text)


if __name__ == "__main__":
    main()
