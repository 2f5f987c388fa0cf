"""Trains a click model from files of any size to a SavedModel that serves raw features.

python -m tf_seqattn.criteo.train --data train.txt --model dnn --recipe paper

The rows are converted first, or `--data` names a folder of converted ones. Training is
distributed by `--strategy`. A backup is written at every validation and kept until the
results are written: the same command goes on where it stopped, and ends where it
would have ended (with other options that is an error).
"""

import argparse
import dataclasses
import functools
import logging
import pathlib
import time
from collections.abc import Callable

import numpy as np
import tensorflow as tf
import tf_keras as keras

import tf_seqattn as sa
from tf_seqattn.criteo.arguments import check_rows
from tf_seqattn.criteo.conversion import convert
from tf_seqattn.criteo.log.encoding import NUMERIC_ENCODINGS, Encoding
from tf_seqattn.criteo.log.fields import FIELD_NAMES
from tf_seqattn.criteo.log.manifest import MANIFEST_FILE, Manifest
from tf_seqattn.criteo.log.paths import as_path
from tf_seqattn.criteo.log.streaming import read_batches
from tf_seqattn.criteo.log.synthetic import ClickSource, make_synthetic
from tf_seqattn.criteo.models import deploy
from tf_seqattn.criteo.models.best_weights import BestWeights
from tf_seqattn.criteo.models.click_model import (
    ClickModel,
    build_network,
    prune_first_layer,
)
from tf_seqattn.criteo.models.experiment import (
    importance,
    log_loss_of_logits,
    pruning_schedule,
)
from tf_seqattn.criteo.models.optimizers import TABLE_OPTIMIZERS, make_optimizer
from tf_seqattn.criteo.models.ranking import (
    build_dcn,
    build_dlrm,
    prune_ranking,
    ranking_features,
)
from tf_seqattn.criteo.models.recipes import RECIPES, Recipe
from tf_seqattn.criteo.models.serving import export_serving
from tf_seqattn.criteo.models.training import (
    VALIDATION_BATCH,
    distributed_batches,
    fit,
    fit_with_parameter_servers,
)
from tf_seqattn.criteo.models.warm_start import (
    MODEL_FILE,
    check_finished,
    kept_support,
    load_earlier,
    save_encoding,
    start_from,
)
from tf_seqattn.criteo.models.without_fields import (
    names_of_kept_fields,
    prune_fields,
    without_fields,
)
from tf_seqattn.experiments import command_line
from tf_seqattn.experiments.algorithms import ALGORITHMS
from tf_seqattn.experiments.progress import progress_bar
from tf_seqattn.experiments.resuming import unfinished_training
from tf_seqattn.experiments.strategies import STRATEGIES, make_strategy, serve_cluster
from tf_seqattn.files import write_json

_MODULE = "tf_seqattn.criteo.train"
MODELS = ("dnn", "dlrm", "dcn")
SUPPORTS = ("revise", "keep")
_EXPORTED_ROWS = 256
_AUC_THRESHOLDS = 10_000


