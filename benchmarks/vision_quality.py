"""Compares the algorithms on images: handwritten digits, and textures made from a seed.

Every cell (task x algorithm x block size x seed) is one training with the same images,
steps, batches and learning rates, in its own process. Finished cells are kept, so a run
that was interrupted continues where it stopped. 90 % of the blocks are removed from
every kernel with 100 blocks or more.

The schedules are the paper's for ImageNet, with 7 cycles and 10 % dense steps. Only the
share of sparse steps at the end differs, because the paper's 15 % are too few here for
algorithms that prune once. All algorithms are tuned in the same way: on each task an
algorithm takes the share that is best on the first seed, over all block sizes.

    python benchmarks/vision_quality.py
"""

import argparse
import concurrent.futures
import dataclasses
import json
import multiprocessing
import os
import pathlib
from typing import NamedTuple

import numpy as np
import tensorflow as tf
import tf_keras as keras
from matplotlib.figure import Figure

import tf_seqattn as sa
from tf_seqattn.digits.data import load_digits
from tf_seqattn.experiments.algorithms import ALGORITHMS
from tf_seqattn.experiments.markdown_table import markdown_table
from tf_seqattn.experiments.mean_and_error import mean_and_error
from tf_seqattn.files import write_json, write_whole
from tf_seqattn.imagenet.recipe import Recipe
from tf_seqattn.imagenet.synthetic import make_images

RESULTS = pathlib.Path(__file__).parent / "results"
SPARSITY = 0.9
RECIPE = Recipe()
SPARSE_SHARES = (0.15, 0.3, 0.5, 0.7)


class Task(NamedTuple):
    """Images and a budget.

    Attributes:
      size: pixels of a side.
      channels: 1 or 3.
      classes: number of classes.
      widths: filters of the three convolutions.
      block_sizes: sides of the blocks.
      steps: training steps.
      batch_size: images of a batch.
    """

    size: int
    channels: int
    classes: int
    widths: tuple[int, int, int]
    block_sizes: tuple[int, ...]
    steps: int
    batch_size: int


TASKS = {
    "digits": Task(8, 1, 10, (32, 64, 64), (2, 4, 8), 600, 32),
    "textures": Task(16, 3, 40, (32, 128, 128), (4, 8, 16), 800, 64),
}
TEXTURES, TEXTURE_NOISE = (16_000, 4_000), 1.5


class Cell(NamedTuple):
    """One training.

    Attributes:
      task: of `TASKS`.
      algorithm: of `ALGORITHMS`.
      block_size: side of the blocks.
      sparse_share: share of the steps at the end in which the mask is fixed.
      seed: of the weights and the order of the images.
    """

    task: str
    algorithm: str
    block_size: int
    sparse_share: float
    seed: int

    def file(self, folder: pathlib.Path) -> pathlib.Path:
        """The file of its result; the name includes the budget."""
        task = TASKS[self.task]
        settings = f"{self.task}_{task.steps}x{task.batch_size}"
        share = f"{self.sparse_share:g}_{self.seed}"
        name = f"{self.algorithm}_b{self.block_size}_{share}.json"
        return folder / settings / name


def cells(seed: int, shares: dict[tuple[str, str], tuple[float, ...]]) -> list[Cell]:
    """The trainings of a seed; a dense one has no blocks, so each task has one.

    Args:
      seed: of all of them.
      shares: which shares of sparse steps to train, by task and algorithm.
    """
    return [
        Cell(name, algorithm, size, share, seed)
        for name, task in TASKS.items()
        for algorithm in ALGORITHMS
        for size in (task.block_sizes[:1] if algorithm == "dense" else task.block_sizes)
        for share in ((0.0,) if algorithm == "dense" else shares[name, algorithm])
    ]


PRUNING = [algorithm for algorithm in ALGORITHMS if algorithm != "dense"]


