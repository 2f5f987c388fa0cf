"""Loss of convolutional networks whose channels are pruned, at a tenth of the work.

Every training of a task has the same images and batches. Pruned in training, with the
same schedule: by sequential attention, by the L2 norm of each unit over all its slices,
by the change of the loss to first order, by the scale of its batch norm, and at random.
Beside them stand the dense network and ones with fewer channels everywhere, trained
from random weights: of as many multiply-adds, for the same steps and for as many
multiply-adds as the dense one ("Rethinking the value of network pruning" calls these
Scratch-E and Scratch-B), and of the same latency. The learning rate of each arm is
halved and doubled for each task until both are worse, on a seed that is not reported.

Without training afterwards: the dense network pruned at once, plain and after
`sa.reconstruct` with data of the task, with data of another task, and without data.

Latencies are measured before and after trainings, on the first seed's networks: the
machine should have nothing else to do. Every training is kept in a file, so an
interrupted run goes on where it stopped.

    pip install 'tf-seqattn[quality]'
    python -m benchmarks.structural_quality
"""

import argparse
import json
import os
import pathlib
import shlex
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf
import tf_keras as keras

import tf_seqattn as sa
from benchmarks.quality_tasks import images as image_tasks
from benchmarks.quality_tasks.latency import (
    compare_latency,
    measured_once,
    medians,
    tflite_of,
)
from benchmarks.quality_tasks.tasks import repeated_batches, run_missing, start
from benchmarks.quality_tasks.tuning import Factors, best_factors
from tf_seqattn.experiments.markdown_table import markdown_table
from tf_seqattn.experiments.mean_and_error import mean_and_error_text
from tf_seqattn.files import write_json, write_whole
from tf_seqattn.keras_api import register

RESULTS = pathlib.Path(__file__).parent / "results"
KEPT_FLOPS = 0.1
ONE_SHOT_SHARES = (0.25, 0.5)
CALIBRATION_IMAGES = 256
RATE = 3e-3
# Factors of the rate that are tried first, and the seed of the trials.
FACTORS = (0.5, 1.0, 2.0)
TUNING_SEED = 100


class Task(NamedTuple):
    """What is learnt, and within which budget.

    Attributes:
      data: of `images.IMAGES`.
      network: of `images`.
      steps: training steps.
      batch_size: images of a batch.
    """

    data: str
    network: Callable[..., keras.Model]
    steps: int
    batch_size: int

    def build(self, width: float = 1.0) -> keras.Model:
        """The network with a share of its channels."""
        return self.network(image_tasks.IMAGES[self.data], width)


TASKS = {
    "digits": Task("digits", image_tasks.residual, 400, 32),
    "handwriting": Task("handwriting", image_tasks.residual, 400, 32),
    "textures": Task("textures", image_tasks.residual, 300, 64),
    "textures, MobileNet": Task("textures", image_tasks.mobilenet, 600, 32),
    "textures, EfficientNet": Task("textures", image_tasks.efficientnet, 600, 32),
}
# Whose images stand in for those of a task.
OTHER = {"digits": "textures", "handwriting": "digits", "textures": "digits"}


@register
class RandomUnits(sa.Importance):
    """Ranks units at random, always in the same way."""

    def scores(self, kernel, logits, grid):
        del kernel, logits
        return tf.random.stateless_uniform(grid.shape, seed=(1, grid.num_blocks))


DENSE, NARROW, NARROW_LONG = "dense", "narrow", "narrow, as long as dense"
NARROW_FAST = "narrow, as fast"
OURS = "sequential attention"
METHODS = {
    OURS: None,
    "L2 norm": sa.Magnitude(),
    "Taylor": sa.Taylor(),
    "scale of batch norms": sa.NormalizationScale(),
    "random": RandomUnits(),
}
# Of which no width has to be measured first.
ARMS = (DENSE, NARROW, NARROW_LONG, *METHODS)
AT_ONCE = "at once"


class Cell(NamedTuple):
    """One training.

    Attributes:
      task: of `TASKS`.
      arm: of `ARMS`, `NARROW_FAST`, or `AT_ONCE`: a dense network that is pruned then.
      seed: of the weights and the order of the images.
      factor: of the learning rate.
    """

    task: str
    arm: str
    seed: int
    factor: float

    def file(self, folder: pathlib.Path) -> pathlib.Path:
        """Where its result is kept; the name tells the budget too."""
        parts = (self.task, TASKS[self.task].steps, self.arm, self.factor, self.seed)
        return folder / ("_".join(map(str, parts)).replace(", ", "_") + ".json")


def multiply_adds(model) -> int:
    """Of a whole model, for one image."""
    return sa.channel_groups(model).multiply_adds


