"""Runs the grid of the paper's table 2: sparsities x block sizes x algorithms x seeds.

python -m tf_seqattn.criteo.grid --output out/grid

Every cell is one training with the same data, steps, batches and learning rates, in a
process of its own, as many at a time as cores and memory allow. A cell is written to
a file when it is done, so an interrupted run goes on where it stopped, and cells
of other settings are never mixed in. At the end the table stands beside the paper's and
its picture is drawn (the paper's figure 5: loss and AUC against sparsity).

Without --data the rows are synthetic: see `tf_seqattn.criteo.log.synthetic`. They are
easier than those of the demonstration (fewer and louder informative fields, fewer
categories), so that a training of minutes is long enough for a dense model. Losses on
them cannot be compared with the paper's, only the order of the algorithms.

Whether a training was long enough shows when the same cells, or some of them, are run
with twice the `--steps` in the same --output: what that changes is a column of the
table of the shorter ones from then on.
"""

import argparse
import concurrent.futures
import dataclasses
import hashlib
import json
import multiprocessing
import os
import pathlib
import resource
import time

import numpy as np

from tf_seqattn.criteo import grid_report
from tf_seqattn.criteo.arguments import check_rows
from tf_seqattn.criteo.conversion import convert
from tf_seqattn.criteo.log.encoding import Encoding
from tf_seqattn.criteo.log.in_memory import load_clicks
from tf_seqattn.criteo.log.manifest import Manifest
from tf_seqattn.criteo.log.synthetic import NUM_INFORMATIVE, ClickSource, make_synthetic
from tf_seqattn.criteo.models.experiment import (
    ARMS,
    Arm,
    Training,
    pruning_schedule,
    train_arm,
)
from tf_seqattn.experiments import command_line
from tf_seqattn.experiments.progress import progress_bar
from tf_seqattn.files import write_json

