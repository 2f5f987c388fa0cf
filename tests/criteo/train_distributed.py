"""A program of test_distribution.py: one process of a training under a strategy.

Arguments: strategy, folder of converted rows, file for what came out, and for parameter
servers the number of steps between two updates of the masks, and the process id
of a worker that is killed on the way.
"""

import itertools
import json
import os
import pathlib
import signal
import sys

import tf_seqattn.criteo  # noqa: F401 (before anything touches tf.keras)

# isort: split
import numpy as np
import tensorflow as tf
import tf_keras as keras

import tf_seqattn as sa
from tf_seqattn.criteo.log.streaming import read_batches
from tf_seqattn.criteo.models import training
from tf_seqattn.criteo.models.click_model import (
    ClickModel,
    build_network,
    prune_first_layer,
)
from tf_seqattn.experiments import strategies
from tf_seqattn.experiments.strategies import make_strategy, serve_cluster

STEPS, BATCH = 40, 128


def main(
    name: str, folder: str, output: str, between: str = "1", victim: str = ""
) -> None:
    if name == "mirrored":
        (cpu,) = tf.config.list_physical_devices("CPU")
        two = [tf.config.LogicalDeviceConfiguration()] * 2
        tf.config.set_logical_device_configuration(cpu, two)
    if name == "parameter_server":
        serve_cluster()
    # So small a table is shared out among the parameter servers, too.
    strategies.TABLE_ROWS = 1000
    strategy = make_strategy(name)
    with strategy.scope():
        schedule = sa.SequentialAttentionSchedule(0.9, STEPS, cycles=3)
        network = build_network(64)
        # Strategies differ in how they seed their variables.
        random = np.random.default_rng(0)
        for weight in network.weights:
            weight.assign(random.uniform(-0.05, 0.05, weight.shape))
        network = prune_first_layer(network, schedule, 20)
        model = ClickModel(network)
        model.compile(optimizer=keras.optimizers.Adam(2e-3))

    def batches():
        """The same global batches for every strategy, in the order of time."""
        options = tf.data.Options()
        data = tf.data.experimental.AutoShardPolicy.DATA
        options.experimental_distribute.auto_shard_policy = data
        dataset = read_batches(folder, "train", BATCH, drop_remainder=True)
        return dataset.repeat().with_options(options)

    if name == "parameter_server":
        rounds = itertools.count(1)

        def progress(_: int) -> None:
            # Ten rounds or more, as four steps at most are given out at a time.
            if victim and next(rounds) == 5:
                os.kill(int(victim), signal.SIGKILL)

        losses = training.fit_with_parameter_servers(
            strategy, model, batches, STEPS, int(between), progress
        )
        losses = [losses[STEPS // 2 - 1], losses[-1]]
    else:
        training.fit(model, lambda first: batches(), STEPS, 2, verbose=0)
        # TFRS shows the loss of the last batch of an epoch.
        losses = model.history.history["loss"]
    [wrapper] = sa.pruned_layers(network)
    copies = strategy.experimental_local_results(wrapper.masks[0])
    stripped = sa.strip_pruning(network)
    features, labels = next(iter(read_batches(folder, "validation", 300)))
    logits = stripped(features, training=False)[:, 0]
    loss = tf.nn.sigmoid_cross_entropy_with_logits(labels, logits)
    result = {
        "masks": [copy.numpy().tolist() for copy in copies],
        "losses": losses,
        "validation_loss": float(tf.reduce_mean(loss)),
        "steps": wrapper.steps_begun,
    }
    pathlib.Path(output).write_text(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
