"""Trains a click model from files of any size to a SavedModel that serves raw features.

python -m tf_seqattn.criteo.train --data train.txt --model dnn --recipe paper

The rows are converted first, or `--data` names a folder of converted ones. Training is
distributed by `--strategy`; it is written down after every epoch, and the same command
goes on where it was broken off (with other options that is an error).
"""

import argparse
import json
import logging
import pathlib
import sys
import time

import numpy as np
import tensorflow as tf
import tf_keras as keras
from sklearn.metrics import roc_auc_score

import tf_seqattn as sa
from tf_seqattn.criteo.conversion import convert
from tf_seqattn.criteo.log.encoding import NUMERIC_ENCODINGS, Encoding
from tf_seqattn.criteo.log.manifest import MANIFEST_FILE, Manifest
from tf_seqattn.criteo.log.streaming import read_batches
from tf_seqattn.criteo.log.synthetic import ClickSource, make_synthetic
from tf_seqattn.criteo.models import deploy
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
from tf_seqattn.experiments.algorithms import ALGORITHMS
from tf_seqattn.experiments.progress import progress_bar
from tf_seqattn.experiments.resuming import unfinished_training
from tf_seqattn.experiments.strategies import STRATEGIES, make_strategy, serve_cluster

MODELS = ("dnn", "dlrm", "dcn")
_EXPORTED_ROWS = 256


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line, or the list `arguments` in place of it."""
    parser = argparse.ArgumentParser(
        prog="python -m tf_seqattn.criteo.train",
        description=__doc__.splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add(
        "--data",
        nargs="+",
        help="files of a click log in order of time, or a folder of converted rows; "
        "synthetic ones by default",
    )
    add(
        "--output",
        type=pathlib.Path,
        default=pathlib.Path("out/train"),
        help="folder for the converted rows, the logs, the backup and the models",
    )
    add("--rows", type=int, default=2_500_000, help="synthetic rows to make")
    add("--numeric", default="log1p", choices=NUMERIC_ENCODINGS, help="of the counts")
    add("--table-size", type=int, nargs="+", default=[512], help="categories modulo it")
    add("--min-count", type=int, default=0, help="rarer values share a row")
    add("--validation-fraction", type=float, default=0.1, help="the last rows")
    add("--max-bad-rows", type=int, default=100, help="before that is an error")
    add("--model", default="dnn", choices=MODELS)
    add("--recipe", default="demo", choices=sorted(RECIPES))
    add("--batch-size", type=int, help="in place of the recipe's")
    add("--steps", type=int, help="in place of the recipe's steps or epochs")
    add("--first-rate", type=float, help="in place of the recipe's learning rate")
    add("--last-rate", type=float, help="in place of the recipe's, at the last step")
    add("--algorithm", default="seqattn", choices=ALGORITHMS)
    add("--sparsity", type=float, default=0.9, help="share of the blocks to remove")
    add("--block-size", type=int, help="20 for dnn, 16 for dlrm and dcn")
    add(
        "--table-rows", type=int, help="prune the tables of dlrm or dcn by so many rows"
    )
    add("--strategy", default="none", choices=STRATEGIES)
    add("--validations", type=int, default=10, help="backups and validations")
    add("--seed", type=int, default=0, help="of the weights and the order of the rows")
    return parser.parse_args(arguments)


def open_rows(options: argparse.Namespace) -> Manifest:
    """Returns the manifest of the rows, converted first where they are not."""
    data = options.data
    if data and len(data) == 1 and (pathlib.Path(data[0]) / MANIFEST_FILE).exists():
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
        overwrite=not options.data,
    )


def chosen_recipe(options: argparse.Namespace) -> Recipe:
    """Returns the named recipe with what the command line puts in its place."""
    recipe = RECIPES[options.recipe]
    return Recipe(
        options.batch_size or recipe.batch_size,
        None if options.steps else recipe.epochs,
        options.steps or recipe.steps,
        options.first_rate or recipe.first_rate,
        options.last_rate or recipe.last_rate,
    )


def build(options: argparse.Namespace, manifest: Manifest, steps: int) -> keras.Model:
    """Returns the model, pruned where the algorithm prunes, not compiled.

    Args:
      options: model, algorithm, sparsity, sizes of blocks.
      manifest: of the rows, for the sizes of tables.
      steps: number of training steps.
    """
    sizes, counts = manifest.table_sizes, manifest.num_numeric
    schedule = pruning_schedule(options.algorithm, options.sparsity, steps)
    scores = importance(options.algorithm)
    if options.model == "dnn":
        if options.table_rows:
            raise ValueError(
                "`--table-rows` prunes the tables of dlrm and dcn. Received: "
                f"table_rows={options.table_rows}, model='dnn'"
            )
        network = build_network(sizes, num_numeric=counts)
        if schedule is not None:
            size = options.block_size or 20
            network = prune_first_layer(network, schedule, size, scores)
        return ClickModel(network)
    if not counts:
        raise ValueError(
            "`--model dlrm` and `dcn` read the counts as numbers; with "
            "`--numeric bucket` use `--model dnn`."
        )
    make = {"dlrm": build_dlrm, "dcn": build_dcn}[options.model]
    model = make(sizes, prunable_tables=options.table_rows is not None)
    few = {
        "numeric": tf.zeros((2, counts)),
        "categorical": tf.zeros((2, len(sizes)), tf.int32),
    }
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


def measure(network: _Network, manifest: Manifest) -> dict:
    """Returns log loss (nats) and AUC on the validation rows."""
    run = tf.function(lambda x: tf.reshape(network(x), (-1,)))
    batches = read_batches(manifest.folder, "validation", VALIDATION_BATCH)
    results = [(run(features).numpy(), labels.numpy()) for features, labels in batches]
    logits, labels = (np.concatenate(part) for part in zip(*results, strict=True))
    return {
        "log_loss": log_loss_of_logits(labels, logits.astype(np.float64)),
        "auc": float(roc_auc_score(labels, logits)),
        "validation_rows": len(labels),
    }


def train(
    options: argparse.Namespace, manifest: Manifest, strategy: tf.distribute.Strategy
) -> tuple[keras.Model, dict]:
    """Trains the model of the options.

    Returns:
      The model, still pruned, and `steps` and `seconds` of the training.
    """
    recipe = chosen_recipe(options)
    steps = recipe.num_steps(manifest.rows("train"))
    keras.utils.set_random_seed(options.seed)
    with strategy.scope():
        model = build(options, manifest, steps)
        model.compile(optimizer=keras.optimizers.Adam(recipe.learning_rate(steps)))
    adapt = None if options.model == "dnn" else ranking_features

    def batches(split, size, seed):
        return distributed_batches(strategy, manifest.folder, split, size, seed, adapt)

    started = time.perf_counter()
    if isinstance(strategy, tf.distribute.ParameterServerStrategy):
        with progress_bar(steps, "steps", "Training") as bar:
            fit_with_parameter_servers(
                strategy,
                model,
                lambda: batches("train", recipe.batch_size, options.seed),
                steps,
                progress=bar.update,
            )
    else:
        epochs = next(n for n in range(options.validations, 0, -1) if steps % n == 0)
        fit(
            model,
            batches("train", recipe.batch_size, options.seed),
            steps // epochs,
            epochs,
            batches("validation", VALIDATION_BATCH, None),
            options.output,
        )
    return model, {"steps": steps, "seconds": time.perf_counter() - started}


def export(network: _Network, options: argparse.Namespace, manifest: Manifest) -> dict:
    """Writes the SavedModel for serving, and the paper's model for Keras and TFLite."""
    export_serving(
        network, options.output / "served", manifest.encoding, manifest.vocabulary
    )
    if options.model != "dnn":
        return {}
    network.model.save(options.output / "model.keras")
    batches = read_batches(manifest.folder, "validation", _EXPORTED_ROWS)
    features = next(batches.as_numpy_iterator())[0]
    layout = "dense" if options.algorithm == "dense" else "packed"
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
    with unfinished_training(options.output, options, free=("output", "strategy")):
        model, facts = train(options, manifest, strategy)
    sa.summary(model)
    network = stripped_network(model, options.model)
    given = sys.argv[1:] if arguments is None else arguments
    result = {
        "command": " ".join(["python -m tf_seqattn.criteo.train", *map(str, given)]),
        **facts,
        **measure(network, manifest),
        **export(network, options, manifest),
    }
    (options.output / "result.json").write_text(json.dumps(result, indent=2) + "\n")
    print(
        f"Validation log loss {result['log_loss']:.4f}, AUC {result['auc']:.4f} on "
        f"{result['validation_rows']:,} rows after {result['steps']:,} steps. Written "
        f"to {options.output}."
    )
    return result


if __name__ == "__main__":
    main()
