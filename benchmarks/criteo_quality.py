"""Compares the algorithms of the paper's table 2 on synthetic click logs.

    python benchmarks/criteo_quality.py

Every cell of the grid (algorithm x sparsity x seed) is one training with the same
data, steps, batches and learning rates, in a process of its own. A cell is written to
a file when it is done, so a run that was broken off goes on where it stopped; cells
of other settings are never mixed in. The table, its numbers and a picture are
written to benchmarks/results.

What to expect of the data is said in `tf_seqattn.criteo.synthetic`: they are
easier than the real ones in having no drift, and their losses cannot be compared with
the paper's, only the order of the algorithms.
"""

import argparse
import concurrent.futures
import dataclasses
import json
import math
import multiprocessing
import os
import pathlib
import sys
import time

import numpy as np
from matplotlib.figure import Figure

from tf_seqattn.criteo.data import read_criteo, split_by_time
from tf_seqattn.criteo.experiment import (
    ALGORITHMS,
    TITLES,
    Arm,
    Training,
    train_arm,
)
from tf_seqattn.criteo.pictures import COLOURS
from tf_seqattn.criteo.progress import progress_bar
from tf_seqattn.criteo.synthetic import ClickSource, binary_log_loss

ROOT = pathlib.Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
VALIDATION_FRACTION = 0.08


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line, or the list `arguments` in place of it."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    folder = pathlib.Path("out/criteo_quality")
    add("--work", type=pathlib.Path, default=folder, help="folder for data and cells")
    add("--results", type=pathlib.Path, default=RESULTS, help="folder for the table")
    add("--algorithms", nargs="+", default=list(ALGORITHMS), choices=ALGORITHMS)
    add("--sparsities", nargs="+", type=float, default=[0.9, 0.97])
    add("--seeds", nargs="+", type=int, default=[0, 1, 2])
    add("--block-size", type=int, default=20, help="rows and columns of a block")
    add("--rows", type=int, default=2_500_000, help="synthetic rows to make")
    add("--data-seed", type=int, default=0, help="of the synthetic rows")
    add("--steps", type=int, default=3000, help="training steps of a cell")
    add("--batch-size", type=int, default=2048, help="rows of a training batch")
    add("--workers", type=int, default=2, help="cells that are trained at a time")
    add("--threads", type=int, default=1, help="threads of each of them")
    return parser.parse_args(arguments)


def cells(options: argparse.Namespace) -> list[Arm]:
    """Returns the arms to train; a dense one has no sparsity, so one per seed."""
    arms = []
    for seed in options.seeds:
        for algorithm in options.algorithms:
            levels = [0.0] if algorithm == "dense" else options.sparsities
            arms += [Arm(algorithm, s, options.block_size, seed) for s in levels]
    return arms


def cell_file(arm: Arm, options: argparse.Namespace) -> pathlib.Path:
    """Returns where the result of an arm is kept; its name tells all settings."""
    settings = f"r{options.rows}_d{options.data_seed}_t{options.steps}"
    settings += f"x{options.batch_size}_b{arm.block_size}"
    name = f"{arm.algorithm}_{arm.sparsity:g}_{arm.seed}.json"
    return options.work / "cells" / settings / name


def data_file(options: argparse.Namespace) -> pathlib.Path:
    """Returns the file of rows that all cells read."""
    return options.work / f"clicks_{options.rows}_{options.data_seed}.txt"


