"""Trains the click model with one algorithm, and measures what came out.

All algorithms get the same data, steps, batches, learning rates and final phase of
fine-tuning (a fifth of the steps), so that they differ in what the paper compares.
Three more arms answer what users ask of pruning:

- "balanced": SequentialAttention++ that keeps equally many blocks in every column of
  blocks, which is faster when packed;
- "retrained": the blocks that SequentialAttention++ found, trained alone from new
  weights for all the steps (Liu et al., "Rethinking the value of network pruning",
  arXiv 1810.05270);
- "narrow": a dense model with fewer units in the first hidden layer, so that the whole
  perceptron has as many weights as the pruned one.
"""

import dataclasses
import time

import numpy as np
import tensorflow as tf
import tf_keras as keras
from sklearn.metrics import roc_auc_score

import tf_seqattn as sa
from tf_seqattn.criteo.log.fields import FIELD_NAMES
from tf_seqattn.criteo.log.in_memory import Clicks, training_batches, validation_batches
from tf_seqattn.criteo.models.click_model import (
    FIRST_HIDDEN,
    ClickModel,
    build_network,
    prune_first_layer,
)
from tf_seqattn.criteo.models.loss_curve import LossCurve
from tf_seqattn.criteo.models.recipes import decaying_rate
from tf_seqattn.experiments.algorithms import ALGORITHMS, Algorithm, Phases
from tf_seqattn.experiments.progress import progress_bar

CONTROLS = {
    "balanced": dataclasses.replace(
        ALGORITHMS["seqattn"], title="SequentialAttention++, balanced", colour="#8C564B"
    ),
    "retrained": Algorithm(
        "its blocks, retrained from scratch",
        "#009E73",
        lambda sparsity, steps, phases: sa.OneShotSchedule(sparsity, prune_step=0),
    ),
    "narrow": Algorithm("dense, as many weights", "#999999"),
}
ARMS = ALGORITHMS | CONTROLS
# The Criteo recipe of the paper.
PHASES = Phases(cycles=10, dense_fraction=0.2, finetune_fraction=0.2)


@dataclasses.dataclass(frozen=True)
class Training:
    """How an arm is trained; the defaults are those of the grid.

    Attributes:
      steps: number of training steps.
      batch_size: rows of a batch.
      first_rate: Adam's learning rate at the first step.
      last_rate: at the last step; it decays exponentially in between.
      table_size: rows of each category's table, as the data were converted with.
      finetune_fraction: share of the steps at the end in which the mask is fixed.
      curve_points: how often the validation loss is taken on the way.
      curve_rows: rows of the validation set that it is taken on.
    """

    steps: int = 3000
    batch_size: int = 2048
    first_rate: float = 2e-3
    last_rate: float = 3e-4
    table_size: int = 512
    finetune_fraction: float = PHASES.finetune_fraction
    curve_points: int = 100
    curve_rows: int = 8_192

    def learning_rate(self) -> keras.optimizers.schedules.LearningRateSchedule:
        """Returns the schedule of the learning rate."""
        return decaying_rate(self.first_rate, self.last_rate, self.steps)


@dataclasses.dataclass(frozen=True)
class Arm:
    """What one training is about.

    Attributes:
      algorithm: one of `ARMS`.
      sparsity: share of the blocks to remove; 0 for "dense".
      block_size: rows and columns of a block.
      seed: decides the initial weights and the order of the rows.
    """

    algorithm: str
    sparsity: float = 0.9
    block_size: int = 20
    seed: int = 0

    def __post_init__(self):
        if self.algorithm not in ARMS:
            raise ValueError(
                f"`algorithm` must be one of {', '.join(ARMS)}. Received: "
                f"algorithm={self.algorithm!r}"
            )


@dataclasses.dataclass(frozen=True)
class Trained:
    """A trained network and what was measured.

    Attributes:
      network: as trained, with its pruning still on.
      mask: bool `(block rows, block columns)` of the first layer: blocks kept.
      result: what `train_arm` measured, ready for JSON.
    """

    network: keras.Model
    mask: np.ndarray
    result: dict


