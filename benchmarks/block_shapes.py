"""Blocks of equal area and different shape: what each costs in loss, and its speed.

A product packs better if its blocks are wide, since it then adds longer runs of the
output. Whether a network also prunes as well by wide blocks is measured on three tasks
of `benchmarks/quality.py`, with our default. Every training is kept in a file, so an
interrupted run goes on where it stopped. The times of all shapes of an area are taken
in turns with the dense product, in one process and on one thread.

    pip install 'tf-seqattn[bench,quality]' && pip install --no-deps recbole
    python -m benchmarks.block_shapes
"""

import argparse
import json
import os
import pathlib
import platform
from typing import NamedTuple

import numpy as np
import tf_keras as keras

import tf_seqattn as sa
from benchmarks.inference import tflite_file
from benchmarks.quality_tasks.tasks import (
    TASKS,
    HiddenLayers,
    held_out,
    run_missing,
    start,
    train,
)
from benchmarks.quartiles import quartiles
from tf_seqattn.experiments import command_line
from tf_seqattn.experiments.markdown_table import markdown_table
from tf_seqattn.experiments.mean_and_error import mean_and_error_text
from tf_seqattn.files import write_json, write_whole
from tf_seqattn.inference import litert
from tf_seqattn.inference.latency import time_in_turns
from tf_seqattn.kernels.blocks import BlockGrid

RESULTS = pathlib.Path(__file__).parent / "results"
# (rows, columns), which is (inputs, outputs), by area.
SHAPES = {
    64: ((8, 8), (4, 16), (16, 4), (2, 32)),
    256: ((16, 16), (8, 32), (32, 8), (4, 64)),
    1024: ((32, 32), (16, 64), (64, 16)),
}
# Those with which every pruned layer of the tasks has a hundred blocks.
TRAINED_AREAS = (64, 256)
TRAINED_TASKS = ("digits, Adam", "flights", "source code, transformer")
SPARSITY = 0.9
SIDE, BATCHES = 2048, (1, 64)


class Cell(NamedTuple):
    """One training.

    Attributes:
      task: of `TRAINED_TASKS`.
      shape: rows and columns of a block.
      seed: of the weights and the order of the rows.
    """

    task: str
    shape: tuple[int, int]
    seed: int

    def file(self, folder: pathlib.Path) -> pathlib.Path:
        """Where its result is kept."""
        task = self.task.replace(", ", "_").replace(" ", "_")
        rows, columns = self.shape
        steps = TASKS[self.task].steps
        return folder / f"{task}_{steps}_{rows}x{columns}_{self.seed}.json"


def run_cell(cell: Cell, folder: pathlib.Path) -> None:
    """Trains a cell and writes its loss (nats) on the rows held out."""
    start(cell.seed)
    task = TASKS[cell.task]
    schedule = sa.SequentialAttentionSchedule(SPARSITY, task.steps, rate_power=0.0)
    model = sa.prune(
        task.network(), schedule, cell.shape, pruning_policy=HiddenLayers()
    )
    sparse = train(model, task, cell.seed, [sa.UpdatePruningStep()])
    found = {**cell._asdict(), "loss": held_out(sparse, task)["loss"]}
    write_json(cell.file(folder), found)


def pruned_product(shape: tuple[int, int]) -> keras.Model:
    """A product of which a random tenth of the blocks is left."""
    random = np.random.default_rng(0)
    grid = BlockGrid((SIDE, SIDE), shape)
    blocks = int(np.prod(grid.shape))
    kept = np.zeros(blocks, bool)
    kept[random.permutation(blocks)[: round((1 - SPARSITY) * blocks)]] = True
    mask = kept.reshape(grid.shape).repeat(shape[0], 0).repeat(shape[1], 1)
    model = keras.Sequential([keras.Input((SIDE,)), keras.layers.Dense(SIDE)])
    kernel = random.normal(size=(SIDE, SIDE)) * mask / np.sqrt(SIDE)
    model.set_weights([kernel, random.normal(size=SIDE)])
    return model


