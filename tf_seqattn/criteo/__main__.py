"""Draws the frontier of a click model: loss against latency and bytes.

python -m tf_seqattn.criteo --output out/criteo

Dense networks of four widths, gradual magnitude pruning, and SequentialAttention++ on
blocks, channels and fields are trained for the same steps and measured as TFLite files.
Without --data the rows are synthetic (see `tf_seqattn.criteo.log.synthetic`); with it,
they are the first ones of a file in the format of Kaggle's train.txt. Synthetic and
converted rows are deleted at the end; models, pictures, logs and tables stay. The same
command goes on after an interruption.
"""

import argparse
import contextlib
import dataclasses
import io
import json
import logging
import pathlib
import shutil

import tf_keras as keras

import tf_seqattn as sa
from tf_seqattn.comparison.candidates import BLOCKS, DENSE, Candidate
from tf_seqattn.criteo import pictures, report
from tf_seqattn.criteo.arguments import check_rows
from tf_seqattn.criteo.click_frontier import (
    FIELDS,
    click_frontier,
    curve_file,
    shown_candidates,
)
from tf_seqattn.criteo.conversion import convert
from tf_seqattn.criteo.log.encoding import Encoding
from tf_seqattn.criteo.log.in_memory import Clicks, load_clicks
from tf_seqattn.criteo.log.synthetic import ClickSource, make_synthetic
from tf_seqattn.criteo.models.click_model import FIRST_HIDDEN
from tf_seqattn.criteo.models.experiment import Training, what_is_kept
from tf_seqattn.criteo.models.without_fields import names_of_kept_fields
from tf_seqattn.experiments import command_line
from tf_seqattn.files import write_json, write_whole
from tf_seqattn.kernels.blocks import BlockGrid, block_norms

