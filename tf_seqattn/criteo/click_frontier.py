"""Click models on the frontier: loss against latency and bytes of the whole model."""

import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import tf_keras as keras

import tf_seqattn as sa
from tf_seqattn.comparison.candidates import BLOCKS, CHANNELS, DENSE, GRADUAL, Candidate
from tf_seqattn.criteo.log.in_memory import Clicks, training_batches
from tf_seqattn.criteo.models.click_model import ClickModel, build_network
from tf_seqattn.criteo.models.experiment import Training, log_loss_of_logits
from tf_seqattn.criteo.models.loss_curve import LossCurve
from tf_seqattn.criteo.models.without_fields import prune_fields, without_fields

# Width of the dense networks, and the shares of channels and of fields to remove.
_WIDTHS = (1.0, 0.5, 0.25, 0.12)
_CHANNELS = 0.5
_FIELDS = 0.5
_HIDDEN = 400
# Rows of a call, and rows that the loss of every file is taken on.
_BATCH, _EVALUATED_ROWS = 64, 65_536
_STEPS_AT_ONCE = 10

FIELDS = Candidate(f"SequentialAttention++, fields, {_FIELDS:.0%}", None)


def shown_candidates(sparsity: float) -> list[Candidate]:
    """The dense network of full width and the pruned ones, without narrower ones.

    Args:
      sparsity: share of the blocks that is removed.
    """
    blocks = [Candidate(GRADUAL, sparsity), Candidate(BLOCKS, sparsity)]
    return [Candidate(DENSE, 1.0), *blocks, Candidate(CHANNELS, _CHANNELS), FIELDS]


def _every(training: Training) -> int:
    """Steps between two points of a curve."""
    steps = max(1, training.steps // training.curve_points)
    # Whole executions, after which callbacks are called.
    return _STEPS_AT_ONCE * -(-steps // _STEPS_AT_ONCE)


def curve_file(output: pathlib.Path, name: str) -> pathlib.Path:
    """Where the training curve of a candidate is.

    Args:
      output: folder of the demonstration.
      name: of the candidate.
    """
    return output / "curves" / f"{name}.json"


def click_frontier(
    training_rows: Clicks,
    validation_rows: Clicks,
    training: Training,
    sparsities: Sequence[float],
    block_size: int,
    output: pathlib.Path,
    seed: int,
    print_fn: Callable[[str], object] = print,
) -> sa.Frontier:
    """Compares click models: dense, narrower, and without blocks, channels or fields.

    Args:
      training_rows: what to train on.
      validation_rows: what to measure on.
      training: steps, batches and learning rates of each model.
      sparsities: shares of the blocks to remove, of every hidden layer.
      block_size: rows and columns of a block.
      output: folder that gets `frontier`, `logs` for TensorBoard and `curves`.
      seed: of the order of the rows.
      print_fn: see `sa.frontier`.

    Returns:
      Files of whole models, tables included, on calls of 64 rows.
    """
    evaluated = validation_rows[:_EVALUATED_ROWS]
    features = evaluated.features()
    (output / "curves").mkdir(parents=True, exist_ok=True)

    def build_model(width: float) -> keras.Model:
        units = (round(_HIDDEN * width),) * 3
        return build_network(training.table_size, hidden_units=units)

    def train(network: keras.Model, callbacks: list[Any]) -> None:
        model = ClickModel(network)
        model.compile(
            optimizer=keras.optimizers.Adam(training.learning_rate()),
            # A small network's step is no longer than a call from Python.
            steps_per_execution=_STEPS_AT_ONCE,
        )
        model.fit(
            training_batches(training_rows, training.batch_size, seed),
            steps_per_epoch=training.steps,
            callbacks=callbacks,
            verbose=0,
        )

    def evaluate(predict: Callable[[Any], Any]) -> float:
        return log_loss_of_logits(evaluated.labels, predict(features)[:, 0])

    def callbacks_for(name: str) -> list[Any]:
        log_dir = output / "logs" / name
        is_dense = name.startswith(DENSE)
        board = keras.callbacks.TensorBoard if is_dense else sa.PruningSummaries
        curve = LossCurve(
            validation_rows[: training.curve_rows],
            _every(training),
            path=curve_file(output, name),
            log_dir=log_dir,
        )
        return [board(log_dir=str(log_dir), update_freq=100), curve]

    def prune(network: keras.Model) -> keras.Model:
        schedule = sa.SequentialAttentionSchedule(_FIELDS, training.steps)
        return prune_fields(network, schedule)

    def finish(network: keras.Model) -> keras.Model:
        return without_fields(sa.strip_pruning(network))

    return sa.frontier(
        build_model,
        train,
        evaluate,
        {name: array[:_BATCH] for name, array in features.items()},
        training.steps,
        output / "frontier",
        widths=_WIDTHS,
        sparsities=sparsities,
        channels=(_CHANNELS,),
        block_size=(block_size, block_size),
        allowed=0.002,
        print_fn=print_fn,
        recipes={FIELDS.name: (prune, finish)},
        callbacks_for=callbacks_for,
    )