def pruning_schedule(
    algorithm: str,
    sparsity: float,
    steps: int,
    finetune_fraction: float = PHASES.finetune_fraction,
) -> sa.PruningSchedule | None:
    """Returns when an arm prunes, or None for a dense one.

    Args:
      algorithm: one of `ARMS`.
      sparsity: share of the blocks to remove.
      steps: number of training steps.
      finetune_fraction: share of them at the end in which the mask is fixed.

    Example:

    >>> pruning_schedule("magnitude", 0.9, steps=1000).prune_step
    800
    """
    make = ARMS[algorithm].schedule
    if make is None:
        return None
    phases = dataclasses.replace(PHASES, finetune_fraction=finetune_fraction)
    return make(sparsity, steps, phases)


def importance(algorithm: str, l2: float = 0.0) -> sa.Importance:
    """Returns what an arm scores blocks by.

    Args:
      algorithm: the arm.
      l2: weight of an L2 penalty on the logits, where it has some.
    """
    return ARMS[algorithm].importance(l2)


def narrow_units(sparsity: float) -> int:
    """Units of the first hidden layer of the dense model of equal parameter count.

    A pruned perceptron has `(1 - sparsity) * 390 * 400` weights in the first layer and
    `400 * 400` in the second; `h` units in the first make `h * (390 + 400)`.

    Example:

    >>> narrow_units(0.9)
    222
    """
    inputs, units = 10 * len(FIELD_NAMES), 400
    kept = (1.0 - sparsity) * inputs * units + units * units
    return round(kept / (inputs + units))


def with_blocks(network: keras.Model, mask: np.ndarray, block_size: int) -> None:
    """Sets the blocks of the first layer that a mask drops to zero.

    Pruning by magnitude at the first step then keeps exactly the others.

    Args:
      network: of `model.build_network`, changed in place.
      mask: bool `(block rows, block columns)`: blocks to keep.
      block_size: rows and columns of a block.
    """
    layer = network.get_layer(FIRST_HIDDEN)
    rows, columns = layer.kernel.shape
    entries = np.kron(mask, np.ones((block_size, block_size)))[:rows, :columns]
    layer.kernel.assign(layer.kernel * entries)


def predict_logits(network: keras.Model, clicks: Clicks) -> np.ndarray:
    """Returns the log-odds of a click for every row, float64 `(rows,)`."""
    run = tf.function(lambda features: network(features, training=False)[:, 0])
    logits = [run(features).numpy() for features, _ in validation_batches(clicks)]
    return np.concatenate(logits).astype(np.float64)


def log_loss_of_logits(labels: np.ndarray, logits: np.ndarray) -> float:
    """Mean log loss in nats of predicted log-odds, computed without overflow.

    Args:
      labels: `(rows,)` of 0 and 1.
      logits: float64 `(rows,)`.

    Example:

    >>> round(log_loss_of_logits(np.array([1.0]), np.array([0.0])), 4)
    0.6931
    """
    return float(np.mean(np.logaddexp(0.0, logits) - np.asarray(labels) * logits))


def fields_of_block_rows(
    block_rows: int, block_size: int, dimension: int = 10
) -> list[list[str]]:
    """Returns the names of the fields that each row of blocks reads.

    Args:
      block_rows: number of rows of blocks of the first layer.
      block_size: inputs of a block.
      dimension: length of a field's vector.

    Example:

    >>> fields_of_block_rows(20, block_size=20)[6:8]
    [['I13', 'C1'], ['C2', 'C3']]
    """
    return [
        list(
            FIELD_NAMES[
                row * block_size // dimension : -(-(row + 1) * block_size // dimension)
            ]
        )
        for row in range(block_rows)
    ]


def what_is_kept(mask: np.ndarray, block_size: int, informative=None) -> dict:
    """Counts the blocks of the first layer that are kept, and what they read.

    Args:
      mask: bool `(block rows, block columns)`: blocks kept.
      block_size: rows and columns of a block.
      informative: names of the fields that carry signal, where they are known.

    Returns:
      A dict of `blocks` and `blocks_kept`; with `informative` also
      `informative_share_of_kept` (blocks that read an informative field, of those
      kept: the precision), `informative_share_of_all` (the precision of chance),
      `informative_fields` and, of those, `informative_fields_read` (the recall).

    Example:

    >>> what_is_kept(np.eye(39, 40, dtype=bool), 10, ["I1", "C1"])[
    ...     "informative_fields_read"
    ... ]
    2
    """
    kept = {"blocks": int(mask.size), "blocks_kept": int(mask.sum())}
    if informative is None:
        return kept
    rows = fields_of_block_rows(len(mask), block_size)
    useful = np.array([bool(set(fields) & set(informative)) for fields in rows])
    read = {f for i in np.flatnonzero(mask.any(axis=1)) for f in rows[i]}
    return {
        **kept,
        "informative_share_of_kept": float(mask[useful].sum() / mask.sum()),
        "informative_share_of_all": float(useful.mean()),
        "informative_fields": len(informative),
        "informative_fields_read": len(read & set(informative)),
    }