def mean_by_share(results: list[dict], task: str, algorithm: str) -> dict[float, float]:
    """Accuracy over all block sizes of a task, by the share of sparse steps."""
    found: dict[float, list[float]] = {}
    for cell in results:
        if (cell["task"], cell["algorithm"]) == (task, algorithm):
            found.setdefault(cell["sparse_share"], []).append(cell["accuracy"])
    return {share: float(np.mean(values)) for share, values in found.items()}


def best_shares(results: list[dict]) -> dict[tuple[str, str], tuple[float, ...]]:
    """The share of sparse steps that serves each algorithm best, by task."""
    best = {}
    for task in TASKS:
        for algorithm in PRUNING:
            means = mean_by_share(results, task, algorithm)
            best[task, algorithm] = (max(means, key=means.__getitem__),)
    return best


def load_images(name: str) -> tuple[np.ndarray, ...]:
    """Training images and labels, test images and labels; float32 in [0, 1]."""
    if name == "digits":
        return load_digits()
    task = TASKS[name]
    train, test = (
        make_images(split, 0, count, task.size, task.classes, TEXTURE_NOISE)
        for split, count in zip(("train", "validation"), TEXTURES, strict=True)
    )
    return (
        (train[0] / 255.0).astype(np.float32),
        train[1],
        (test[0] / 255.0).astype(np.float32),
        test[1],
    )


def build(task: Task) -> keras.Model:
    """Three convolutions, each with its batch normalization, and a classifier."""
    layers = keras.layers
    model = keras.Sequential(
        [keras.Input((task.size, task.size, task.channels))], name="images"
    )
    for number, filters in enumerate(task.widths):
        if number:
            model.add(layers.MaxPooling2D())
        model.add(layers.Conv2D(filters, 3, padding="same", use_bias=False))
        model.add(layers.BatchNormalization(momentum=0.9))
        model.add(layers.ReLU())
    model.add(layers.GlobalAveragePooling2D())
    model.add(layers.Dense(task.classes))
    return model