_MODULE = "tf_seqattn.criteo.grid"
# TensorFlow and a training of this network, without the rows.
_PROCESS_BYTES = 1.5e9
# The rows as arrays, once mapped from the files and once as tensors.
_BYTES_PER_ROW = 2 * 4 * 40


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line, or the list `arguments` in place of it."""
    parser = command_line.make_parser(_MODULE, __doc__)
    add = parser.add_argument
    add("--data", nargs="+", help="files in the Kaggle format; synthetic by default")
    add(
        "--output",
        type=command_line.output_folder,
        default=pathlib.Path("out/grid"),
        help="folder for the data and the cells",
    )
    add(
        "--results",
        type=command_line.output_folder,
        help="folder for the table (--output)",
    )
    add(
        "--name",
        type=command_line.file_stem,
        default="criteo_grid",
        help="of the files of the table",
    )
    add(
        "--algorithms",
        nargs="+",
        default=list(ARMS),
        choices=ARMS,
        metavar="NAME",
        help="what to compare",
    )
    add(
        "--sparsities",
        nargs="+",
        type=command_line.share,
        default=[0.9, 0.95, 0.97, 0.98, 0.99],
        help="shares of the blocks to remove",
    )
    positive_int, rate = command_line.positive_int, command_line.positive_number
    add(
        "--block-sizes",
        nargs="+",
        type=positive_int,
        default=[5, 10, 20],
        help="rows and columns of the blocks",
    )
    add(
        "--seeds",
        nargs="+",
        type=command_line.seed,
        default=[0, 1, 2],
        help="of the weights and the order of the rows",
    )
    add("--rows", type=positive_int, default=2_500_000, help="synthetic rows to make")
    add(
        "--max-categories",
        type=command_line.integer(2, 4096),
        default=50,
        help="distinct synthetic values",
    )
    add(
        "--informative",
        type=command_line.integer(2, NUM_INFORMATIVE),
        default=12,
        help="synthetic fields with signal",
    )
    add("--signal", type=rate, default=3.0, help="deviation of synthetic log-odds")
    add("--data-seed", type=command_line.seed, default=0, help="of the synthetic rows")
    add("--table-size", type=positive_int, default=512, help="rows of a table")
    add(
        "--validation-fraction",
        type=command_line.positive_share,
        default=0.08,
        help="share of the rows, the last ones, that is held out",
    )
    defaults = Training()
    add("--steps", type=positive_int, default=6000, help="training steps of a cell")
    add("--batch-size", type=positive_int, default=512, help="rows of a batch")
    add("--first-rate", type=rate, default=defaults.first_rate, help="learning rate")
    add("--last-rate", type=rate, default=defaults.last_rate, help="at the last step")
    add(
        "--finetune-fraction",
        type=command_line.share,
        default=defaults.finetune_fraction,
        help="share of the steps at the end with a fixed mask, for every algorithm",
    )
    add(
        "--workers",
        type=positive_int,
        help="cells at a time: as cores and memory allow",
    )
    add("--threads", type=positive_int, default=1, help="threads of each of them")
    add("--memory-gb", type=rate, help="for all cells (80%% of what is free)")
    options = parser.parse_args(arguments)
    with command_line.checking(parser):
        check_rows(options)
        for algorithm in options.algorithms:
            pruning_schedule(
                algorithm,
                options.sparsities[0],
                options.steps,
                options.finetune_fraction,
            )
    return options


def cells(options: argparse.Namespace) -> list[Arm]:
    """Returns the arms to train, those of one seed together.

    A dense one has neither sparsity nor blocks, so there is one for each seed; a narrow
    one has no blocks. What is retrained comes after all else, since it wants the blocks
    that SequentialAttention++ found.
    """
    arms = []
    for seed in options.seeds:
        for algorithm in options.algorithms:
            levels = [0.0] if algorithm == "dense" else options.sparsities
            sizes = options.block_sizes
            if algorithm in ("dense", "narrow"):
                sizes = sizes[-1:]
            arms += [Arm(algorithm, s, size, seed) for s in levels for size in sizes]
    return sorted(arms, key=lambda arm: arm.algorithm == "retrained")


def training_of(options: argparse.Namespace) -> Training:
    """Returns how every cell is trained."""
    return Training(
        options.steps,
        options.batch_size,
        options.first_rate,
        options.last_rate,
        options.table_size,
        options.finetune_fraction,
    )


def _settings(options: argparse.Namespace) -> dict:
    """What cells must have in common to stand in one table."""
    if options.data:
        data = {"files": [str(path) for path in options.data]}
    else:
        names = ("rows", "max_categories", "data_seed", "informative", "signal")
        data = {name: getattr(options, name) for name in names}
    return {
        "data": data,
        "validation_fraction": options.validation_fraction,
        "training": dataclasses.asdict(training_of(options)),
    }


def cell_file(arm: Arm, options: argparse.Namespace) -> pathlib.Path:
    """Returns where the result of an arm is kept; its folder tells the settings."""
    text = json.dumps(_settings(options), sort_keys=True)
    settings = hashlib.sha256(text.encode()).hexdigest()[:12]
    name = f"{arm.algorithm}_{arm.sparsity:g}_b{arm.block_size}_{arm.seed}.json"
    return options.output / "cells" / settings / name


def _source(options: argparse.Namespace) -> ClickSource | None:
    if options.data:
        return None
    return ClickSource(
        options.data_seed,
        options.max_categories,
        options.informative,
        options.signal,
    )


def prepare_data(options: argparse.Namespace) -> pathlib.Path:
    """Makes the rows if none are given, and converts them; returns the folder."""
    paths, source = options.data, _source(options)
    if source is not None:
        name = "_".join(str(value) for value in _settings(options)["data"].values())
        paths = options.output / f"clicks_{name}.txt"
        make_synthetic(source, paths, options.rows)
    folder = options.output / "data"
    convert(
        paths,
        folder,
        Encoding(table_size=options.table_size),
        validation_fraction=options.validation_fraction,
        overwrite="other",
    )
    return folder


def load_mask(arm: Arm, options: argparse.Namespace) -> np.ndarray:
    """Returns the blocks that a finished cell kept, bool (block rows, columns)."""
    rows = json.loads(cell_file(arm, options).read_text())["mask"]
    return np.array([[mark == "1" for mark in row] for row in rows])


def run_cell(arm: Arm, options: argparse.Namespace, folder: pathlib.Path) -> str:
    """Trains one arm and writes its result; returns a line that sums it up."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(options.threads)
    tf.config.threading.set_inter_op_parallelism_threads(options.threads)
    source, found = _source(options), None
    if arm.algorithm == "retrained":
        found = load_mask(dataclasses.replace(arm, algorithm="seqattn"), options)
    trained = train_arm(
        arm,
        load_clicks(folder, "train"),
        load_clicks(folder, "validation"),
        training_of(options),
        source.informative_fields if source else None,
        progress=False,
        found=found,
    )
    result = {
        **trained.result,
        "mask": ["".join("01"[int(kept)] for kept in row) for row in trained.mask],
        # Linux counts in kilobytes.
        "peak_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    }
    path = cell_file(arm, options)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, result)
    return (
        f"{arm.algorithm} {arm.sparsity:g}, blocks of {arm.block_size}, seed "
        f"{arm.seed}: {result['log_loss']:.4f} in {result['seconds']:.0f} s"
    )


