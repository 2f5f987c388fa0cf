"""When to prune: schedules that divide training into phases."""

import abc
import bisect
import functools
import logging
import math
import types
from typing import Any, TypeAlias

import numpy as np
import tensorflow as tf

from tf_seqattn.keras_api import register
from tf_seqattn.sparsity.phases import Phase, PruningSchedule, Segment

# How far a rise is, or how high: a NumPy scalar, or a float64 tensor for tfmot.
Progress: TypeAlias = np.float64 | tf.Tensor


def _check_sparsity(target_sparsity: float) -> float:
    if not 0.0 <= target_sparsity < 1.0:
        raise ValueError(
            "`target_sparsity` must be in [0, 1): the share of blocks to remove, "
            f"such as 0.9. Received: target_sparsity={target_sparsity!r}"
        )
    return float(target_sparsity)


def _check_integer(name: str, value: float, minimum: int) -> int:
    if isinstance(value, bool) or value != int(value) or value < minimum:
        raise ValueError(
            f"`{name}` must be an integer of at least {minimum}. "
            f"Received: {name}={value!r}"
        )
    return int(value)


def _check_order(begin_step: int, end_step: int) -> None:
    if end_step <= begin_step:
        raise ValueError(
            "`end_step` must be after `begin_step`. Received: "
            f"begin_step={begin_step!r}, end_step={end_step!r}"
        )


def _check_exponent(exponent: float) -> None:
    if exponent < 0:
        raise ValueError(
            "`exponent` must not be negative: the sparsity must rise. "
            f"Received: exponent={exponent!r}"
        )