def run_cell(cell: Cell, folder: pathlib.Path) -> str:
    """Trains a cell and writes its result; returns a line that sums it up."""
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    task = TASKS[cell.task]
    train_images, train_labels, test_images, test_labels = load_images(cell.task)
    keras.utils.set_random_seed(cell.seed)
    model = build(task)
    recipe = dataclasses.replace(RECIPE, finetune_fraction=cell.sparse_share)
    schedule = recipe.schedule(cell.algorithm, SPARSITY, task.steps)
    callbacks = []
    if schedule is not None:
        model = sa.prune(
            model,
            pruning_schedule=schedule,
            block_size=(cell.block_size, cell.block_size),
            importance=recipe.importance(cell.algorithm),
        )
        callbacks.append(sa.UpdatePruningStep())
    rate = keras.optimizers.schedules.CosineDecay(3e-3, task.steps)
    model.compile(
        optimizer=keras.optimizers.Adam(rate),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    images = tf.data.Dataset.from_tensor_slices((train_images, train_labels))
    images = images.shuffle(len(train_images), seed=cell.seed).repeat()
    tenth = task.steps // 10
    history = model.fit(
        images.batch(task.batch_size).prefetch(2),
        steps_per_epoch=tenth,
        epochs=10,
        validation_data=(test_images, test_labels),
        callbacks=callbacks,
        verbose=0,
    ).history
    result = {
        **cell._asdict(),
        "accuracy": history["val_accuracy"][-1],
        "loss": history["val_loss"][-1],
        "accuracies": history["val_accuracy"],
        "pruned_layers": len(sa.pruned_layers(model)),
    }
    path = cell.file(folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, result)
    return f"{' '.join(map(str, cell))}: {result['accuracy']:.2%}"


def run(wanted: list[Cell], folder: pathlib.Path, workers: int) -> list[dict]:
    """Trains the missing cells, and returns the results of all."""
    missing = [cell for cell in wanted if not cell.file(folder).exists()]
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(
        workers, mp_context=context, max_tasks_per_child=1
    ) as pool:
        running = [pool.submit(run_cell, cell, folder) for cell in missing]
        for number, done in enumerate(concurrent.futures.as_completed(running), 1):
            print(f"{number}/{len(missing)} {done.result()}", flush=True)
    return [json.loads(cell.file(folder).read_text()) for cell in wanted]


def summarize(results: list[dict]) -> list[dict]:
    """One line for each task, block size and algorithm, over the seeds."""
    lines = []
    for name, task in TASKS.items():
        for size in task.block_sizes:
            ours = _by_seed(results, name, "seqattn", size)
            for algorithm in ALGORITHMS:
                block = task.block_sizes[0] if algorithm == "dense" else size
                found = _by_seed(results, name, algorithm, block)
                values = [cell["accuracy"] for cell in found.values()]
                mean, error = mean_and_error(values)
                line = {
                    "task": name,
                    "block_size": size,
                    "algorithm": algorithm,
                    "seeds": len(values),
                    "accuracy": mean,
                    "error": error,
                    "sparse_share": next(iter(found.values()))["sparse_share"],
                    "layers": next(iter(found.values()))["pruned_layers"],
                    "last_tenth": max(
                        c["accuracies"][-1] - c["accuracies"][-2]
                        for c in found.values()
                    ),
                }
                if algorithm != "seqattn":
                    behind = [
                        ours[seed]["accuracy"] - found[seed]["accuracy"]
                        for seed in found
                    ]
                    line["behind"], line["behind_error"] = mean_and_error(behind)
                lines.append(line)
    return lines


def _by_seed(results, task, algorithm, size) -> dict[int, dict]:
    return {
        cell["seed"]: cell
        for cell in results
        if (cell["task"], cell["algorithm"], cell["block_size"])
        == (task, algorithm, size)
    }


def draw(summary: list[dict], path: pathlib.Path) -> None:
    """Accuracy against block size, a panel for each task."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    panels = figure.subplots(1, len(TASKS))
    for axes, (name, task) in zip(panels, TASKS.items(), strict=True):
        for algorithm, found in ALGORITHMS.items():
            few = [
                line
                for line in summary
                if (line["task"], line["algorithm"]) == (name, algorithm)
            ]
            axes.errorbar(
                range(len(few)),
                [100 * line["accuracy"] for line in few],
                [100 * line["error"] for line in few],
                label=found.title,
                marker="" if algorithm == "dense" else "o",
                color=found.colour,
                linewidth=2.2 if algorithm == "seqattn" else 1.2,
            )
        axes.set_xticks(
            range(len(task.block_sizes)), [f"{s} x {s}" for s in task.block_sizes]
        )
        axes.set_title(name, loc="left")
        axes.set_xlabel("block")
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("test accuracy (%)")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False)
    figure.savefig(path, dpi=130)


def in_errors(line: dict) -> float | None:
    """A gap in its standard errors; None if it is the same for all seeds."""
    # Accuracies are float32, so equal gaps may differ by rounding.
    if line["behind_error"] < 1e-6:
        return None
    return line["behind"] / line["behind_error"]


def tuning_table(tuning: list[dict], seed: int) -> str:
    """Markdown: what each share of sparse steps gave, of the tuning seed."""
    rows = []
    for task in TASKS:
        for algorithm in PRUNING:
            means = mean_by_share(tuning, task, algorithm)
            best = max(means.values())
            values = [
                f"**{100 * means[s]:.2f}**"
                if means[s] == best
                else f"{100 * means[s]:.2f}"
                for s in SPARSE_SHARES
            ]
            rows.append([task, ALGORITHMS[algorithm].title, *values])
    titles = ["task", "algorithm", *(f"{share:.0%}" for share in SPARSE_SHARES)]
    return (
        f"Accuracy of seed {seed} over all block sizes, by the share of the steps that "
        "is spent sparse at the end (at least a quarter with gradual pruning); the "
        f"best one was taken:\n\n{markdown_table(titles, rows)}"
    )


def report(summary: list[dict], command: str) -> str:
    """The table as Markdown, with its conclusions."""
    lines = [
        "# Image classifiers by algorithm and block size",
        "",
        f"`{command}` on {os.cpu_count()} cores. 90 % of the blocks of every kernel of "
        "100 blocks or more are removed. Each algorithm was tuned alike: `sparse` is "
        "the share of the steps at the end in which its mask is fixed, the best of "
        f"{len(SPARSE_SHARES)} on the first seed. Test accuracy in %, mean ± standard "
        "error of the seeds; `behind SA++` is over pairs of the same seed, positive "
        "where SequentialAttention++ is better, and `in s.e.` the same in its own "
        "standard errors. `last tenth` is what accuracy still gained in the last tenth "
        "of the training, of the seed in which it gained most.",
        "",
    ]
    lines += [
        f"- {name}: {t.size} x {t.size} images, {t.classes} classes, convolutions of "
        f"{', '.join(map(str, t.widths))} filters, {t.steps} steps of {t.batch_size}."
        for name, t in TASKS.items()
    ]
    lines += ["", "![Accuracy against block size](vision_quality.png)", ""]
    for name, task in TASKS.items():
        for size in task.block_sizes:
            few = {
                line["algorithm"]: line
                for line in summary
                if (line["task"], line["block_size"]) == (name, size)
            }
            pruned = {a: line["accuracy"] for a, line in few.items() if a != "dense"}
            best = max(pruned, key=pruned.get)
            text = f"- {name}, {size} x {size}: {ALGORITHMS[best].title} is first"
            other = "seqattn"
            if best == "seqattn":
                other = max((a for a in pruned if a != best), key=pruned.get)
            gap = few[other if best == "seqattn" else best]
            errors = in_errors(gap)
            text += f", {100 * abs(gap['behind']):.2f} points"
            text += "" if errors is None else f" ({abs(errors):.1f} s.e.)"
            text += f" before {ALGORITHMS[other].title}."
            lines.append(text)
    rows = []
    for line in summary:
        behind = errors = ""
        if "behind" in line:
            behind = f"{100 * line['behind']:+.2f}"
            if in_errors(line) is not None:
                errors = f"{in_errors(line):+.1f}"
        size = line["block_size"]
        rows.append(
            [
                line["task"],
                f"{size} x {size}",
                line["layers"],
                ALGORITHMS[line["algorithm"]].title,
                f"{line['sparse_share']:.0%}",
                f"{100 * line['accuracy']:.2f} ± {100 * line['error']:.2f}",
                behind,
                errors,
                f"{100 * line['last_tenth']:+.2f}",
            ]
        )
    titles = ["task", "block", "layers pruned", "algorithm", "sparse", "accuracy"]
    titles += ["behind SA++", "in s.e.", "last tenth"]
    return "\n".join([*lines, "", markdown_table(titles, rows)])


def main():
    """Runs the missing cells and writes the table and the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    folder = pathlib.Path("out/vision_quality")
    parser.add_argument("--work", type=pathlib.Path, default=folder)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    options = parser.parse_args()
    first, *others = options.seeds
    every = {(t, a): SPARSE_SHARES for t in TASKS for a in PRUNING}
    tuning = run(cells(first, every), options.work, options.workers)
    best = best_shares(tuning)
    chosen = [cell for seed in (first, *others) for cell in cells(seed, best)]
    results = run(chosen, options.work, options.workers)
    summary = summarize(results)
    command = "python benchmarks/vision_quality.py"
    if options.seeds != [0, 1, 2]:
        command += f" --seeds {' '.join(map(str, options.seeds))}"
    text = report(summary, command)
    text += f"\n{tuning_table(tuning, first)}"
    RESULTS.mkdir(exist_ok=True)
    write_whole(RESULTS / "vision_quality.md", text)
    written = {"summary": summary, "tuning": tuning}
    write_json(RESULTS / "vision_quality.json", written)
    draw(summary, RESULTS / "vision_quality.png")
    print(text)


if __name__ == "__main__":
    main()