def _first_layer_mask(network: keras.Model, block_size: int) -> np.ndarray:
    """Blocks of the first layer that are kept; all where it is not pruned."""
    wrappers = sa.pruned_layers(network)
    if wrappers:
        return wrappers[0].pruned_kernels[0].mask.numpy() > 0
    kernel = network.get_layer(FIRST_HIDDEN).kernel
    return np.ones(sa.BlockGrid(tuple(kernel.shape), (block_size,) * 2).shape, bool)


def _untrained(arm: Arm, training: Training, mask: np.ndarray | None) -> keras.Model:
    """The network of an arm, pruned where the arm prunes."""
    # Retraining wants weights that have nothing to do with those that found the blocks.
    fresh = 1_000_000 if arm.algorithm == "retrained" else 0
    keras.utils.set_random_seed(arm.seed + fresh)
    units = narrow_units(arm.sparsity) if arm.algorithm == "narrow" else 400
    network = build_network(training.table_size, hidden_units=(units, 400, 400))
    schedule = pruning_schedule(
        arm.algorithm, arm.sparsity, training.steps, training.finetune_fraction
    )
    if schedule is None:
        return network
    if arm.algorithm == "retrained":
        if mask is None:
            raise ValueError(
                "`found` must be the blocks to retrain, for algorithm='retrained'. "
                "Received: found=None"
            )
        with_blocks(network, mask, arm.block_size)
    return prune_first_layer(
        network,
        schedule,
        arm.block_size,
        importance(arm.algorithm),
        balanced=arm.algorithm == "balanced",
    )


def train_arm(
    arm: Arm,
    training_rows: Clicks,
    validation_rows: Clicks,
    training: Training | None = None,
    informative: list[str] | None = None,
    progress: bool = True,
    found: np.ndarray | None = None,
) -> Trained:
    """Trains one arm with plain `model.fit` and measures it.

    Args:
      arm: algorithm, sparsity, size of a block and seed.
      training_rows: what to train on, at least one batch.
      validation_rows: what to measure on.
      training: steps, batches and learning rates; `Training()` by default.
      informative: names of the fields that carry signal, where they are known.
      progress: whether to show a progress bar.
      found: bool `(block rows, block columns)`: what to retrain, for "retrained".

    Returns:
      A `Trained`. Its `result` has the arm's and the training's settings and
      `log_loss` (nats) and `auc` on the validation rows, what `what_is_kept` counts,
      `curve_steps` and `curve_losses`, and `seconds` of the training.

    Raises:
      ValueError: for "retrained" without `found`.

    Example:

    >>> trained = train_arm(Arm("seqattn"), train, validation)  # doctest: +SKIP
    >>> trained.result["blocks_kept"]  # doctest: +SKIP
    40
    """
    training = training or Training()
    network = _untrained(arm, training, found)
    callbacks = [sa.UpdatePruningStep()] if sa.pruned_layers(network) else []
    model = ClickModel(network)
    model.compile(optimizer=keras.optimizers.Adam(training.learning_rate()))
    started = time.perf_counter()
    title = ARMS[arm.algorithm].title
    with progress_bar(training.steps, "steps", title, progress) as bar:
        curve = LossCurve(
            validation_rows[: training.curve_rows],
            max(1, training.steps // training.curve_points),
            bar,
        )
        model.fit(
            training_batches(training_rows, training.batch_size, arm.seed),
            steps_per_epoch=training.steps,
            callbacks=[*callbacks, curve],
            verbose=0,
        )
    seconds = time.perf_counter() - started
    logits = predict_logits(network, validation_rows)
    mask = _first_layer_mask(network, arm.block_size)
    result = {
        **dataclasses.asdict(arm),
        **dataclasses.asdict(training),
        "training_rows": len(training_rows),
        "validation_rows": len(validation_rows),
        "log_loss": log_loss_of_logits(validation_rows.labels, logits),
        "auc": float(roc_auc_score(validation_rows.labels, logits)),
        **what_is_kept(mask, arm.block_size, informative),
        "seconds": seconds,
        "curve_steps": curve.steps,
        "curve_losses": curve.losses,
    }
    return Trained(network, mask, result)
