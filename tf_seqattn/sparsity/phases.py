"""The phases of a training, and what one asks of a schedule.

A schedule here is a tfmot `PruningSchedule` that also knows its phases. A call keeps
tfmot's meaning, `(should_prune, sparsity)`, so it runs inside tfmot's
`prune_low_magnitude` as it is. Steps are counted from 1 while training, as tfmot does;
step 0 is the moment before training. The questions are answered for schedules of tfmot
as well, which have no phases.
"""

import abc
import enum
import itertools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import tensorflow as tf

from tf_seqattn import tfmot_api
from tf_seqattn.tfmot_api import Schedule


class Phase(enum.IntEnum):
    """What a training step does: the three phases of section 3."""

    DENSE = 0
    SPARSIFICATION = 1
    SPARSE = 2


class Segment(NamedTuple):
    """Steps `start <= step < end` of one phase; `end` may be infinite."""

    start: int
    end: float
    phase: Phase


class PruningSchedule(tfmot_api.schedule_module().PruningSchedule):  # type: ignore[misc]
    """A tfmot `PruningSchedule` that also knows its phases.

    Subclasses define `phase(step)`, tfmot's `__call__(step)` and `get_config()`.
    Calling a schedule returns `(should_prune, sparsity)`, which is all a wrapper
    needs: sparsity 0 revives every block, a rising sparsity drops the least
    important of the blocks still active, and no update keeps the mask.

    Attributes:
      rate_power: power of the density by which the learning rate of kept blocks grows.
        They learn `density ** -rate_power` times as fast; 0 leaves the rate as it is.
    """

    rate_power: float = 0.0

    @abc.abstractmethod
    def phase(self, step: int) -> Phase:
        """Returns the `Phase` of training step `step`."""

    @property
    def resets_optimizer(self) -> bool:
        """Whether `sa.UpdatePruningStep()` resets the optimizer where a phase begins.

        The paper calls that crucial for schedules with cycles (appendix C.1).
        """
        return True

    @property
    def revised_until(self) -> int:
        """The step before which masked blocks compete with the others.

        0 if a block that has gone stays away, or comes back in dense phases alone.
        """
        return 0

    def update_at(self, step: int) -> float | None:
        """Returns the sparsity to apply at `step`, or None if the mask stays."""
        return _called(self, step)

    def next_phase_change(self, step: int) -> float:
        """Returns the first step after `step` of another phase, or infinity.

        The default is infinity. A schedule with fixed phases overrides it, so that an
        execution of several steps can end where a phase does.
        """
        del step
        return math.inf

    def __eq__(self, other: Any) -> bool:
        return type(self) is type(other) and self.get_config() == other.get_config()

    def __hash__(self) -> int:
        return hash(repr(self.get_config()))

    def __repr__(self) -> str:
        arguments = self.get_config()["config"].items()
        listed = ", ".join(f"{name}={value!r}" for name, value in arguments)
        return f"{type(self).__name__}({listed})"

    def plot(self, axes: Any = None, steps: int | None = None) -> Any:
        """Draws sparsity against step with the phases shaded (the paper's figure 2).

        Args:
          axes: matplotlib axes to draw on; new ones by default.
          steps: last step to draw; by default a little past the last change.

        Returns:
          The matplotlib axes.

        Example:

        >>> from tf_seqattn.sparsity.schedules import SequentialAttentionSchedule
        >>> schedule = SequentialAttentionSchedule(0.9, end_step=1000)
        >>> schedule.plot().get_xlabel()
        'training step'
        """
        from tf_seqattn.sparsity import schedule_plot

        return schedule_plot.plot_schedule(self, axes=axes, steps=steps)


def update_at(schedule: Schedule, step: int) -> float | None:
    """Returns the sparsity to apply at `step`, or None if the mask stays.

    Args:
      schedule: any `PruningSchedule`, of tf_seqattn or tfmot.
      step: training step; 0 is the moment before training.

    Example:

    >>> from tf_seqattn.sparsity.schedules import OneShotSchedule
    >>> update_at(OneShotSchedule(0.5, prune_step=3), 3)
    0.5
    """
    if isinstance(schedule, PruningSchedule):
        return schedule.update_at(step)
    return tfmot_api.UPDATE_BEFORE_TRAINING if step == 0 else _called(schedule, step)


def _called(schedule: Schedule, step: int) -> float | None:
    """What a call of a schedule says of `step`, as `update_at` does."""
    should_prune, sparsity = schedule(tf.constant(step, tf.int64))
    return float(sparsity) if bool(should_prune) else None


def final_sparsity(schedule: Schedule) -> float | None:
    """Returns the sparsity that a schedule ends with, or None if it does not say."""
    for name in tfmot_api.TARGETS:
        value = getattr(schedule, name, None)
        if value is not None:
            return float(value)
    return None


def end_step(schedule: Schedule) -> int | None:
    """Returns the step at which a schedule ends, or None if it does not say."""
    for name in ("end_step", "prune_step"):
        value = getattr(schedule, name, None)
        if value is not None and value >= 0:
            return int(value)
    return None


def phase_at(schedule: Schedule, step: int) -> Phase | None:
    """Returns the phase of a schedule at `step`; None for tfmot's, which have none."""
    return schedule.phase(step) if isinstance(schedule, PruningSchedule) else None


def next_phase_change(schedule: Schedule, step: int) -> float:
    """Returns the first step after `step` of another phase, or infinity.

    Args:
      schedule: any `PruningSchedule`, of tf_seqattn or tfmot.
      step: training step.

    Example:

    >>> from tf_seqattn.sparsity.schedules import OneShotSchedule
    >>> next_phase_change(OneShotSchedule(0.5, prune_step=3), 1)
    3
    """
    if isinstance(schedule, PruningSchedule):
        return schedule.next_phase_change(step)
    return math.inf


def phase_changes(schedule: Schedule, step: int = 1) -> Iterator[int]:
    """Yields the steps after `step` at which phases begin; a schedule may be endless.

    Args:
      schedule: any `PruningSchedule`, of tf_seqattn or tfmot.
      step: training step.

    Example:

    >>> from tf_seqattn.sparsity.schedules import ACDCSchedule
    >>> list(phase_changes(ACDCSchedule(0.5, end_step=100, cycles=1)))
    [10, 35, 85]
    """
    change = next_phase_change(schedule, step)
    while change < math.inf:
        yield int(change)
        change = next_phase_change(schedule, int(change))


def revised_until(schedule: Schedule) -> int:
    """The step before which masked blocks compete with the others, or 0.

    In schedules of tfmot they do not.
    """
    return schedule.revised_until if isinstance(schedule, PruningSchedule) else 0


def rate_power(schedule: Schedule) -> float:
    """Power of the density in the learning rate of kept blocks, 0 for tfmot's."""
    return schedule.rate_power if isinstance(schedule, PruningSchedule) else 0.0


def resets_optimizer(schedule: Schedule) -> bool:
    """Whether a schedule, of tf_seqattn or tfmot, resets the optimizer in each phase.

    Schedules of tfmot have no phases.
    """
    return isinstance(schedule, PruningSchedule) and schedule.resets_optimizer


def steps_before_phase(schedule: Schedule, step: int) -> int:
    """Returns the number of training steps before the phase that `step` belongs to.

    Example:

    >>> from tf_seqattn.sparsity.schedules import OneShotSchedule
    >>> steps_before_phase(OneShotSchedule(0.5, prune_step=3), 10)
    2
    """
    begin = 1
    for change in itertools.takewhile(lambda c: c <= step, phase_changes(schedule)):
        begin = change
    return begin - 1
