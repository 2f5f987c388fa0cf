"""Whether layers have reached the target of their schedule."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from tf_seqattn.kernels.blocks import entry_sparsity
from tf_seqattn.sparsity.phases import end_step, final_sparsity, next_phase_change
from tf_seqattn.sparsity.wrapper import PrunableLayer


@dataclasses.dataclass(frozen=True)
class Shortfall:
    """Kernels that are denser than their schedule's final sparsity.

    Attributes:
      kernels: number of pruned kernels, of all layers.
      dense: number of them that are not at their target.
      requested: the share of entries to remove, over all kernels.
      reached: the share that is removed.
      step: training steps begun.
      end_step: the step at which the schedule ends, or None if it does not say.
    """

    kernels: int
    dense: int
    requested: float
    reached: float
    step: int
    end_step: int | None

    def __str__(self) -> str:
        return (
            f"at step {self.step}, {self.dense} of {self.kernels} pruned kernels are "
            f"not at the target of their schedule: {self.requested:.1%} sparsity was "
            f"requested, {self.reached:.1%} is reached"
        )

    @property
    def remedy(self) -> str:
        """What to do about it."""
        until = "" if self.end_step is None else f", at step {self.end_step}"
        return (
            f"Train until the schedule ends{until}, or give it an end within the steps "
            "of the training."
        )


def shortfall(layers: Sequence[PrunableLayer]) -> Shortfall | None:
    """Returns what layers lack to their target, or None if they are at it.

    Args:
      layers: wrapped layers. Layers that are not built are left out, and so are those
        whose schedule does not say how it ends.

    Example:

    >>> from tf_seqattn.sparsity.schedules import OneShotSchedule
    >>> dense = keras.layers.Dense(8)
    >>> dense.build((None, 8))
    >>> layer = PrunableLayer(dense, OneShotSchedule(0.5, prune_step=10), (2, 2))
    >>> lacking = shortfall([layer])
    >>> lacking.requested, lacking.reached, lacking.end_step
    (0.5, 0.0, 10)
    """
    kernels = [
        (layer, pruned, target)
        for layer in layers
        if (target := final_sparsity(layer.pruning_schedule)) is not None
        for pruned in layer.pruned_kernels
    ]
    behind = [layer for layer, pruned, _ in kernels if not layer.is_at_target(pruned)]
    if not behind:
        return None
    entries = [math.prod(pruned.grid.kernel_shape) for _, pruned, _ in kernels]
    requested = [target for _, _, target in kernels]
    reached = [
        entry_sparsity(pruned.mask.numpy(), pruned.grid) for _, pruned, _ in kernels
    ]
    return Shortfall(
        kernels=len(kernels),
        dense=len(behind),
        requested=float(np.average(requested, weights=entries)),
        reached=float(np.average(reached, weights=entries)),
        step=max(layer.steps_begun for layer in behind),
        end_step=max(
            (s for s in (end_step(layer.pruning_schedule) for layer in behind) if s),
            default=None,
        ),
    )


def is_pruned_for_good(layers: Sequence[PrunableLayer]) -> bool:
    """Whether layers are at their target and no phase is left that revives blocks."""
    return all(
        next_phase_change(layer.pruning_schedule, layer.steps_begun) == math.inf
        and all(layer.is_at_target(pruned) for pruned in layer.pruned_kernels)
        for layer in layers
    )
