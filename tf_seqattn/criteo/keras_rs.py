"""Trains a click model of Keras 3 and keras-rs, to a SavedModel for raw features.

python -m tf_seqattn.criteo.keras_rs --data converted --model dcn

It takes what `tf_seqattn.criteo.train` takes: the rows, recipes and algorithms, and the
same command goes on where it stopped. That command, through TFRS, is the first way: it
distributes the training, and prunes tables.
"""

import argparse
import logging
import pathlib
import time

import keras
import tensorflow as tf

import tf_seqattn as sa
from tf_seqattn.criteo.log.manifest import Manifest
from tf_seqattn.criteo.models.click_model import prune_first_layer
from tf_seqattn.criteo.models.experiment import importance, pruning_schedule
from tf_seqattn.criteo.models.keras_rs_models import build_dcn, build_dlrm, build_dnn
from tf_seqattn.criteo.models.optimizers import decay_kernels
from tf_seqattn.criteo.models.serving import export_serving
from tf_seqattn.criteo.train import (
    check_training,
    chosen_recipe,
    fit_by_recipe,
    make_parser,
    measure,
    open_rows,
    print_result,
    require_counts,
)
from tf_seqattn.experiments import command_line
from tf_seqattn.experiments.resuming import unfinished_training
from tf_seqattn.files import write_json

_MODULE = "tf_seqattn.criteo.keras_rs"


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line, or the list `arguments` in place of it."""
    parser = make_parser(_MODULE, __doc__)
    # The library is noted beside a backup, which no other library can read.
    parser.set_defaults(output=pathlib.Path("out/keras_rs"), library="keras-rs")
    options = parser.parse_args(arguments)
    with command_line.checking(parser):
        check_training(options)
    return options


def build(options: argparse.Namespace, manifest: Manifest, steps: int) -> keras.Model:
    """Returns the model, pruned where the algorithm prunes, not compiled.

    Args:
      options: model, recipe, algorithm, sparsity, size of blocks.
      manifest: of the rows, for the sizes of tables.
      steps: number of training steps.
    """
    sizes, recipe = manifest.table_sizes, chosen_recipe(options)
    schedule = pruning_schedule(options.algorithm, options.sparsity, steps)
    scores = importance(options.algorithm, recipe.weight_decay / 2)
    if options.model == "dnn":
        network = build_dnn(
            sizes,
            num_numeric=manifest.num_numeric,
            dropout=recipe.dropout,
            l2=recipe.table_l2,
        )
        if schedule is None:
            return network
        return prune_first_layer(network, schedule, options.block_size or 20, scores)
    require_counts(manifest)
    network = {"dlrm": build_dlrm, "dcn": build_dcn}[options.model](sizes)
    if schedule is None:
        return network
    size = options.block_size or 16
    # Tables are left alone: neighbouring rows have nothing in common.
    tables = {keras.layers.Embedding: None}
    return sa.prune(network, schedule, (size, size), scores, layers=tables)


def train(
    options: argparse.Namespace, manifest: Manifest
) -> tuple[keras.Model, dict[str, float]]:
    """Trains the model of the options in plain `model.fit`.

    Returns:
      The model, still pruned, the number of `steps` that made its weights, and the
      `seconds` of the training.
    """
    recipe = chosen_recipe(options)
    steps = recipe.num_steps(manifest.rows("train"))
    keras.utils.set_random_seed(options.seed)
    model = build(options, manifest, steps)
    rate = keras.optimizers.schedules.ExponentialDecay(
        recipe.first_rate, steps, recipe.last_rate / recipe.first_rate
    )
    optimizer = keras.optimizers.Adam(rate, weight_decay=recipe.weight_decay or None)
    decay_kernels(optimizer, model)
    model.compile(
        optimizer,
        keras.losses.BinaryCrossentropy(from_logits=True),
        metrics=[keras.metrics.AUC(from_logits=True, name="auc")],
    )
    started = time.perf_counter()
    steps = fit_by_recipe(model, options, manifest, tf.distribute.get_strategy())
    return model, {"steps": steps, "seconds": time.perf_counter() - started}


def main(arguments: list[str] | None = None) -> dict:
    """Trains, measures and exports a model.

    Args:
      arguments: in place of the command line.

    Returns:
      `log_loss`, `auc` and what else is in `result.json`.
    """
    logging.basicConfig(level=logging.WARNING)
    options = parse_arguments(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    manifest = open_rows(options)
    unfinished = unfinished_training(options.output, options, ("output",))
    with unfinished, manifest.naming_damage():
        model, facts = train(options, manifest)
        sa.summary(model)
        # A copy also of a dense model, so that no optimizer is written with it.
        network = sa.strip_pruning(model)
        network.save(options.output / "model.keras")
        export_serving(
            network, options.output / "served", manifest.encoding, manifest.vocabulary
        )
        result = {
            "command": command_line.command_text(_MODULE, arguments),
            **facts,
            **measure(network, manifest),
        }
        write_json(options.output / "result.json", result)
    print_result(result, options.output)
    return result


if __name__ == "__main__":
    command_line.run(main)