def make_parser(module: str, description: str) -> argparse.ArgumentParser:
    """Returns a parser of what a training takes, whatever library its model is of.

    Args:
      module: full name of the command.
      description: its first line is shown.
    """
    parser = command_line.make_parser(module, description)
    add = parser.add_argument
    add(
        "--data",
        nargs="+",
        help="files of a click log in order of time, or a folder of converted rows; "
        "synthetic ones by default",
    )
    add(
        "--output",
        type=command_line.output_folder,
        default=pathlib.Path("out/train"),
        help="folder for the converted rows, the logs, the backup and the models",
    )
    positive_int = command_line.positive_int
    add("--rows", type=positive_int, default=2_500_000, help="synthetic rows to make")
    add("--numeric", default="log1p", choices=NUMERIC_ENCODINGS, help="of the counts")
    add(
        "--table-size",
        type=positive_int,
        nargs="+",
        default=[512],
        help="categories are taken modulo of it: one number, or one for each of the 26",
    )
    add(
        "--min-count",
        type=command_line.non_negative_int,
        default=0,
        help="values seen less often share a row",
    )
    add(
        "--validation-fraction",
        type=command_line.positive_share,
        default=0.1,
        help="share of the rows, the last ones, that is held out",
    )
    add(
        "--max-bad-rows",
        type=command_line.non_negative_int,
        default=100,
        help="lines that cannot be read before that is an error",
    )
    add("--model", default="dnn", choices=MODELS, help="kind of network")
    add("--recipe", default="demo", choices=sorted(RECIPES), help="how to train")
    add("--batch-size", type=positive_int, help="in place of the recipe's")
    add("--steps", type=positive_int, help="in place of the recipe's steps or epochs")
    rate = command_line.positive_number
    add("--first-rate", type=rate, help="in place of the recipe's learning rate")
    add("--last-rate", type=rate, help="in place of the recipe's, at the last step")
    add(
        "--weight-decay",
        type=command_line.non_negative_number,
        help="of kernels, and of logits by an L2 penalty; in place of the recipe's",
    )
    add("--algorithm", default="seqattn", choices=ALGORITHMS, help="how to prune")
    add(
        "--sparsity",
        type=command_line.share,
        default=0.9,
        help="share of the blocks to remove",
    )
    add("--block-size", type=positive_int, help="20 for dnn, 16 for dlrm and dcn")
    add(
        "--validations",
        type=positive_int,
        help="backups and validations; 10, or one an epoch for bars",
    )
    add(
        "--seed",
        type=command_line.seed,
        default=0,
        help="of the weights and the order of the rows",
    )
    return parser


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line, or the list `arguments` in place of it."""
    parser = make_parser(_MODULE, __doc__)
    add = parser.add_argument
    add(
        "--table-optimizer",
        default="adam",
        choices=TABLE_OPTIMIZERS,
        help="of the tables; adagrad updates the rows of a batch alone",
    )
    add(
        "--table-rows",
        type=command_line.positive_int,
        help="prune the tables of dlrm or dcn by so many rows",
    )
    add(
        "--start",
        type=as_path,
        help="the --output of an earlier training of dnn, whose weights come first; "
        "values that its vocabulary lacks start as rare ones",
    )
    add(
        "--support",
        default="revise",
        choices=SUPPORTS,
        help="of --start: keep its zero blocks (in place of --algorithm and "
        "--sparsity), or prune anew",
    )
    add(
        "--fields",
        type=command_line.positive_int,
        help="keep so many of the fields of dnn, in place of --sparsity of the blocks; "
        "the others leave the model",
    )
    add("--strategy", default="none", choices=STRATEGIES, help="of tf.distribute")
    options = parser.parse_args(arguments)
    with command_line.checking(parser):
        check_options(options)
    return options


def check_options(options: argparse.Namespace) -> None:
    """Checks what goes together, before any work.

    Raises:
      ValueError: naming an option that does not go with the others.
      FileNotFoundError: for data that are not there.
    """
    check_training(options)
    if chosen_recipe(options).weight_decay and options.table_optimizer == "adagrad":
        raise ValueError(
            "--weight-decay wants --table-optimizer adam: with adagrad it is TFRS's "
            "`CompositeOptimizer`, whose Adam has none. Received: "
            f"--weight-decay {options.weight_decay}"
        )
    if options.model == "dnn" and options.table_rows:
        raise ValueError(
            "--table-rows prunes the tables of dlrm and dcn. Received: "
            f"--table-rows {options.table_rows} --model dnn"
        )
    if options.table_rows and options.strategy == "parameter_server":
        raise ValueError(
            "--table-rows prunes whole tables, and parameter servers may hold parts of "
            "one: use another --strategy."
        )
    if options.fields:
        check_fields(options)
    if options.start and options.model != "dnn":
        raise ValueError(
            "--start is for --model dnn. Received: "
            f"--start {options.start} --model {options.model}"
        )
    if options.start:
        check_finished(options.start)
    if options.support == "keep" and not options.start:
        raise ValueError("--support keep wants the model to keep it of: --start.")
    if chosen_recipe(options).patience and options.strategy == "parameter_server":
        raise ValueError(
            f"--recipe {options.recipe} stops after a validation, and there is none "
            "under a parameter server: use another --recipe or --strategy."
        )


def check_fields(options: argparse.Namespace) -> None:
    """Checks what goes with `--fields`.

    Raises:
      ValueError: naming an option that does not go with it.
    """
    if options.fields >= len(FIELD_NAMES):
        raise ValueError(
            f"--fields must leave out some of the {len(FIELD_NAMES)} fields. Received: "
            f"--fields {options.fields}"
        )
    unfit = {
        "--model": options.model != "dnn" and options.model,
        "--algorithm": options.algorithm == "dense" and "dense",
        "--support": options.support == "keep" and "keep",
        "--block-size": options.block_size,
    }
    for name, value in unfit.items():
        if value:
            raise ValueError(
                "--fields removes fields in place of blocks, by an --algorithm that "
                f"prunes, and is for --model dnn. Received: --fields {options.fields} "
                f"{name} {value}"
            )


def check_training(options: argparse.Namespace) -> None:
    """Checks what goes together among the options of `make_parser`.

    Raises:
      ValueError: naming an option that does not go with the others.
      FileNotFoundError: for data that are not there.
    """
    Encoding(options.numeric, options.table_size, options.min_count)
    recipe = chosen_recipe(options)
    if not options.data and min(options.table_size) < 2:
        raise ValueError("--table-size must be at least 2 for synthetic rows.")
    if not (options.data and is_conversion(options.data)):
        check_rows(options, recipe.batch_size)
    if options.steps:
        pruning_schedule(options.algorithm, options.sparsity, options.steps)
    if options.model != "dnn" and recipe.dropout:
        raise ValueError(
            f"--recipe {options.recipe} has dropout, which dlrm and dcn have not: "
            "use --model dnn, or another --recipe. Received: "
            f"--model {options.model}"
        )
    if options.model != "dnn" and options.numeric == "bucket":
        raise ValueError(
            "--model dlrm and dcn read the counts as numbers; with --numeric bucket "
            "use --model dnn."
        )


def is_conversion(data: list[str]) -> bool:
    """Whether `--data` is a folder of converted rows."""
    return len(data) == 1 and (as_path(data[0]) / MANIFEST_FILE).exists()


def open_rows(options: argparse.Namespace) -> Manifest:
    """Returns the manifest of the rows, converted first where they are not."""
    data = options.data
    if data and is_conversion(data):
        return Manifest.load(data[0])
    if not data:
        data = [options.output / "clicks.txt"]
        categories = min(500, *options.table_size, 4096)
        make_synthetic(ClickSource(0, categories), data[0], options.rows)
    return convert(
        data,
        options.output / "converted",
        Encoding(options.numeric, options.table_size, options.min_count),
        validation_fraction=options.validation_fraction,
        max_bad_rows=options.max_bad_rows,
        overwrite=False if options.data else "other",
    )


def chosen_recipe(options: argparse.Namespace) -> Recipe:
    """Returns the named recipe with what the command line puts in its place."""
    recipe = RECIPES[options.recipe]
    return dataclasses.replace(
        recipe,
        batch_size=options.batch_size or recipe.batch_size,
        epochs=None if options.steps else recipe.epochs,
        steps=options.steps or recipe.steps,
        first_rate=options.first_rate or recipe.first_rate,
        last_rate=options.last_rate or recipe.last_rate,
        weight_decay=recipe.weight_decay
        if options.weight_decay is None
        else options.weight_decay,
    )


def require_counts(manifest: Manifest) -> None:
    """Makes sure that counts are numbers, as DLRM and DCN read them.

    Raises:
      ValueError: if the rows have them as categories.
    """
    if not manifest.num_numeric:
        raise ValueError(
            "--model dlrm and dcn read the counts as numbers, and these rows have them "
            "as categories: use --model dnn, or convert with another --numeric."
        )


def build(options: argparse.Namespace, manifest: Manifest, steps: int) -> keras.Model:
    """Returns the model, pruned where the algorithm prunes, not compiled.

    Args:
      options: model, algorithm, sparsity, sizes of blocks.
      manifest: of the rows, for the sizes of tables.
      steps: number of training steps.
    """
    sizes, counts = manifest.table_sizes, manifest.num_numeric
    few = {
        "numeric": tf.zeros((2, counts)),
        "categorical": tf.zeros((2, len(sizes)), tf.int32),
    }
    schedule = pruning_schedule(options.algorithm, options.sparsity, steps)
    recipe = chosen_recipe(options)
    scores = importance(options.algorithm, recipe.weight_decay / 2)
    if options.model == "dnn":
        network = build_network(
            sizes,
            num_numeric=counts,
            dropout=recipe.dropout,
            l2=recipe.table_l2,
        )
        size = options.block_size or 20
        if options.start:
            earlier = load_earlier(options.start, manifest)
            start_from(
                network, earlier.network, earlier.vocabulary, manifest.vocabulary
            )
            if options.support == "keep":
                schedule, scores = kept_support(network, size), sa.Magnitude()
        if options.fields:
            sparsity = 1.0 - options.fields / len(FIELD_NAMES)
            schedule = pruning_schedule(options.algorithm, sparsity, steps)
            network = prune_fields(network, schedule, scores)
        elif schedule is not None:
            network = prune_first_layer(network, schedule, size, scores)
        model = ClickModel(network)
        # A backup restores the optimizer of a built model alone.
        model(few)
        return model
    require_counts(manifest)
    make = {"dlrm": build_dlrm, "dcn": build_dcn}[options.model]
    model = make(sizes, prunable_tables=options.table_rows is not None)
    model(ranking_features(few))
    if schedule is not None:
        prune_ranking(
            model, schedule, options.block_size or 16, scores, options.table_rows
        )
    return model


class _Network(tf.Module):
    """A trained model from `numeric` and `categorical` to log-odds."""

    def __init__(self, model: keras.Model, kind: str):
        super().__init__()
        self.model = model.network if kind == "dnn" else model
        self._adapt = (lambda x: x) if kind == "dnn" else ranking_features

    def __call__(self, features, training=False):
        return self.model(self._adapt(features), training=training)


def stripped_network(model: keras.Model, kind: str) -> _Network:
    """Returns the model without its pruning, from `numeric` and `categorical`."""
    network = _Network(model, kind)
    if sa.pruned_layers(network.model):
        network.model = sa.strip_pruning(network.model)
    return network


def measure(network: Callable, manifest: Manifest) -> dict:
    """Returns log loss (nats) and AUC on the validation rows, and on the test rows.

    Both are summed up batch by batch, so memory does not grow with the rows. The AUC is
    that of so many thresholds, within about 1e-5 of the exact one.

    Args:
      network: from `numeric` and `categorical` to log-odds.
      manifest: of the rows.

    Returns:
      `log_loss`, `auc` and `validation_rows`; where the conversion held out test rows
      beside them, also `test_log_loss`, `test_auc` and `test_rows`.
    """
    run = tf.function(lambda x: tf.reshape(network(x), (-1,)))
    log_loss, auc = _loss_and_auc(run, manifest, "validation")
    found = {
        "log_loss": log_loss,
        "auc": auc,
        "validation_rows": manifest.rows("validation"),
    }
    if manifest.rows("test"):
        # No early stop has looked at these.
        log_loss, auc = _loss_and_auc(run, manifest, "test")
        found |= {
            "test_log_loss": log_loss,
            "test_auc": auc,
            "test_rows": manifest.rows("test"),
        }
    return found


def _loss_and_auc(run: Callable, manifest: Manifest, split: str) -> tuple[float, float]:
    batches = read_batches(manifest.folder, split, VALIDATION_BATCH)
    total = 0.0
    auc = keras.metrics.AUC(_AUC_THRESHOLDS, from_logits=True)
    for features, labels in batches:
        logits = run(features).numpy().astype(np.float64)
        total += len(logits) * log_loss_of_logits(labels.numpy(), logits)
        auc.update_state(labels, logits)
    return total / manifest.rows(split), float(auc.result())


def train(
    options: argparse.Namespace, manifest: Manifest, strategy: tf.distribute.Strategy
) -> tuple[keras.Model, dict]:
    """Trains the model of the options.

    Returns:
      The model, still pruned, the number of `steps` that made its weights, and the
      `seconds` of the training.
    """
    recipe = chosen_recipe(options)
    steps = recipe.num_steps(manifest.rows("train"))
    keras.utils.set_random_seed(options.seed)
    with strategy.scope():
        model = build(options, manifest, steps)
        rate = recipe.learning_rate(steps)
        optimizer = make_optimizer(
            model, rate, options.table_optimizer, recipe.weight_decay
        )
        model.compile(optimizer=optimizer)
    adapt = None if options.model == "dnn" else ranking_features
    started = time.perf_counter()
    if isinstance(strategy, tf.distribute.ParameterServerStrategy):
        with progress_bar(steps, "steps", "Training") as bar:
            fit_with_parameter_servers(
                strategy,
                model,
                functools.partial(
                    _training_batches, options, manifest, strategy, adapt
                ),
                steps,
                progress=bar.update,
            )
    else:
        steps = fit_by_recipe(model, options, manifest, strategy, adapt)
    return model, {"steps": steps, "seconds": time.perf_counter() - started}


def _training_batches(
    options: argparse.Namespace,
    manifest: Manifest,
    strategy: tf.distribute.Strategy,
    adapt: Callable | None,
    first_batch: int = 0,
):
    batch_size, seed = chosen_recipe(options).batch_size, options.seed
    return distributed_batches(
        strategy, manifest.folder, "train", batch_size, seed, adapt, first_batch
    )


def fit_by_recipe(
    model: keras.Model,
    options: argparse.Namespace,
    manifest: Manifest,
    strategy: tf.distribute.Strategy,
    adapt: Callable | None = None,
) -> int:
    """Trains in `model.fit` as the options say, and goes on where it was interrupted.

    Args:
      model: compiled, pruned or not, of Keras 2 or Keras 3.
      options: of `make_parser`.
      manifest: of the rows.
      strategy: of the model, synchronous.
      adapt: see `distributed_batches`.

    Returns:
      The number of training steps that made the model's weights.
    """
    recipe = chosen_recipe(options)
    best = None
    if recipe.patience:
        best = BestWeights(options.output / "backup" / "best", recipe.patience)
    return fit(
        model,
        functools.partial(_training_batches, options, manifest, strategy, adapt),
        recipe.num_steps(manifest.rows("train")),
        options.validations or recipe.validations,
        distributed_batches(
            strategy, manifest.folder, "validation", VALIDATION_BATCH, None, adapt
        ),
        options.output,
        best=best,
        seed=options.seed,
    )


def export(network: _Network, options: argparse.Namespace, manifest: Manifest) -> dict:
    """Writes the SavedModel for serving, and the paper's model for Keras and TFLite."""
    export_serving(
        network, options.output / "served", manifest.encoding, manifest.vocabulary
    )
    if options.model != "dnn":
        return {}
    network.model.save(options.output / MODEL_FILE)
    save_encoding(options.output, manifest)
    batches = read_batches(manifest.folder, "validation", _EXPORTED_ROWS)
    features = next(batches.as_numpy_iterator())[0]
    is_sparse = options.algorithm != "dense" or options.support == "keep"
    # Of the fields that stay, all weights do.
    layout = "packed" if is_sparse and not options.fields else "dense"
    exported = deploy.export(
        network.model, features, options.output / "perceptron.tflite", layout
    )
    return {"tflite_bytes": exported.num_bytes}