_MODULE = "tf_seqattn.criteo"
# A truth of middling difficulty: a third of the fields carry signal.
_MAX_CATEGORIES, _INFORMATIVE, _INTERACTION_SHARE = 100, 12, 0.5


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line, or the list `arguments` in place of it."""
    parser = command_line.make_parser(_MODULE, __doc__)
    add = parser.add_argument
    positive_int = command_line.positive_int
    add("--data", nargs="+", help="Kaggle train.txt or train.txt.gz, or patterns")
    add(
        "--output",
        type=command_line.output_folder,
        default=pathlib.Path("out/criteo"),
        help="folder for the table, the pictures, the models and synthetic data",
    )
    add("--rows", type=positive_int, default=600_000, help="rows to make, or to read")
    add(
        "--validation-fraction",
        type=command_line.positive_share,
        default=0.1,
        help="share of the rows, the last ones, that is held out",
    )
    add("--steps", type=positive_int, default=1500, help="training steps of each model")
    add("--batch-size", type=positive_int, default=256, help="rows of a training batch")
    add(
        "--table-size",
        type=command_line.integer(2),
        default=128,
        help="rows of each category's embedding table",
    )
    add(
        "--sparsities",
        nargs="+",
        type=command_line.share,
        default=[0.9, 0.95],
        help="shares of the blocks to remove; pictures show the first",
    )
    add(
        "--block-size",
        # Larger ones leave fewer than 100 blocks of a hidden layer, 390 x 400.
        type=command_line.integer(1, 40),
        default=20,
        help="rows and columns of a block, at most 40",
    )
    add(
        "--max-bad-rows",
        type=command_line.non_negative_int,
        default=100,
        help="lines that cannot be read before that is an error",
    )
    add(
        "--seed",
        type=command_line.seed,
        default=0,
        help="of the weights and the order of the rows",
    )
    add("--data-seed", type=command_line.seed, default=0, help="of the synthetic rows")
    options = parser.parse_args(arguments)
    with command_line.checking(parser):
        check_rows(options)
        for sparsity in options.sparsities:
            sa.SequentialAttentionSchedule(sparsity, end_step=options.steps)
    return options


def _rows(
    options: argparse.Namespace,
) -> tuple[ClickSource | None, Clicks, Clicks, int]:
    """The source of synthetic rows, rows to train and to validate on, and bad lines."""
    source, path = None, options.data
    if path is None:
        source = ClickSource(
            options.data_seed,
            min(_MAX_CATEGORIES, options.table_size),
            _INFORMATIVE,
            interaction_share=_INTERACTION_SHARE,
        )
        path = options.output / "data" / "clicks.txt"
        make_synthetic(source, path, options.rows)
    manifest = convert(
        path,
        options.output / "converted",
        Encoding(table_size=options.table_size),
        validation_fraction=options.validation_fraction,
        max_rows=options.rows,
        max_bad_rows=options.max_bad_rows,
        overwrite="other",
    )
    training_rows = load_clicks(manifest.folder, "train")
    validation_rows = load_clicks(manifest.folder, "validation")
    return source, training_rows, validation_rows, manifest.bad_rows


def start_anew_if_other(output: pathlib.Path, request: dict) -> None:
    """Deletes what trainings with other options left in a folder, and says so.

    Args:
      output: folder of the demonstration.
      request: the options that the trainings depend on.
    """
    path = output / "options.json"
    found = json.loads(path.read_text()) if path.exists() else request
    different = [name for name in request if found.get(name) != request[name]]
    if different:
        changes = ", ".join(f"{n}={found.get(n)}, now {request[n]}" for n in different)
        print(f"{output} holds results of other options ({changes}): training anew.")
        for name in ("frontier", "curves", "logs"):
            shutil.rmtree(output / name, ignore_errors=True)
    write_json(path, request)


def save_for_serving(network: keras.Model, folder: pathlib.Path) -> None:
    """Writes a network as a SavedModel."""
    # Keras prints the signatures of what it exports.
    with contextlib.redirect_stdout(io.StringIO()):
        network.export(str(folder))


def _draw(
    options: argparse.Namespace,
    networks: dict[str, keras.Model],
    source: ClickSource | None,
) -> dict:
    """Draws the pictures; returns what the first layer reads."""
    output, sparsity = options.output, options.sparsities[0]
    informative = source.informative_fields if source else None
    curves = {
        candidate.name: json.loads(curve_file(output, candidate.name).read_text())
        for candidate in shown_candidates(sparsity)
        if curve_file(output, candidate.name).exists()
    }
    schedule = sa.SequentialAttentionSchedule(sparsity, end_step=options.steps)
    bayes = source.bayes_log_loss if source else None
    pictures.save_curves(curves, schedule, output / "curves.png", bayes)
    pictures.save_schedule(schedule, options.steps, output / "schedule.png")
    kernel = networks["sparse"].get_layer(FIRST_HIDDEN).kernel
    grid = BlockGrid(tuple(kernel.shape), (options.block_size, options.block_size))
    norms = block_norms(kernel, grid).numpy()
    path = output / "mask.png"
    pictures.save_mask(norms > 0, norms, options.block_size, path, informative)
    return what_is_kept(norms > 0, options.block_size, informative)


def main(arguments: list[str] | None = None) -> sa.Frontier:
    """Runs the comparison, writes its files and prints its table.

    Args:
      arguments: in place of the command line.

    Returns:
      The frontier.
    """
    logging.basicConfig(level=logging.WARNING)
    options = parse_arguments(arguments)
    output = options.output
    output.mkdir(parents=True, exist_ok=True)
    request = {n: v for n, v in vars(options).items() if n != "output"}
    start_anew_if_other(output, request)
    source, training_rows, validation_rows, bad_rows = _rows(options)
    training = Training(
        options.steps,
        options.batch_size,
        table_size=options.table_size,
        curve_points=30,
        curve_rows=4096,
    )
    found = click_frontier(
        training_rows,
        validation_rows,
        training,
        options.sparsities,
        options.block_size,
        output,
        options.seed,
        print_fn=_say_nothing,
    )
    chosen = {
        "dense": Candidate(DENSE, 1.0),
        "sparse": Candidate(BLOCKS, options.sparsities[0]),
        "fields": FIELDS,
    }
    networks = {
        name: keras.models.load_model(
            output / "frontier" / f"{candidate.file_name}.keras", compile=False
        )
        for name, candidate in chosen.items()
    }
    for name in ("dense", "sparse"):
        save_for_serving(networks[name], output / f"{name}_saved_model")
    first_layer = _draw(options, networks, source)
    kept = names_of_kept_fields(networks["fields"])
    informative = source.informative_fields if source else None
    limits = report.bounds(validation_rows, source, len(training_rows))
    command = command_line.command_text(_MODULE, arguments)
    sentences = [report.blocks_text(first_layer), report.fields_text(kept, informative)]
    counts = (len(training_rows), len(validation_rows))
    notes = report.notes(command, training, *counts, limits, sentences)
    text = found.text()
    write_whole(output / "results.md", f"# Click models\n\n{text}\n{notes}")
    results = {
        "command": command,
        "bad_rows": bad_rows,
        "data": source.describe() if source else {"files": options.data},
        "limits": limits,
        "points": [dataclasses.asdict(point) for point in found.points],
        "left_out": found.left_out,
        "first_layer": first_layer,
        "fields_read": kept,
    }
    write_json(output / "results.json", results)
    sa.report(
        networks["sparse"],
        output / "report.html",
        f"A click model without {options.sparsities[0]:.0%} of its blocks",
        {
            "Results": f"{text}\n{notes}",
            "Loss against latency and bytes": output / "frontier" / "frontier.png",
            "Validation loss while training": output / "curves.png",
            "What the first layer reads": output / "mask.png",
        },
    )
    removed = _remove_rows(output, source is not None)
    print(
        f"\n{text}\n{notes}\nWritten to {output}, {_size(output) / 1e6:.0f} MB; begin "
        f"with report.html. Deleted, as the same command makes them again: "
        f"{removed / 1e6:.0f} MB of rows."
    )
    return found


def _say_nothing(_: str) -> None:
    """The table of the frontier comes later, with the others."""


def _remove_rows(output: pathlib.Path, synthetic: bool) -> int:
    """Deletes the rows that were converted or made; returns their bytes."""
    folders = [output / "converted", *([output / "data"] if synthetic else [])]
    removed = sum(_size(folder) for folder in folders)
    for folder in folders:
        shutil.rmtree(folder)
    return removed


def _size(folder: pathlib.Path) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


if __name__ == "__main__":
    command_line.run(main)