def measure_speed(area: int, batch: int, seconds: float) -> dict[str, list[float]]:
    """Dense over packed time of every shape of an area, with quartiles."""
    x = np.random.default_rng(1).normal(size=(batch, SIDE)).astype("float32")
    calls = {}
    for shape in SHAPES[area]:
        model = pruned_product(shape)
        wanted = model(x).numpy()
        for layout in ("dense", "packed"):
            made = litert.interpreter(tflite_file(model, x, layout), [x], num_threads=1)
            made.invoke()
            found = made.get_tensor(made.get_output_details()[0]["index"])
            np.testing.assert_allclose(found, wanted, atol=1e-3)
            calls["dense" if layout == "dense" else _name(shape)] = made.invoke
    times = time_in_turns(calls, seconds)
    dense = times.pop("dense")
    return {name: quartiles(dense / taken) for name, taken in times.items()}


def _name(shape: tuple[int, int]) -> str:
    return f"{shape[0]} x {shape[1]}"


def _loss_cells(results: list[dict], shape: tuple[int, int], area: int) -> list[str]:
    """Loss of a shape beside that of the square one, seed by seed, for every task."""
    square = SHAPES[area][0]
    losses = {(r["task"], tuple(r["shape"]), r["seed"]): r["loss"] for r in results}
    seeds = sorted({r["seed"] for r in results})
    cells = []
    for task in TRAINED_TASKS:
        own = np.array([losses[task, shape, seed] for seed in seeds])
        if shape == square:
            cells.append(f"{own.mean():.4f}")
            continue
        more = own - [losses[task, square, seed] for seed in seeds]
        cells.append(mean_and_error_text(more, signed=True))
    return cells


def table(results: list[dict], speeds: dict[int, dict[int, dict]]) -> str:
    """One line for each shape."""
    titles = ["block", *(f"faster than dense, batch {batch}" for batch in BATCHES)]
    titles += [f"loss, {task}" for task in TRAINED_TASKS]
    lines = []
    for area, shapes in SHAPES.items():
        for shape in shapes:
            ratios = [speeds[area][batch][_name(shape)] for batch in BATCHES]
            cells: list = ["{:.2f} ({:.2f}-{:.2f})".format(*r) for r in ratios]
            trained = area in TRAINED_AREAS
            cells += _loss_cells(results, shape, area) if trained else [None] * 3
            lines.append([_name(shape), *cells])
    return markdown_table(titles, lines)


def main(arguments: list[str] | None = None) -> None:
    """Trains what is missing, times the products and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], help="two or more")
    add("--workers", type=int, default=os.cpu_count(), help="trainings at a time")
    add("--seconds", type=float, default=20.0, help="for each area and batch")
    add("--output", type=pathlib.Path, default=pathlib.Path("out/block_shapes"))
    options = parser.parse_args(arguments)
    every = [
        Cell(task, shape, seed)
        for seed in options.seeds
        for task in TRAINED_TASKS
        for area in TRAINED_AREAS
        for shape in SHAPES[area]
    ]
    run_missing(every, run_cell, options.output, options.workers)
    results = [json.loads(cell.file(options.output).read_text()) for cell in every]
    speeds = {
        area: {b: measure_speed(area, b, options.seconds) for b in BATCHES}
        for area in SHAPES
    }
    seeds = " ".join(map(str, options.seeds))
    text = (
        "# Shapes of blocks\n\n"
        f"`python -m benchmarks.block_shapes --seeds {seeds}` on "
        f"{platform.machine()}, {os.cpu_count()} cores. Speed: a product of "
        f"{SIDE} x {SIDE} with {SPARSITY:.0%} of its blocks removed, TFLite on one "
        "thread, dense over packed, medians with quartiles. Loss (nats): our default "
        f"at {SPARSITY:.0%}, {len(options.seeds)} seeds; of the square shape the mean, "
        "of the others the difference to it, with the standard error over seeds.\n\n"
        f"{table(results, speeds)}"
    )
    write_whole(RESULTS / "block_shapes.md", text)
    write_json(RESULTS / "block_shapes.json", {"losses": results, "speeds": speeds})
    print(text)


if __name__ == "__main__":
    command_line.run(main)