def main(arguments: list[str] | None = None) -> dict:
    """Trains, measures and exports a model.

    Args:
      arguments: in place of the command line.

    Returns:
      `log_loss`, `auc` and what else is in `result.json`.
    """
    logging.basicConfig(level=logging.WARNING)
    options = parse_arguments(arguments)
    if options.strategy == "parameter_server":
        serve_cluster()
    strategy = make_strategy(options.strategy)
    options.output.mkdir(parents=True, exist_ok=True)
    manifest = open_rows(options)
    unfinished = unfinished_training(options.output, options, ("output", "strategy"))
    with unfinished, manifest.naming_damage():
        model, facts = train(options, manifest, strategy)
        sa.summary(model)
        network = stripped_network(model, options.model)
        if options.fields:
            network.model = without_fields(network.model)
            facts["fields"] = names_of_kept_fields(network.model)
        result = {
            "command": command_line.command_text(_MODULE, arguments),
            **facts,
            **measure(network, manifest),
            **export(network, options, manifest),
        }
        write_json(options.output / "result.json", result)
    print_result(result, options.output)
    return result


def print_result(result: dict, output: pathlib.Path) -> None:
    """Prints how good a trained model is, and where it is."""
    text = (
        f"Validation log loss {result['log_loss']:.4f}, AUC {result['auc']:.4f} on "
        f"{result['validation_rows']:,} rows after {result['steps']:,} steps."
    )
    if "test_rows" in result:
        text += (
            f" Test log loss {result['test_log_loss']:.4f}, AUC "
            f"{result['test_auc']:.4f} on {result['test_rows']:,} rows."
        )
    print(f"{text} Written to {output}.")


if __name__ == "__main__":
    command_line.run(main)
