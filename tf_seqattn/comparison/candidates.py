"""The networks that are compared: dense ones of several widths, and pruned ones."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from tf_seqattn.keras_api import Callback, Model
from tf_seqattn.sparsity import (
    GradualSchedule,
    Magnitude,
    SequentialAttentionSchedule,
    UpdatePruningStep,
    prune,
    pruned_layers,
    shrink,
    strip_pruning,
)

DENSE = "dense"
GRADUAL = "gradual magnitude, blocks"
BLOCKS = "SequentialAttention++, blocks"
CHANNELS = "SequentialAttention++, channels"
FAMILIES = (DENSE, GRADUAL, BLOCKS, CHANNELS)
# What to do with a whole network before it is trained, and with a trained one.
Recipe = tuple[Callable[[Any], Any], Callable[[Any], Any]]


class Candidate(NamedTuple):
    """A network to train.

    Attributes:
      family: one of `FAMILIES`, or the name of a recipe.
      amount: width of a dense network relative to the first one, or share removed;
        None for a recipe.
    """

    family: str
    amount: float | None

    @property
    def name(self) -> str:
        """Such as "dense, width 0.5"."""
        if self.amount is None:
            return self.family
        how = f"width {self.amount:g}" if self.family == DENSE else f"{self.amount:.0%}"
        return f"{self.family}, {how}"

    @property
    def file_name(self) -> str:
        """The name with nothing but letters, digits and underscores."""
        amount = "" if self.amount is None else f"_{self.amount:g}"
        return re.sub(r"\W+", "_", f"{self.family}{amount}").lower()


def candidates(
    widths: Sequence[float],
    sparsities: Sequence[float],
    channels: Sequence[float],
    recipes: Sequence[str] = (),
) -> list[Candidate]:
    """All candidates: those that say most first, as a user may not wait for all.

    Args:
      widths: of dense networks.
      sparsities: shares of blocks to remove.
      channels: shares of channels to remove.
      recipes: names of the user's own.

    Example:

    >>> [c.name for c in candidates([1, 0.5], [0.9], [])][1:3]
    ['gradual magnitude, blocks, 90%', 'SequentialAttention++, blocks, 90%']
    """
    amounts = {
        DENSE: widths,
        GRADUAL: sparsities,
        BLOCKS: sparsities,
        CHANNELS: channels,
    }
    longest = max(map(len, amounts.values()))
    first = [
        Candidate(family, values[place])
        for place in range(longest)
        for family, values in amounts.items()
        if place < len(values)
    ]
    return first + [Candidate(name, None) for name in recipes]


def trained(
    candidate: Candidate,
    build_model: Callable[[float], Model],
    train: Callable[[Model, list[Callback]], object],
    steps: int,
    block_size: tuple[int, int],
    recipes: Mapping[str, Recipe],
    callbacks: Sequence[Callback],
) -> Any:
    """Trains a candidate; returns it without pruning.

    Args:
      candidate: what to train.
      build_model: from a width to a model.
      train: compiles and fits a model, with callbacks.
      steps: training steps of `train`.
      block_size: (rows, columns) of a block.
      recipes: the user's own, by name.
      callbacks: of the training, beside its own.

    Raises:
      ValueError: if nothing of the model can be pruned so.
    """
    if candidate.amount is None:
        before, after = recipes[candidate.family]
        model = before(build_model(1.0))
        steps_are_counted = [UpdatePruningStep()] if pruned_layers(model) else []
        train(model, [*steps_are_counted, *callbacks])
        return after(model)
    if candidate.family == DENSE:
        model = build_model(candidate.amount)
        train(model, list(callbacks))
        return model
    model = build_model(1.0)
    if candidate.family == GRADUAL:
        # The mask is fixed as long as in the other families.
        end_step = max(1, 3 * steps // 4)
        schedule: Any = GradualSchedule(candidate.amount, end_step)
        pruned = prune(model, schedule, block_size, importance=Magnitude())
    else:
        schedule = SequentialAttentionSchedule(candidate.amount, end_step=steps)
        by_channels = candidate.family == CHANNELS
        pruned = prune(model, schedule, "channels" if by_channels else block_size)
    if not pruned_layers(pruned):
        raise ValueError(f"no kernel has 100 blocks of {block_size}")
    train(pruned, [UpdatePruningStep(), *callbacks])
    return shrink(pruned) if candidate.family == CHANNELS else strip_pruning(pruned)
