"""Trains a click model dense and with SequentialAttention++, and compares the two.

python -m tf_seqattn.criteo --output out/criteo

Without --data the rows are synthetic (see `tf_seqattn.criteo.log.synthetic`); with it,
they are the first ones of a file in the format of Kaggle's train.txt. Synthetic and
converted rows are deleted at the end; models, pictures, logs and tables stay.
"""

import argparse
import contextlib
import dataclasses
import io
import logging
import pathlib
import shutil

import numpy as np
import tf_keras as keras

import tf_seqattn as sa
from tf_seqattn.criteo import pictures, report
from tf_seqattn.criteo.arguments import check_rows
from tf_seqattn.criteo.click_frontier import click_frontier
from tf_seqattn.criteo.conversion import convert
from tf_seqattn.criteo.log.encoding import Encoding
from tf_seqattn.criteo.log.in_memory import Clicks, load_clicks
from tf_seqattn.criteo.log.synthetic import (
    ClickSource,
    binary_log_loss,
    make_synthetic,
)
from tf_seqattn.criteo.models import deploy
from tf_seqattn.criteo.models.click_model import FIRST_HIDDEN
from tf_seqattn.criteo.models.experiment import (
    ARMS,
    Arm,
    Trained,
    Training,
    log_loss_of_logits,
    predict_logits,
    pruning_schedule,
    train_arm,
)
from tf_seqattn.experiments import command_line
from tf_seqattn.files import write_json, write_whole
from tf_seqattn.kernels.blocks import BlockGrid, block_norms