def updates_apart(steps: int) -> int:
    """Steps between updates that divide a rise of `steps` steps into about 200.

    More updates rank the same blocks again and again. Fewer remove many at a time.
    """
    return max(1, steps // 200)


def _check_rise(rise: float, given: dict[str, Any]) -> None:
    if not 0.0 < rise <= 1.0:
        raise ValueError(f"`rise` must be in (0, 1]. Received: rise={rise!r}")
    if given:
        raise ValueError(
            "`rise` is for a single rise, and the paper's kind of schedule has cycles: "
            "leave one of them out, or give `finetune_fraction=`. Received: "
            f"rise={rise!r}, {', '.join(given)}"
        )


def _check_rate_power(rate_power: float, given: dict[str, Any]) -> None:
    if not 0.0 <= rate_power <= 1.0:
        raise ValueError(
            "`rate_power` must be in [0, 1]; 0 leaves the learning rate as it is. "
            f"Received: rate_power={rate_power!r}"
        )
    if given and rate_power:
        raise ValueError(
            "`rate_power` is for a single rise: leave it out in the paper's kind of "
            "schedule, where blocks come back at once. Received: "
            f"rate_power={rate_power!r}, {', '.join(given)}"
        )


def _check_fractions(dense_fraction: float, finetune_fraction: float) -> None:
    for name, value in (
        ("dense_fraction", dense_fraction),
        ("finetune_fraction", finetune_fraction),
    ):
        if not 0.0 <= value < 1.0:
            raise ValueError(f"`{name}` must be in [0, 1). Received: {name}={value!r}")
    if dense_fraction + finetune_fraction >= 1.0:
        raise ValueError(
            "`dense_fraction` and `finetune_fraction` must leave room for the cycles: "
            f"their sum must be below 1. Received: dense_fraction={dense_fraction!r}, "
            f"finetune_fraction={finetune_fraction!r}"
        )


class _PhasedSchedule(PruningSchedule):
    """A schedule given by its list of segments.

    A dense segment revives every block at its first step, a sparse one prunes to
    the target at its first step, and in a sparsification segment the sparsity rises
    every `frequency` steps. Steps before the first segment and after the last change
    nothing.
    """

    target_sparsity: float
    frequency: int = 1

    def _rise(self, progress: Progress, xp: types.ModuleType) -> Progress:
        """Share of the target that is reached at a `progress` in [0, 1].

        Args:
          progress: NumPy scalar, or float64 tensor, of the progress of a segment.
          xp: `numpy` or `tensorflow`, the library of `progress`.
        """
        return exponential_rise(progress, 4.0, xp)

    @functools.cached_property
    def segments(self) -> list[Segment]:
        """The schedule as consecutive `Segment`s; derived from the arguments."""
        planned = [
            Segment(int(start), end, phase)
            for start, end, phase in self._plan()
            if end > start
        ]
        missing = len(self._plan()) - len(planned)
        if missing:
            logging.getLogger("tf_seqattn").warning(
                "%r has too few steps for its phases: %d of %d have no step of their "
                "own and are left out. Raise `end_step` or lower `cycles`.",
                self,
                missing,
                len(self._plan()),
            )
        return planned

    @abc.abstractmethod
    def _plan(self) -> list[tuple[int, float, Phase]]:
        """(start, end, phase) of every segment, empty ones included."""

    @functools.cached_property
    def _starts(self) -> list[int]:
        return [segment.start for segment in self.segments]

    def _segment(self, step: int) -> Segment:
        index = bisect.bisect_right(self._starts, step) - 1
        if index < 0:
            return Segment(0, self._starts[0], Phase.DENSE)
        return self.segments[index]

    def phase(self, step: int) -> Phase:
        """Returns the `Phase` of training step `step` (an integer)."""
        return self._segment(int(step)).phase

    def next_phase_change(self, step: int) -> float:
        """Returns the first step after `step` of another phase, or infinity."""
        for segment in self.segments[bisect.bisect_right(self._starts, step) :]:
            if segment.phase != self.phase(step):
                return segment.start
        return math.inf

    def sparsity(self, step: int) -> float:
        """Returns the share of blocks removed at `step`, between updates too."""
        segment = self._segment(int(step))
        if segment.phase == Phase.SPARSIFICATION:
            progress = (int(step) - segment.start) / (segment.end - segment.start)
            return float(self.target_sparsity * self._rise(np.float64(progress), np))
        return self.target_sparsity if segment.phase == Phase.SPARSE else 0.0

    def update_at(self, step: int) -> float | None:
        """Returns the sparsity to apply at `step`, or None if the mask stays."""
        step = int(step)
        if step < self._starts[0]:
            return None
        segment = self._segment(step)
        elapsed = step - segment.start
        # tfmot's wrapper first asks at step 1, so what begins at 0 is due then too.
        due = elapsed == 0 or step == 1 and segment.start == 0
        if segment.phase == Phase.SPARSIFICATION:
            due &= self.sparsity(segment.start) > 0
            due |= elapsed % self.frequency == 0
        return self.sparsity(step) if due else None

    def __call__(self, step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns tfmot's pair for an integer tensor `step`.

        Args:
          step: integer tensor, any shape.

        Returns:
          `(should_prune, sparsity)`: bool and float32 tensors of the same shape.
        """
        step = tf.cast(step, tf.int64)
        starts = tf.constant(self._starts, tf.int64)
        flat = tf.reshape(step, [-1])
        index = tf.searchsorted(starts, flat, side="right", out_type=tf.int32) - 1
        index = tf.reshape(index, tf.shape(step))
        begun = index >= 0
        index = tf.maximum(index, 0)
        phase = tf.gather([int(s.phase) for s in self.segments], index)
        start = tf.gather(starts, index)
        ends = [min(s.end, s.start + 2**40) for s in self.segments]
        length = tf.gather(tf.constant(ends, tf.float64), index) - tf.cast(
            start, tf.float64
        )
        elapsed = step - start

        rising = phase == Phase.SPARSIFICATION
        progress = tf.cast(elapsed, tf.float64) / length
        rise = self._rise(progress, tf)
        level = tf.where(rising, rise, tf.cast(phase == Phase.SPARSE, tf.float64))
        level = tf.where(begun, level, tf.zeros_like(level))

        first = (elapsed == 0) | ((step == 1) & (start == 0))
        begins_sparse = [self.sparsity(start) > 0 for start in self._starts]
        first &= ~rising | tf.gather(begins_sparse, index)
        due = first | (rising & (elapsed % self.frequency == 0))
        return begun & due, tf.cast(self.target_sparsity * level, tf.float32)

    def get_config(self) -> dict[str, Any]:
        """Returns tfmot's form: `{"class_name": ..., "config": {...}}`."""
        return {
            "class_name": f"tf_seqattn>{type(self).__name__}",
            "config": self._arguments(),
        }

    @abc.abstractmethod
    def _arguments(self) -> dict[str, Any]:
        """The constructor's arguments."""


def exponential_rise(
    progress: Progress, exponent: float, xp: types.ModuleType
) -> Progress:
    """`(1 - exp(-c t)) / (1 - exp(-c))`, the rise of section 3.1; `t` where c is 0.

    Args:
      progress: `t`, a NumPy scalar or float64 tensor in [0, 1].
      exponent: `c`, how early most of the rise is.
      xp: `numpy` or `tensorflow`, the library of `progress`.

    Example:

    >>> float(exponential_rise(np.float64(0.5), 0.0, np))
    0.5
    """
    if exponent == 0:
        return progress
    return (1.0 - xp.exp(-exponent * progress)) / (1.0 - math.exp(-exponent))


def power_rise(progress: Progress, power: float) -> Progress:
    """`1 - (1 - t)^power`, the rise of gradual pruning (Zhu and Gupta, 1710.01878).

    Args:
      progress: `t`, a NumPy scalar or float64 tensor in [0, 1].
      power: 1 is linear, 3 the cubic of the paper.

    Example:

    >>> float(power_rise(np.float64(0.5), 3.0))
    0.875
    """
    return 1.0 - (1.0 - progress) ** power


class _CyclicSchedule(_PhasedSchedule):
    """Dense start, cycles, sparse end: shared by two recipes of section 4.2.

    The cycles and, by default, one further half cycle (the extension of the last
    cycle) fill the steps between the dense start and the sparse end. With the ImageNet
    values, 7 cycles between 10 % and 85 %, a cycle is 10 % of training and the
    extension 5 %.
    """

    def __init__(
        self,
        target_sparsity: float,
        end_step: int,
        begin_step: int = 0,
        cycles: int = 7,
        dense_fraction: float = 0.10,
        finetune_fraction: float = 0.15,
        frequency: int = 1,
        extend_last_cycle: bool = True,
    ) -> None:
        self.target_sparsity = _check_sparsity(target_sparsity)
        self.begin_step = _check_integer("begin_step", begin_step, 0)
        self.end_step = _check_integer("end_step", end_step, 1)
        self.cycles = _check_integer("cycles", cycles, 1)
        self.extend_last_cycle = bool(extend_last_cycle)
        self.frequency = _check_integer("frequency", frequency, 1)
        _check_order(self.begin_step, self.end_step)
        _check_fractions(dense_fraction, finetune_fraction)
        self.dense_fraction = float(dense_fraction)
        self.finetune_fraction = float(finetune_fraction)

    def _plan(self) -> list[tuple[int, float, Phase]]:
        steps = self.end_step - self.begin_step
        first = self.begin_step + self.dense_fraction * steps
        last = self.end_step - self.finetune_fraction * steps
        extension = 0.5 if self.extend_last_cycle else 0.0
        cycle = (last - first) / (self.cycles + extension)
        bounds = [first + index * cycle for index in range(self.cycles)] + [last]
        edges = [(float(self.begin_step), Phase.DENSE)] if self.dense_fraction else []
        for index in range(self.cycles):
            is_last = index == self.cycles - 1
            edges += self._cycle(bounds[index], bounds[index + 1], is_last)
        edges.append((last, Phase.SPARSE))
        starts = [round(start) for start, _ in edges]
        phases = [phase for _, phase in edges]
        return list(zip(starts, [*starts[1:], math.inf], phases, strict=True))

    @abc.abstractmethod
    def _cycle(
        self, start: float, end: float, is_last: bool
    ) -> list[tuple[float, Phase]]:
        """(start, phase) of each phase of the cycle from `start` to `end`."""

    def _arguments(self) -> dict[str, Any]:
        return {
            "target_sparsity": self.target_sparsity,
            "end_step": self.end_step,
            "begin_step": self.begin_step,
            "cycles": self.cycles,
            "dense_fraction": self.dense_fraction,
            "finetune_fraction": self.finetune_fraction,
            "frequency": self.frequency,
            "extend_last_cycle": self.extend_last_cycle,
        }


@register
class SequentialAttentionSchedule(_CyclicSchedule):
    """The schedule of sequential attention: by default the recipe that we recommend.

    Given a target and an end alone, the sparsity rises once, as
    `s (1 - (1 - t)^3)`, over the first three quarters of the steps, or the share
    `rise`; then the mask stays. As the sparsity rises, the learning rate of the kept
    blocks grows (`rate_power`), since a sparse kernel wants larger steps than a dense
    one. The optimizer is never reset. While the sparsity rises all blocks
    compete at every update: a block that has gone keeps its values, its logit goes on
    learning by the gradient that it would have if the mask were 1 (straight through the
    mask), and it may come back. `docs/questions/phases.md` says why.

    With `initial_sparsity` the sparsity rises from there; the first choice, of a new
    network at random, so to speak, is revised likewise. Sparse from the first step,
    `initial_sparsity=target_sparsity`, all of the training goes into few blocks, which
    suits sequence models with few steps: `docs/questions/which_algorithm.md`.

    `SequentialAttentionSchedule.imagenet` and `.criteo` are the recipes of the paper
    (section 4.2). Giving any of `cycles`, `dense_fraction`, `finetune_fraction` and
    `exponent` also selects the paper's kind of schedule; those not given have the
    values of its ImageNet recipe. It begins with a dense phase. Then come `cycles`
    cycles of sparsification, sparse and dense phases of equal length; the last cycle is
    a single sparsification phase. A sparse phase lasts to the end. Within a
    sparsification phase the sparsity rises as `s (1 - exp(-c t)) / (1 - exp(-c))`
    (section 3.1). The optimizer is reset where a phase begins (appendix C.1).

    Args:
      target_sparsity: share of the blocks to remove, in [0, 1).
      end_step: training step at which the schedule ends: all steps of the training,
        such as `epochs * len(data)`.
      begin_step: step at which it begins; before it the layer is dense.
      cycles: number of cycles.
      dense_fraction: share of the steps in the first dense phase.
      finetune_fraction: share of the steps in the last sparse phase.
      exponent: `c`, how early in a sparsification phase the blocks go; 0 is linear.
      frequency: steps between two mask updates while sparsifying. The default is 1 in
        the paper's kind of schedule; otherwise it divides the rise into 200 updates.
      extend_last_cycle: whether the last cycle is longer by half a cycle, as on
        ImageNet.
      initial_sparsity: share of the blocks that are masked at first, up to
        `target_sparsity`. Not for the paper's kind, which begins dense.
      revise: whether blocks that have gone may come back while the sparsity rises, in
        trainings that rank by an attention with a rate of its own, as the default
        does. In the paper's kind they do in its dense phases alone.
      rise: share of the steps in which the sparsity rises, in (0, 1], by default
        three quarters. Not for the paper's kind, which has phases.
      rate_power: the learning rate of a kernel's kept blocks grows as `density **
        -rate_power`, in [0, 1], by default a half: at 90 % it is 3.2 times the rate of
        the optimizer. 0 leaves it. With `initial_sparsity` the density is relative to
        the initial one. For blocks ranked by `SoftmaxAttention`, `Magnitude` or an
        importance that multiplies nothing; channels, single entries and kernels stored
        in 16 bits keep the optimizer's rate. Not for the paper's kind.

    Attributes:
      follows_paper: whether this is the paper's kind of schedule.

    Raises:
      ValueError: naming the argument, for a value outside its range.

    Example:

    >>> schedule = SequentialAttentionSchedule(0.9, end_step=1000)
    >>> [round(schedule.sparsity(step), 3) for step in (0, 250, 500, 1000)]
    [0.0, 0.633, 0.867, 0.9]
    >>> schedule = SequentialAttentionSchedule.imagenet(0.9, end_step=1000)
    >>> schedule.phase(50).name, schedule.phase(110).name, schedule.phase(990).name
    ('DENSE', 'SPARSIFICATION', 'SPARSE')
    """

    def __init__(
        self,
        target_sparsity: float,
        end_step: int,
        begin_step: int = 0,
        cycles: int | None = None,
        dense_fraction: float | None = None,
        finetune_fraction: float | None = None,
        exponent: float | None = None,
        frequency: int | None = None,
        extend_last_cycle: bool = True,
        initial_sparsity: float = 0.0,
        revise: bool = True,
        rise: float | None = None,
        rate_power: float | None = None,
    ) -> None:
        shape = {
            "cycles": cycles,
            "dense_fraction": dense_fraction,
            "finetune_fraction": finetune_fraction,
            "exponent": exponent,
        }
        given = {name: value for name, value in shape.items() if value is not None}
        self.follows_paper = bool(given)
        full: dict[str, Any] = {**(_IMAGENET if given else _RECOMMENDED), **given}
        if rise is not None:
            _check_rise(rise, given)
            full["finetune_fraction"] = 1.0 - rise
        self.exponent = full.pop("exponent")
        if self.exponent is not None:
            _check_exponent(self.exponent)
        if frequency is None:
            rising = (1 - full["finetune_fraction"]) * (end_step - begin_step)
            frequency = 1 if given else updates_apart(round(rising))
        super().__init__(
            target_sparsity,
            end_step,
            begin_step,
            frequency=frequency,
            extend_last_cycle=extend_last_cycle,
            **full,
        )
        if not 0.0 <= initial_sparsity <= self.target_sparsity:
            raise ValueError(
                "`initial_sparsity` must be from 0 to `target_sparsity`. Received: "
                f"initial_sparsity={initial_sparsity!r}, "
                f"target_sparsity={target_sparsity!r}"
            )
        if initial_sparsity and given:
            raise ValueError(
                "`initial_sparsity` is for a single rise, and the paper's kind of "
                "schedule begins dense: leave one of them out. Received: "
                f"initial_sparsity={initial_sparsity!r}, {', '.join(given)}"
            )
        if initial_sparsity and not revise:
            raise ValueError(
                "`initial_sparsity` needs `revise`: without it the first choice would "
                "stay. Received: "
                f"initial_sparsity={initial_sparsity!r}, revise={revise!r}"
            )
        self.initial_sparsity = float(initial_sparsity)
        self.revise = bool(revise)
        self.rise = rise
        if rate_power is None:
            rate_power = 0.0 if given else _RATE_POWER
        _check_rate_power(rate_power, given)
        self.rate_power = float(rate_power)

    @classmethod
    def imagenet(
        cls, target_sparsity: float, end_step: int, begin_step: int = 0
    ) -> "SequentialAttentionSchedule":
        """Returns the paper's recipe for ImageNet: 7 cycles, 10 % dense, 15 % sparse.

        The last cycle is longer by half a cycle.
        """
        return cls(target_sparsity, end_step, begin_step, **_IMAGENET)

    @classmethod
    def criteo(
        cls, target_sparsity: float, end_step: int, begin_step: int = 0
    ) -> "SequentialAttentionSchedule":
        """Returns the paper's recipe for Criteo: 10 cycles, 20 % dense, 20 % sparse.

        All cycles are equally long.
        """
        return cls(
            target_sparsity, end_step, begin_step, **_CRITEO, extend_last_cycle=False
        )

    @property
    def resets_optimizer(self) -> bool:
        """Whether the optimizer is reset where a phase begins: in the paper's kind."""
        return self.follows_paper

    @property
    def revised_until(self) -> int:
        """The step before which masked blocks compete: that of the last phase, or 0."""
        if self.follows_paper or not self.revise:
            return 0
        return self.segments[-1].start

    def _cycle(
        self, start: float, end: float, is_last: bool
    ) -> list[tuple[float, Phase]]:
        if is_last:
            return [(start, Phase.SPARSIFICATION)]
        third = (end - start) / 3
        return [
            (start, Phase.SPARSIFICATION),
            (start + third, Phase.SPARSE),
            (start + 2 * third, Phase.DENSE),
        ]

    def _rise(self, progress: Progress, xp: types.ModuleType) -> Progress:
        if self.exponent is not None:
            return exponential_rise(progress, self.exponent, xp)
        if not self.initial_sparsity:
            return power_rise(progress, 3.0)
        share = self.initial_sparsity / self.target_sparsity
        return share + (1.0 - share) * power_rise(progress, 3.0)

    def _arguments(self) -> dict[str, Any]:
        arguments = {
            **super()._arguments(),
            "exponent": self.exponent,
            "initial_sparsity": self.initial_sparsity,
            "revise": self.revise,
        }
        if not self.follows_paper:
            arguments |= dict.fromkeys(_RECOMMENDED)
            arguments["rise"] = self.rise
            arguments["rate_power"] = self.rate_power
        return arguments

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "SequentialAttentionSchedule":
        """Restores a schedule from the arguments in its config."""
        # In files written before there was a choice the rate did not grow.
        return cls(**{"rate_power": 0.0, **config})


# By default, in a single rise.
_RATE_POWER = 0.5
# Shapes of `SequentialAttentionSchedule`. The one we recommend has one cycle, a single
# rise; the other two come from section 4.2.
_RECOMMENDED: dict[str, Any] = {
    "cycles": 1,
    "dense_fraction": 0.0,
    "finetune_fraction": 0.25,
    "exponent": None,
}
_IMAGENET: dict[str, Any] = {
    "cycles": 7,
    "dense_fraction": 0.10,
    "finetune_fraction": 0.15,
    "exponent": 4.0,
}
_CRITEO: dict[str, Any] = {
    "cycles": 10,
    "dense_fraction": 0.20,
    "finetune_fraction": 0.20,
    "exponent": 4.0,
}


@register
class ACDCSchedule(_CyclicSchedule):
    """The schedule of ACDC (Peste et al. 2021) in the paper's set-up (section 4.2).

    First a dense phase; then `cycles` cycles of a sparse and a dense phase of equal
    length, the last dense phase longer by half a cycle; then a sparse phase to the
    end. With `Magnitude` this is ACDC.

    Args:
      target_sparsity: share of the blocks to remove, in [0, 1).
      end_step: training step at which the schedule ends.
      begin_step: step at which it begins; before it the layer is dense.
      cycles: number of cycles.
      dense_fraction: share of the steps in the first dense phase.
      finetune_fraction: share of the steps in the last sparse phase.
      frequency: accepted for symmetry; phases change only at their first step.

    Raises:
      ValueError: naming the argument, for a value outside its range.

    Example:

    >>> schedule = ACDCSchedule(0.9, end_step=1000)
    >>> [schedule.phase(step).name for step in (50, 120, 180, 900)]
    ['DENSE', 'SPARSE', 'DENSE', 'SPARSE']
    """

    def _cycle(
        self, start: float, end: float, is_last: bool
    ) -> list[tuple[float, Phase]]:
        # The last cycle is half a cycle longer, and only its dense phase is.
        sparse = (end - start) / (3 if is_last else 2)
        return [(start, Phase.SPARSE), (start + sparse, Phase.DENSE)]


@register
class GradualSchedule(_PhasedSchedule):
    """The sparsity rises once, from 0 to the target; the mask stays afterwards.

    With `Magnitude` this is gradual magnitude pruning (Zhu and Gupta, arXiv
    1710.01878), the most common recipe. tfmot's `PolynomialDecay` with an initial
    sparsity of 0 follows the same curve. Blocks never come back.

    Args:
      target_sparsity: share of the blocks to remove, in [0, 1).
      end_step: training step at which the target is reached. Leave steps after it:
        about a quarter of the training.
      begin_step: step at which the rise begins; the layer is dense before it.
      power: of the rise `1 - (1 - t)^power`; 1 is linear.
      exponent: `c` of the rise `(1 - exp(-c t)) / (1 - exp(-c))` in place of a power
        (section 3.1 of SequentialAttention++), or None.
      frequency: steps between two updates of the mask. By default there are about 200
        updates.

    Raises:
      ValueError: naming the argument, for a value outside its range.

    Example:

    >>> schedule = GradualSchedule(0.8, end_step=1000)
    >>> [round(schedule.sparsity(step), 3) for step in (0, 500, 1000)]
    [0.0, 0.7, 0.8]
    """

    def __init__(
        self,
        target_sparsity: float,
        end_step: int,
        begin_step: int = 0,
        power: float = 3.0,
        exponent: float | None = None,
        frequency: int | None = None,
    ) -> None:
        self.target_sparsity = _check_sparsity(target_sparsity)
        self.begin_step = _check_integer("begin_step", begin_step, 0)
        self.end_step = _check_integer("end_step", end_step, 1)
        _check_order(self.begin_step, self.end_step)
        if power <= 0:
            raise ValueError(
                "`power` must be positive: the sparsity must rise. Received: "
                f"power={power!r}"
            )
        if exponent is not None:
            _check_exponent(exponent)
        self.power = float(power)
        self.exponent = None if exponent is None else float(exponent)
        if frequency is None:
            frequency = updates_apart(self.end_step - self.begin_step)
        self.frequency = _check_integer("frequency", frequency, 1)

    @property
    def resets_optimizer(self) -> bool:
        """False: nothing changes abruptly where a phase begins."""
        return False

    def _rise(self, progress: Progress, xp: types.ModuleType) -> Progress:
        if self.exponent is not None:
            return exponential_rise(progress, self.exponent, xp)
        return power_rise(progress, self.power)

    def _plan(self) -> list[tuple[int, float, Phase]]:
        planned = [
            (self.begin_step, self.end_step, Phase.SPARSIFICATION),
            (self.end_step, math.inf, Phase.SPARSE),
        ]
        if self.begin_step:
            planned.insert(0, (0, self.begin_step, Phase.DENSE))
        return planned

    def _arguments(self) -> dict[str, Any]:
        return {
            "target_sparsity": self.target_sparsity,
            "end_step": self.end_step,
            "begin_step": self.begin_step,
            "power": self.power,
            "exponent": self.exponent,
            "frequency": self.frequency,
        }


@register
class OneShotSchedule(_PhasedSchedule):
    """Dense until `prune_step`, then sparse: one decision, then fine-tuning.

    With `Magnitude` this is magnitude pruning, with `PowerPropagation` that
    baseline (section 4.1). At `prune_step=0` a trained model is pruned by
    `sa.prune` itself, with no training.

    Args:
      target_sparsity: share of the blocks to remove, in [0, 1).
      prune_step: training step at which the mask is chosen.

    Raises:
      ValueError: naming the argument, for a value outside its range.

    Example:

    >>> schedule = OneShotSchedule(0.9, prune_step=100)
    >>> schedule.phase(99).name, schedule.phase(100).name
    ('DENSE', 'SPARSE')
    """

    def __init__(self, target_sparsity: float, prune_step: int) -> None:
        self.target_sparsity = _check_sparsity(target_sparsity)
        self.prune_step = _check_integer("prune_step", prune_step, 0)

    def _plan(self) -> list[tuple[int, float, Phase]]:
        sparse = (self.prune_step, math.inf, Phase.SPARSE)
        if self.prune_step == 0:
            return [sparse]
        return [(0, self.prune_step, Phase.DENSE), sparse]

    def _arguments(self) -> dict[str, Any]:
        return {
            "target_sparsity": self.target_sparsity,
            "prune_step": self.prune_step,
        }