def narrow_width(task: Task) -> float:
    """Of the widest network with as few multiply-adds as pruned ones may have."""
    allowed = KEPT_FLOPS * multiply_adds(task.build())
    widths = np.arange(1, 0, -0.01)
    return next(w for w in widths if multiply_adds(task.build(w)) <= allowed)


def latency_file(task: str, folder: pathlib.Path) -> pathlib.Path:
    """Where the width of a dense network is kept that is as fast as a pruned one."""
    return folder / f"latency_{task.replace(', ', '_')}.json"


def build(cell: Cell, folder: pathlib.Path) -> keras.Model:
    """The network of a cell, to be trained."""
    task = TASKS[cell.task]
    if cell.arm in (DENSE, AT_ONCE):
        width = 1.0
    elif cell.arm == NARROW_FAST:
        width = json.loads(latency_file(cell.task, folder).read_text())["share"]
    elif cell.arm in (NARROW, NARROW_LONG):
        width = narrow_width(task)
    else:
        return sa.prune(
            task.build(),
            sa.SequentialAttentionSchedule(0.5, end_step=task.steps),
            block_size="channels",
            importance=METHODS[cell.arm],
            round_to=1,
            target_flops=KEPT_FLOPS,
        )
    # The search for a width has drawn random numbers.
    keras.utils.set_random_seed(cell.seed)
    return task.build(width)


def train(model: keras.Model, cell: Cell) -> keras.Model:
    """Trains with Adam and a cosine decay of the rate; returns it without pruning."""
    task = TASKS[cell.task]
    steps = task.steps
    if cell.arm == NARROW_LONG:
        steps = round(steps * multiply_adds(task.build()) / multiply_adds(model))
    rate = keras.optimizers.schedules.CosineDecay(RATE * cell.factor, steps)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(rate), loss)
    images, labels, *_ = image_tasks.load(task.data)
    model.fit(
        repeated_batches(images, labels, task, cell.seed),
        steps_per_epoch=steps,
        callbacks=[sa.UpdatePruningStep()] if sa.pruned_layers(model) else [],
        verbose=0,
    )
    return sa.shrink(model) if sa.pruned_layers(model) else model


