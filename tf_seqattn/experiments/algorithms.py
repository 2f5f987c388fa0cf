"""The algorithms that experiments compare: when each prunes, and what it scores by.

The table is `ALGORITHMS`. An experiment has the same phases for all of them, so that
they differ in what is compared.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import tf_seqattn as sa

# Okabe and Ito's colours, which the colour-blind can tell apart.
_BLACK, _PINK, _BLUE = "#000000", "#CC79A7", "#0072B2"
_ORANGE, _SKY, _VERMILION = "#E69F00", "#56B4E9", "#D55E00"
_PURPLE, _GREEN, _LILAC = "#6A3D9A", "#009E73", "#B39DDB"
_NAVY, _PLUM, _BROWN = "#003F6B", "#9467BD", "#8C510A"
# The share of the steps over which gradual pruning removes blocks, at most, and over
# which it does in the variants of ours.
_LONG_RISE = 0.75


@dataclasses.dataclass(frozen=True)
class Phases:
    """How the steps of a training are shared out.

    Attributes:
      cycles: of the algorithms that prune more than once.
      dense_fraction: share of the steps before the first cycle.
      finetune_fraction: share of the steps at the end in which the mask is fixed.
    """

    cycles: int
    dense_fraction: float
    finetune_fraction: float


Schedule = Callable[[float, int, Phases], sa.PruningSchedule]


@dataclasses.dataclass(frozen=True)
class Algorithm:
    """One way to train.

    Attributes:
      title: for tables and pictures.
      colour: of its lines in pictures.
      schedule: from target sparsity, training steps and `Phases` to a schedule; None
        for a dense model.
      importance: from the weight of an L2 penalty on logits to what scores the blocks.
    """

    title: str
    colour: str
    schedule: Schedule | None = None
    importance: Callable[[float], sa.Importance] = lambda l2: sa.Magnitude()


def _one_shot(sparsity: float, steps: int, phases: Phases) -> sa.PruningSchedule:
    prune_step = round(steps * (1.0 - phases.finetune_fraction))
    return sa.OneShotSchedule(sparsity, prune_step=prune_step)


def _gradual(longest: float) -> Schedule:
    def schedule(sparsity: float, steps: int, phases: Phases) -> sa.PruningSchedule:
        share = min(longest, 1.0 - phases.finetune_fraction)
        return sa.GradualSchedule(sparsity, end_step=max(1, round(share * steps)))

    return schedule


def _acdc(sparsity: float, steps: int, phases: Phases) -> sa.PruningSchedule:
    return sa.ACDCSchedule(sparsity, steps, **dataclasses.asdict(phases))


def _seqattn(sparsity: float, steps: int, phases: Phases) -> sa.PruningSchedule:
    return sa.SequentialAttentionSchedule(sparsity, steps, **dataclasses.asdict(phases))


def _ours(**options: Any) -> Schedule:
    # It shares out the steps by itself: that is what users get who give no phases.
    def schedule(sparsity: float, steps: int, phases: Phases) -> sa.PruningSchedule:
        del phases
        return sa.SequentialAttentionSchedule(sparsity, steps, **options)

    return schedule


def _sparse_start(sparsity: float, steps: int, phases: Phases) -> sa.PruningSchedule:
    return _ours(initial_sparsity=sparsity, rise=_LONG_RISE)(sparsity, steps, phases)


def _same_rate(**options: Any) -> Schedule:
    """Ours with one learning rate for dense and sparse kernels."""
    return _ours(rate_power=0.0, **options)


ALGORITHMS = {
    "dense": Algorithm("dense", _BLACK),
    "magnitude": Algorithm("magnitude, one shot", _PINK, _one_shot),
    "gradual": Algorithm("magnitude, gradual", _BLUE, _gradual(_LONG_RISE)),
    "gradual_half": Algorithm("magnitude, gradual, over 1/2", _NAVY, _gradual(0.5)),
    "powerprop": Algorithm(
        "Powerpropagation", _ORANGE, _one_shot, lambda l2: sa.PowerPropagation()
    ),
    "acdc": Algorithm("ACDC", _SKY, _acdc),
    "seqattn": Algorithm(
        "SequentialAttention++",
        _VERMILION,
        _seqattn,
        lambda l2: sa.SoftmaxAttention.paper(l2),
    ),
    "recommended": Algorithm(
        "our default",
        _PURPLE,
        _ours(),
        lambda l2: sa.SoftmaxAttention(l2=l2),
    ),
    "half_rise": Algorithm(
        "ours, same rate, over 1/2",
        _BROWN,
        _same_rate(rise=0.5),
        lambda l2: sa.SoftmaxAttention(l2=l2),
    ),
    "long_rise": Algorithm(
        "ours, same rate, over 3/4",
        _PLUM,
        _same_rate(rise=_LONG_RISE),
        lambda l2: sa.SoftmaxAttention(l2=l2),
    ),
    "unrevised": Algorithm(
        "ours, same rate, over 3/4, no block comes back",
        _LILAC,
        _same_rate(rise=_LONG_RISE, revise=False),
        lambda l2: sa.SoftmaxAttention(l2=l2),
    ),
    "sparse_start": Algorithm(
        "ours, sparse from the start",
        _GREEN,
        _sparse_start,
        lambda l2: sa.SoftmaxAttention(l2=l2),
    ),
}


def find_algorithm(name: str) -> Algorithm:
    """Returns an algorithm by its name.

    Args:
      name: one of `ALGORITHMS`.

    Raises:
      ValueError: for another name.

    Example:

    >>> find_algorithm("acdc").title
    'ACDC'
    """
    if name not in ALGORITHMS:
        raise ValueError(
            f"`algorithm` must be one of {', '.join(ALGORITHMS)}. Received: "
            f"algorithm={name!r}"
        )
    return ALGORITHMS[name]


def pruning_schedule(
    name: str, sparsity: float, steps: int, phases: Phases
) -> sa.PruningSchedule | None:
    """Returns when an algorithm prunes, or None for a dense model.

    Args:
      name: one of `ALGORITHMS`.
      sparsity: share of the blocks to remove, in [0, 1).
      steps: number of training steps.
      phases: how they are shared out. Gradual pruning removes blocks in the first three
        quarters of the steps, or until the mask is fixed if that comes before.

    Raises:
      ValueError: for another name.

    Example:

    >>> phases = Phases(cycles=10, dense_fraction=0.2, finetune_fraction=0.2)
    >>> pruning_schedule("magnitude", 0.9, 1000, phases).prune_step
    800
    >>> pruning_schedule("gradual", 0.9, 1000, phases).end_step
    750
    """
    make = find_algorithm(name).schedule
    return None if make is None else make(sparsity, steps, phases)
