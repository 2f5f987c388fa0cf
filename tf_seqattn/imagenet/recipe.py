"""How the paper trains ResNet50 (section 4.2)."""

import dataclasses

import tf_keras as keras

import tf_seqattn as sa
from tf_seqattn.experiments import algorithms

REFERENCE_BATCH = 2048


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The paper's recipe; what the paper leaves open is marked by "our choice".

    Attributes:
      epochs: passes over the training images.
      batch_size: images of a step, over all replicas.
      peak_rate: SGD's learning rate for batches of 2048; it is scaled with the batch.
      warmup_epochs: over which the rate rises from 0 (our choice).
      momentum: of SGD (our choice).
      weight_decay: L2 penalty on kernels and logits, half its square's weight in the
        loss (our choice).
      label_smoothing: share of the label spread over all classes.
      cycles: of the pruning schedule.
      dense_fraction: share of the steps before the first cycle.
      finetune_fraction: share of the steps after the last one, sparse.
    """

    epochs: int = 90
    batch_size: int = REFERENCE_BATCH
    peak_rate: float = 0.8
    warmup_epochs: float = 5.0
    momentum: float = 0.9
    weight_decay: float = 1e-4
    label_smoothing: float = 0.0
    cycles: int = 7
    dense_fraction: float = 0.10
    finetune_fraction: float = 0.15

    def learning_rate(
        self, steps_per_epoch: int
    ) -> keras.optimizers.schedules.LearningRateSchedule:
        """Returns the cosine from the scaled peak to 0, after a linear warm-up."""
        warmup = round(min(self.warmup_epochs, self.epochs / 10) * steps_per_epoch)
        peak = self.peak_rate * self.batch_size / REFERENCE_BATCH
        return keras.optimizers.schedules.CosineDecay(
            initial_learning_rate=0.0,
            decay_steps=max(1, self.epochs * steps_per_epoch - warmup),
            warmup_target=peak,
            warmup_steps=max(1, warmup),
        )

    def schedule(
        self, algorithm: str, sparsity: float, steps: int
    ) -> sa.PruningSchedule | None:
        """Returns when an algorithm prunes, or None for "dense".

        Args:
          algorithm: one of `algorithms.ALGORITHMS`.
          sparsity: share of the blocks to remove from each layer.
          steps: number of training steps.

        Raises:
          ValueError: for an unknown algorithm.

        Example:

        >>> Recipe().schedule("magnitude", 0.9, steps=1000).prune_step
        850
        """
        phases = algorithms.Phases(
            self.cycles, self.dense_fraction, self.finetune_fraction
        )
        return algorithms.pruning_schedule(algorithm, sparsity, steps, phases)

    def importance(self, algorithm: str) -> sa.Importance:
        """Returns what an algorithm scores blocks by; logits decay like kernels."""
        found = algorithms.find_algorithm(algorithm)
        return found.importance(self.weight_decay / 2)