def quality(model, images, labels) -> dict[str, float]:
    """Log loss (nats) of the labels, and the share of images that are told right."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(loss=loss, metrics=["accuracy"])
    return model.evaluate(images, labels, batch_size=256, verbose=0, return_dict=True)


def pruned_at_once(dense: keras.Model, task: Task) -> dict[tuple, keras.Model]:
    """The trained network pruned by (share, method), without training afterwards."""
    images, *_ = image_tasks.load(task.data)
    others, *_ = image_tasks.load(OTHER[task.data])
    shape = image_tasks.IMAGES[task.data]
    foreign = others[:CALIBRATION_IMAGES].mean(axis=-1, keepdims=True)
    foreign = tf.image.resize(foreign, (shape.size, shape.size)).numpy()
    foreign = np.repeat(foreign, shape.channels, axis=-1)
    found = {}
    for share in ONE_SHOT_SHARES:
        pruned = sa.prune(
            dense,
            sa.OneShotSchedule(share, prune_step=0),
            block_size="channels",
            importance=sa.Magnitude(),
            round_to=1,
        )
        calibration = [images[:CALIBRATION_IMAGES]]
        variants = {
            "removed": sa.strip_pruning(pruned),
            "reconstructed with data": sa.reconstruct(pruned, calibration),
            "reconstructed with other data": sa.reconstruct(pruned, [foreign]),
        }
        try:
            variants["reconstructed without data"] = sa.reconstruct(pruned)
        except ValueError as error:
            print(f"without data: {error}", flush=True)
        for method, model in variants.items():
            found[share, method] = sa.shrink(model)
    return found


def run_cell(cell: Cell, folder: pathlib.Path) -> None:
    """Trains a cell; writes its rows of the table, and the network as a TFLite file."""
    start(cell.seed)
    task = TASKS[cell.task]
    *_, images, labels = image_tasks.load(task.data)
    work = multiply_adds(task.build())
    model = train(build(cell, folder), cell)
    models = {(None, cell.arm): model}
    if cell.arm == AT_ONCE:
        models = pruned_at_once(model, task)
    elif cell.seed != TUNING_SEED:
        written = tflite_of(model, images[:1])
        write_whole(cell.file(folder).with_suffix(".tflite"), written)
    rows = [
        {
            "task": cell.task,
            "seed": cell.seed,
            "method": method,
            "share": share,
            "factor": cell.factor,
            **quality(model, images, labels),
            "flops": multiply_adds(model) / work,
        }
        for (share, method), model in models.items()
    ]
    write_json(cell.file(folder), rows)


def measure_width(cell: Cell, folder: pathlib.Path) -> None:
    """Finds the width at which a dense network takes as long as that of a cell."""
    task = TASKS[cell.task]
    images, *_ = image_tasks.load(task.data)
    pruned = cell.file(folder).with_suffix(".tflite").read_bytes()
    measured_once(
        latency_file(cell.task, folder),
        lambda: compare_latency(pruned, task.build, images[:1]),
    )


def latencies(cells: list[Cell], folder: pathlib.Path) -> dict[tuple[str, str], float]:
    """Microseconds for an image by task and arm, timed in turns, one thread."""
    found = {}
    for name in dict.fromkeys(cell.task for cell in cells):
        images, *_ = image_tasks.load(TASKS[name].data)
        files = {
            cell.arm: cell.file(folder).with_suffix(".tflite").read_bytes()
            for cell in cells
            if cell.task == name and cell.arm != AT_ONCE
        }
        for arm, time in medians(files, images[:1]).items():
            found[name, arm] = time
    return found


def table(rows: list[dict], times: dict[tuple[str, str], float]) -> str:
    """Means over the seeds, and the loss less that of sequential attention."""
    found: dict = {}
    for row in sorted(rows, key=lambda r: r["seed"]):
        found.setdefault((row["task"], row["share"], row["method"]), []).append(row)
    cells = []
    for (task, share, method), same in found.items():
        losses = np.array([r["loss"] for r in same])
        more = losses - [r["loss"] for r in found[task, None, OURS]]
        time = times.get((task, method))
        cells.append(
            [
                task,
                method,
                "" if share is None else f"{share:.0%} at once",
                f"{np.mean([r['flops'] for r in same]):.1%}",
                None if time is None else f"{time:.0f}",
                f"{same[0]['factor']:g}",
                f"{np.mean([r['accuracy'] for r in same]):.1%}",
                mean_and_error_text(losses),
                None if method == OURS else mean_and_error_text(more, signed=True),
            ]
        )
    titles = ["task", "method", "channels removed", "MACs", "us an image"]
    titles += ["rate", "accuracy", "loss", "loss less ours"]
    return markdown_table(titles, cells)


def main(arguments: list[str] | None = None) -> None:
    """Trains what is missing, writes the results and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], help="two or more")
    add("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    add("--workers", type=int, default=os.cpu_count(), help="trainings at a time")
    folder = pathlib.Path("out/structural_quality")
    add("--output", type=pathlib.Path, default=folder, help="what is trained already")
    options = parser.parse_args(arguments)
    tasks, folder = options.tasks, options.output

    def run(cells: list[Cell]) -> list[dict]:
        """Trains what is missing; the first row of each cell."""
        run_missing(cells, run_cell, folder, options.workers)
        return [json.loads(cell.file(folder).read_text())[0] for cell in cells]

    def tuned(arms: tuple[str, ...]) -> Factors:
        trials = [
            Cell(task, arm, TUNING_SEED, factor)
            for task in tasks
            for arm in arms
            for factor in FACTORS
        ]
        return best_factors(trials, run, scales=(0.5, 2.0))

    def reported(arms: tuple[str, ...]) -> list[Cell]:
        return [
            Cell(task, arm, seed, factors[task, arm])
            for task in tasks
            for arm in arms
            for seed in options.seeds
        ]

    factors = tuned(ARMS)
    factors |= {(task, AT_ONCE): factors[task, DENSE] for task in tasks}
    run(reported((*ARMS, AT_ONCE)))
    for task in tasks:
        measure_width(Cell(task, OURS, options.seeds[0], factors[task, OURS]), folder)
    factors |= tuned((NARROW_FAST,))
    cells = reported((DENSE, NARROW, NARROW_FAST, *ARMS[2:], AT_ONCE))
    run(cells)
    times = latencies([c for c in cells if c.seed == options.seeds[0]], folder)
    rows = [row for cell in cells for row in json.loads(cell.file(folder).read_text())]
    command = "python -m benchmarks.structural_quality"
    if options.seeds != parser.get_default("seeds"):
        command += f" --seeds {' '.join(map(str, options.seeds))}"
    if tasks != list(TASKS):
        command += f" --tasks {shlex.join(tasks)}"
    text = (
        "# Channels removed, at equal multiply-adds\n\n"
        f"`{command}` on {os.cpu_count()} cores: {len(options.seeds)} seeds. Losses in "
        "nats; differences are taken seed by seed, with their standard error. The "
        f"learning rate of each arm is a factor of {RATE:g}, halved and doubled until "
        "both were worse, on one seed that is not reported. "
        f"`{NARROW}` and `{NARROW_LONG}` have a tenth of the multiply-adds; the latter "
        "is trained for as many in all as the dense network. "
        f"`{NARROW_FAST}` takes as long as the network of `{OURS}`: TFLite files of "
        "the first seed, one image, one thread.\n\n"
        f"{table(rows, times)}"
    )
    write_whole(RESULTS / "structural_quality.md", text)
    write_json(RESULTS / "structural_quality.json", rows)
    print(text)


if __name__ == "__main__":
    main()