def _free_bytes() -> int:
    for line in pathlib.Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable"):
            return 1024 * int(line.split()[1])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")


def num_workers(options: argparse.Namespace, rows: int) -> int:
    """Returns how many cells to train at a time.

    Args:
      options: `workers`, if given, is at most what there is memory for.
      rows: number of rows that each cell holds in memory.

    Raises:
      ValueError: if there is not memory enough for one cell.
    """
    budget = 1e9 * options.memory_gb if options.memory_gb else 0.8 * _free_bytes()
    cell = _PROCESS_BYTES + rows * _BYTES_PER_ROW
    fitting = int(budget // cell)
    if not fitting:
        raise ValueError(
            f"A cell needs about {cell / 1e9:.1f} GB for {rows:,} rows, and "
            f"{budget / 1e9:.1f} GB may be used. Raise --memory-gb, or lower --rows."
        )
    wanted = options.workers or max(1, (os.cpu_count() or 1) // options.threads)
    return min(wanted, fitting)


def run_missing_cells(options: argparse.Namespace, folder: pathlib.Path) -> None:
    """Trains what is not there yet, each cell in a new process."""
    missing = [arm for arm in cells(options) if not cell_file(arm, options).exists()]
    if not missing:
        return
    manifest = Manifest.load(folder)
    workers = num_workers(options, manifest.rows("train") + manifest.rows("validation"))
    context = multiprocessing.get_context("spawn")
    # What is retrained waits for the cells that find its blocks.
    first = [arm for arm in missing if arm.algorithm != "retrained"]
    second = [arm for arm in missing if arm.algorithm == "retrained"]
    for arm in second:
        finder = dataclasses.replace(arm, algorithm="seqattn")
        if finder not in first and not cell_file(finder, options).exists():
            raise ValueError(
                "`--algorithms` has 'retrained', which needs 'seqattn' too: no cell "
                f"of sparsity {arm.sparsity:g}, blocks of {arm.block_size} and seed "
                f"{arm.seed} has found blocks."
            )
    with progress_bar(len(missing), "cells", f"{workers} at a time") as bar:
        for part in (first, second):
            with concurrent.futures.ProcessPoolExecutor(
                workers, mp_context=context, max_tasks_per_child=1
            ) as pool:
                running = [pool.submit(run_cell, arm, options, folder) for arm in part]
                for done in concurrent.futures.as_completed(running):
                    bar.write(done.result())
                    bar.update(1)


def load_results(options: argparse.Namespace) -> list[dict]:
    """Returns the results of the cells that are there, in the order of `cells`."""
    paths = [cell_file(arm, options) for arm in cells(options)]
    return [json.loads(path.read_text()) for path in paths if path.exists()]


def _doubled(options: argparse.Namespace) -> argparse.Namespace:
    """The options of the same cells, trained for twice the steps."""
    return argparse.Namespace(**{**vars(options), "steps": 2 * options.steps})


def main(arguments: list[str] | None = None) -> list[dict]:
    """Runs the missing cells of the grid and writes the results.

    Args:
      arguments: in place of the command line.

    Returns:
      The summary of each algorithm, sparsity and block size over the seeds.
    """
    options = parse_arguments(arguments)
    command = command_line.command_text(_MODULE, arguments)
    started = time.perf_counter()
    folder = prepare_data(options)
    run_missing_cells(options, folder)
    source = _source(options)
    summary = grid_report.write(
        load_results(options),
        options.results or options.output,
        options.name,
        command,
        source.describe() if source else _settings(options)["data"],
        longer=load_results(_doubled(options)),
    )
    print(f"{time.perf_counter() - started:.0f} s in all.")
    return summary


if __name__ == "__main__":
    command_line.run(main)