def run_cell(arm: Arm, options: argparse.Namespace) -> str:
    """Trains one arm and writes its result; returns a line that sums it up."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(options.threads)
    tf.config.threading.set_inter_op_parallelism_threads(options.threads)
    source = ClickSource(options.data_seed)
    clicks = read_criteo(data_file(options), progress=False)
    training_rows, validation_rows = split_by_time(clicks, VALIDATION_FRACTION)
    training = Training(options.steps, options.batch_size)
    result = train_arm(
        arm,
        training_rows,
        validation_rows,
        training,
        source.informative_fields,
        progress=False,
    ).result
    path = cell_file(arm, options)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Renamed when complete, so that a cell is there as a whole or not at all.
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(result) + "\n")
    partial.rename(path)
    return f"{arm.algorithm} {arm.sparsity:g} seed {arm.seed}: {result['log_loss']:.4f}"


def run_missing_cells(options: argparse.Namespace) -> None:
    """Trains what is not there yet, each cell in a new process."""
    missing = [arm for arm in cells(options) if not cell_file(arm, options).exists()]
    title = f"{len(missing)} cells"
    context = multiprocessing.get_context("spawn")
    with (
        progress_bar(len(missing), "cells", title) as bar,
        concurrent.futures.ProcessPoolExecutor(
            options.workers, mp_context=context, max_tasks_per_child=1
        ) as pool,
    ):
        running = [pool.submit(run_cell, arm, options) for arm in missing]
        for done in concurrent.futures.as_completed(running):
            bar.write(done.result())
            bar.update(1)


def mean_and_error(values: list[float]) -> tuple[float, float]:
    """Mean and its standard error; NaN for the error of a single value."""
    error = (
        np.std(values, ddof=1) / math.sqrt(len(values)) if len(values) > 1 else np.nan
    )
    return float(np.mean(values)), float(error)


def summarize(options: argparse.Namespace) -> list[dict]:
    """Returns one dict for each algorithm and sparsity, over the seeds.

    `behind` is the mean of (loss of the algorithm - loss of SequentialAttention++)
    over pairs of the same seed, and `behind_errors` that mean in its own standard
    errors.
    """
    losses: dict[tuple[str, float], dict[int, dict]] = {}
    for arm in cells(options):
        result = json.loads(cell_file(arm, options).read_text())
        losses.setdefault((arm.algorithm, arm.sparsity), {})[arm.seed] = result
    summary = []
    for (algorithm, sparsity), results in losses.items():
        mean, error = mean_and_error([r["log_loss"] for r in results.values()])
        line = {
            "algorithm": algorithm,
            "sparsity": sparsity,
            "seeds": len(results),
            "log_loss": mean,
            "log_loss_error": error,
            "auc": float(np.mean([r["auc"] for r in results.values()])),
            "blocks_kept": float(np.mean([r["blocks_kept"] for r in results.values()])),
            "fields_read": float(
                np.mean([r["informative_fields_read"] for r in results.values()])
            ),
            "seconds": float(np.mean([r["seconds"] for r in results.values()])),
            "losses": {seed: r["log_loss"] for seed, r in results.items()},
        }
        ours = losses.get(("seqattn", sparsity))
        if ours and algorithm != "seqattn":
            gaps = [results[s]["log_loss"] - ours[s]["log_loss"] for s in results]
            gap, gap_error = mean_and_error(gaps)
            line["behind"] = gap
            line["behind_errors"] = gap / gap_error
        summary.append(line)
    return sorted(summary, key=lambda s: (s["sparsity"], -s["log_loss"]))


def bayes_loss(options: argparse.Namespace) -> float:
    """Returns the log loss of the true probabilities on the validation rows."""
    held_out = round(options.rows * VALIDATION_FRACTION)
    rows = ClickSource(options.data_seed).rows(options.rows - held_out, options.rows)
    return binary_log_loss(rows.labels, rows.probabilities)


def table(summary: list[dict]) -> str:
    """Lays out the summary as a Markdown table."""
    lines = [
        "| blocks removed | algorithm | log loss | AUC | informative fields read "
        "| behind SA++ | in standard errors | s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for line in summary:
        behind = f"{line['behind']:+.4f}" if "behind" in line else "–"
        errors = f"{line['behind_errors']:+.1f}" if "behind" in line else "–"
        lines.append(
            f"| {line['sparsity']:.0%} | {TITLES[line['algorithm']]} "
            f"| {line['log_loss']:.4f} ± {line['log_loss_error']:.4f} "
            f"| {line['auc']:.4f} | {line['fields_read']:.1f} "
            f"| {behind} | {errors} | {line['seconds']:.0f} |"
        )
    return "\n".join(lines) + "\n"


def save_picture(summary: list[dict], bayes: float, path: pathlib.Path) -> None:
    """Draws the loss of each seed and the mean, a panel for each sparsity."""
    levels = sorted({line["sparsity"] for line in summary if line["sparsity"]})
    dense = [line for line in summary if line["algorithm"] == "dense"]
    figure = Figure(figsize=(2 + 3.6 * len(levels), 4.2), layout="constrained")
    panels = figure.subplots(1, len(levels), sharey=True, squeeze=False)[0]
    for panel, level in zip(panels, levels, strict=True):
        lines = [line for line in summary if line["sparsity"] == level]
        for place, line in enumerate(lines):
            colour = COLOURS[line["algorithm"]]
            losses = list(line["losses"].values())
            panel.plot([place] * len(losses), losses, "o", color=colour, alpha=0.5)
            panel.plot(
                [place - 0.3, place + 0.3], [line["log_loss"]] * 2, color=colour, lw=3
            )
        names = [TITLES[line["algorithm"]].replace(", ", ",\n") for line in lines]
        panel.set_xticks(range(len(lines)), names, rotation=30, ha="right")
        panel.set_title(f"{level:.0%} of the blocks removed", loc="left")
        panel.spines[["top", "right"]].set_visible(False)
        if dense:
            panel.axhline(
                dense[0]["log_loss"], color="black", linewidth=1, label="dense"
            )
        panel.axhline(
            bayes, color="grey", linestyle="--", linewidth=1, label="best possible"
        )
    panels[0].set_ylabel("validation log loss (nats)")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
    figure.savefig(path, dpi=150)


def write_results(options: argparse.Namespace, command: str) -> None:
    """Writes the table, its numbers and the picture."""
    summary, bayes = summarize(options), bayes_loss(options)
    options.results.mkdir(parents=True, exist_ok=True)
    text = (
        "# Quality of the algorithms on synthetic click logs\n\n"
        f"Made by `{command}` on {os.cpu_count()} cores. Validation log loss in nats, "
        f"mean of {len(options.seeds)} seeds ± its standard error; differences from "
        "SequentialAttention++ are between runs of the same seed, positive where it "
        f"is better. Best possible: {bayes:.4f}. {options.steps} steps of "
        f"{options.batch_size} rows, blocks of {options.block_size} x "
        f"{options.block_size}.\n\n"
    )
    (options.results / "criteo_quality.md").write_text(text + table(summary))
    numbers = {
        "command": command,
        "bayes_log_loss": bayes,
        "data": ClickSource(options.data_seed).describe(),
        "training": dataclasses.asdict(Training(options.steps, options.batch_size)),
        "summary": summary,
    }
    path = options.results / "criteo_quality.json"
    path.write_text(json.dumps(numbers, indent=2) + "\n")
    save_picture(summary, bayes, options.results / "criteo_quality.png")
    print(text + table(summary))


def main(arguments: list[str] | None = None) -> None:
    """Runs the missing cells of the grid and writes the results."""
    options = parse_arguments(arguments)
    given = sys.argv[1:] if arguments is None else arguments
    command = " ".join(["python benchmarks/criteo_quality.py", *given])
    started = time.perf_counter()
    path = data_file(options)
    if not path.with_suffix(".json").exists():
        ClickSource(options.data_seed).write_tsv(path, options.rows)
    read_criteo(path)
    run_missing_cells(options)
    write_results(options, command)
    print(f"{time.perf_counter() - started:.0f} s in all.")


if __name__ == "__main__":
    main()