_MODULE = "tf_seqattn.criteo"
_COMPARED_ROWS = 256
_BATCHES = (1, 64)
# The arm to look at, what else is pruned, and a dense network of as many weights.
_OURS = "recommended"
_TRAINED = {"dense": "dense", "narrow": "narrow", "gradual": "gradual", _OURS: "sparse"}
_PRUNED = ("gradual", "sparse")


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
    add("--rows", type=positive_int, default=2_500_000, help="rows to make, or to read")
    add(
        "--validation-fraction",
        type=command_line.positive_share,
        default=0.08,
        help="share of the rows, the last ones, that is held out",
    )
    add("--steps", type=positive_int, default=3000, help="training steps of each model")
    add(
        "--batch-size", type=positive_int, default=2048, help="rows of a training batch"
    )
    add(
        "--table-size",
        type=command_line.integer(2),
        default=512,
        help="rows of each category's embedding table",
    )
    add(
        "--sparsity",
        type=command_line.share,
        default=0.9,
        help="share of the blocks to remove",
    )
    add(
        "--block-size",
        type=positive_int,
        default=20,
        help="rows and columns of a block",
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
        pruning_schedule(_OURS, options.sparsity, options.steps)
    return options


def save_models(networks: dict[str, keras.Model], output: pathlib.Path) -> None:
    """Saves each network as a Keras file and as a SavedModel for serving."""
    for name, network in networks.items():
        network.save(output / f"{name}.keras")
        # Keras prints the signatures of what it exports.
        with contextlib.redirect_stdout(io.StringIO()):
            network.export(str(output / f"{name}_saved_model"))


def _count_weights(perceptron: keras.Model) -> int:
    return sum(int(np.count_nonzero(w)) for w in perceptron.get_weights())


def compare_files(
    networks: dict[str, keras.Model], validation_rows: Clicks, output: pathlib.Path
) -> tuple[dict[str, dict], str]:
    """Exports the perceptrons of the networks, checks and times them.

    Args:
      networks: without pruning, by name; those of `_PRUNED` are packed.
      validation_rows: where rows to compare on are taken from.
      output: folder for `<name>.tflite`.

    Returns:
      For each name `weights`, `file_bytes` and `latencies`, and a text that says
      how far each file is from Keras.
    """
    features = validation_rows[:_COMPARED_ROWS].features()
    files, facts, compared = {}, {}, ""
    for name, network in networks.items():
        path = output / f"{name}.tflite"
        layout = "packed" if name in _PRUNED else "dense"
        exported = deploy.export(network, features, path, layout, max(_BATCHES))
        files[name] = path.read_bytes()
        compared += report.exported_text(name, layout, exported)
        perceptron = deploy.multilayer_perceptron(network)
        facts[name] = {
            "weights": _count_weights(perceptron),
            "file_bytes": exported.num_bytes,
            "latencies": {},
        }
    inputs = deploy.embed(networks["dense"], features)
    for batch in _BATCHES:
        taken = deploy.measure_latency(files, inputs[:batch])
        for name, latency in taken.items():
            facts[name]["latencies"][batch] = latency
    return facts, compared


def reference_rows(
    validation_rows: Clicks, source: ClickSource | None, first_row: int
) -> list[report.Row]:
    """Returns the rows of the table that need no training."""
    labels = validation_rows.labels
    rate = float(labels.mean())
    rows = [
        report.Row(
            "always the click rate",
            binary_log_loss(labels, np.full(len(labels), rate)),
            auc=0.5,
        )
    ]
    if source is not None:
        truth = source.rows(first_row, first_row + len(labels))
        loss = binary_log_loss(truth.labels, truth.probabilities)
        rows.append(report.Row("best possible (the truth)", loss))
    return rows


def _model_row(name: str, trained: Trained, facts: dict) -> report.Row:
    result = trained.result
    return report.Row(
        name,
        result["log_loss"],
        result["auc"],
        f"{result['blocks_kept']} of {result['blocks']}",
        facts["weights"],
        facts["file_bytes"],
        facts["latencies"],
    )


def _notes(
    options, command: str, dense: Trained, sparse: Trained, compared: str
) -> str:
    """What to know in order to read the table."""
    result = sparse.result
    notes = [
        f"Made by `{command}`.",
        f"{result['training_rows']:,} rows to train on, "
        f"{result['validation_rows']:,} later ones to validate on; {options.steps:,} "
        f"steps of {options.batch_size:,} rows for each model, in "
        f"{dense.result['seconds']:.0f} s and {result['seconds']:.0f} s. "
        "Log loss in nats. Blocks of "
        f"{options.block_size} x {options.block_size} in the first layer; weights, "
        "files and times are those of the perceptron behind the embeddings. Times are "
        "microseconds of one call on one thread: the median, with the quartiles in "
        "brackets.",
    ]
    if "informative_share_of_kept" in result:
        notes.append(
            f"{result['informative_share_of_kept']:.0%} of the blocks kept read a "
            "field that carries signal, against "
            f"{result['informative_share_of_all']:.0%} of all blocks. Of the "
            f"{result['informative_fields']} such fields, "
            f"{result['informative_fields_read']} are still read."
        )
    notes.append("TFLite files, each compared with Keras before use:")
    notes.append(compared.rstrip())
    return "\n\n".join(notes) + "\n"


def main(arguments: list[str] | None = None) -> list[report.Row]:
    """Runs the comparison, writes its files and prints its table.

    Args:
      arguments: in place of the command line.

    Returns:
      The rows of the table.
    """
    logging.basicConfig(level=logging.WARNING)
    options = parse_arguments(arguments)
    output = options.output
    output.mkdir(parents=True, exist_ok=True)
    source, path = None, options.data
    if path is None:
        source = ClickSource(options.data_seed, min(500, options.table_size))
        path = output / "data" / "clicks.txt"
        make_synthetic(source, path, options.rows)
    manifest = convert(
        path,
        output / "converted",
        Encoding(table_size=options.table_size),
        validation_fraction=options.validation_fraction,
        max_rows=options.rows,
        max_bad_rows=options.max_bad_rows,
        overwrite="other",
    )
    training_rows = load_clicks(manifest.folder, "train")
    validation_rows = load_clicks(manifest.folder, "validation")

    training = Training(
        options.steps, options.batch_size, table_size=options.table_size
    )
    informative = source.informative_fields if source else None
    arms = {
        name: Arm(
            name,
            options.sparsity if name != "dense" else 0.0,
            options.block_size,
            options.seed,
        )
        for name in _TRAINED
    }
    trained = {
        name: train_arm(
            arm,
            training_rows,
            validation_rows,
            training,
            informative,
            log_dir=output / "logs" / name,
        )
        for name, arm in arms.items()
    }
    networks = {}
    for name, file in _TRAINED.items():
        networks[file] = trained[name].network
        if file in _PRUNED:
            networks[file] = sa.strip_pruning(networks[file])
            # The table is about the stripped network, so that is what is measured.
            logits = predict_logits(networks[file], validation_rows)
            loss = log_loss_of_logits(validation_rows.labels, logits)
            trained[name].result["log_loss"] = loss
    save_models(networks, output)
    # Half of the steps, so that the whole demonstration stays short.
    on_frontier = click_frontier(
        training_rows,
        validation_rows,
        dataclasses.replace(training, steps=max(1, options.steps // 2)),
        options.sparsity,
        options.block_size,
        output / "frontier",
        options.seed,
        print_fn=_say_nothing,
    )
    facts, compared = compare_files(networks, validation_rows, output)

    removed_share = f"{options.sparsity:.0%} of blocks removed"
    titles = {name: ARMS[name].title for name in _TRAINED}
    title = f"SequentialAttention++ (our default), {removed_share}"
    titles |= {_OURS: title, "gradual": f"{titles['gradual']}, {removed_share}"}
    rows = [
        *reference_rows(validation_rows, source, len(training_rows)),
        *(_model_row(titles[n], trained[n], facts[f]) for n, f in _TRAINED.items()),
    ]
    command = command_line.command_text(_MODULE, arguments)
    notes = _notes(options, command, trained["dense"], trained[_OURS], compared)
    text = report.table(rows)
    gain = report.frontier_text(on_frontier, max(1, options.steps // 2))
    text = f"{gain}\n\n{text}"
    write_whole(output / "results.md", f"# Click models\n\n{text}\n{notes}")
    results = {
        "command": command,
        "bad_rows": manifest.bad_rows,
        "data": source.describe() if source else {"files": path},
        "table": [row._asdict() for row in rows],
        "runs": {name: run.result for name, run in trained.items()},
        "tflite": compared.splitlines(),
    }
    write_json(output / "results.json", results)

    schedule = pruning_schedule(_OURS, options.sparsity, options.steps)
    pictures.save_curves(
        {name: run.result for name, run in trained.items()},
        schedule,
        output / "curves.png",
        source.bayes_log_loss if source else None,
    )
    pictures.save_schedule(schedule, options.steps, output / "schedule.png")
    kernel = networks["sparse"].get_layer(FIRST_HIDDEN).kernel
    grid = BlockGrid(tuple(kernel.shape), (options.block_size, options.block_size))
    pictures.save_mask(
        trained[_OURS].mask,
        block_norms(kernel, grid).numpy(),
        options.block_size,
        output / "mask.png",
        informative,
    )
    sa.report(
        networks["sparse"],
        output / "report.html",
        title,
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
    return rows


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
