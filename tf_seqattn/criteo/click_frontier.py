"""Click models on the frontier: loss against latency and bytes of the whole model."""

import pathlib
from collections.abc import Callable
from typing import Any

import tf_keras as keras

import tf_seqattn as sa
from tf_seqattn.criteo.log.in_memory import Clicks, training_batches
from tf_seqattn.criteo.models.click_model import ClickModel, build_network
from tf_seqattn.criteo.models.experiment import Training, log_loss_of_logits

_WIDTHS = (1.0, 0.5, 0.25, 0.12)
_HIDDEN = 400
# Rows of a call, and rows that the loss of every file is taken on.
_BATCH, _EVALUATED_ROWS = 64, 32_768


def click_frontier(
    training_rows: Clicks,
    validation_rows: Clicks,
    training: Training,
    sparsity: float,
    block_size: int,
    output: pathlib.Path,
    seed: int,
    print_fn: Callable[[str], object] = print,
) -> sa.Frontier:
    """Compares click models: dense, narrower, and with pruned hidden layers.

    Args:
      training_rows: what to train on.
      validation_rows: what to measure on.
      training: steps, batches and learning rates of each model.
      sparsity: share of the blocks to remove, of every hidden layer.
      block_size: rows and columns of a block.
      output: folder: see `sa.frontier`.
      seed: of the order of the rows.
      print_fn: see `sa.frontier`.

    Returns:
      Files of whole models, tables included, on calls of 64 rows.
    """
    evaluated = validation_rows[:_EVALUATED_ROWS]
    features = evaluated.features()

    def build_model(width: float) -> keras.Model:
        units = (round(_HIDDEN * width),) * 3
        return build_network(training.table_size, hidden_units=units)

    def train(network: keras.Model, callbacks: list[Any]) -> None:
        model = ClickModel(network)
        model.compile(optimizer=keras.optimizers.Adam(training.learning_rate()))
        model.fit(
            training_batches(training_rows, training.batch_size, seed),
            steps_per_epoch=training.steps,
            callbacks=callbacks,
            verbose=0,
        )

    def evaluate(predict: Callable[[Any], Any]) -> float:
        return log_loss_of_logits(evaluated.labels, predict(features)[:, 0])

    return sa.frontier(
        build_model,
        train,
        evaluate,
        {name: array[:_BATCH] for name, array in features.items()},
        training.steps,
        output,
        widths=_WIDTHS,
        sparsities=(sparsity,),
        block_size=(block_size, block_size),
        allowed=0.002,
        seconds=5.0,
        print_fn=print_fn,
    )
