"""Resetting an optimizer at a phase change, without restarting its schedule.

The paper calls the reset crucial (appendix C.1). It makes the optimizer like new. Every
slot has its initial value, which is not always zero (Adagrad's and Ftrl's accumulators,
Nadam's product). `iterations` is 0: otherwise Adam's bias correction would be spent and
its first steps would be several times too long. The learning-rate schedule does not
restart: it is read at `iterations + offset`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tf_seqattn.keras_api import (
    Optimizer,
    Variable,
    is_keras3,
    is_variable,
    keras2,
    keras3,
    keras_of,
    register_pair,
    stored,
)

_Schedule2 = keras2.optimizers.schedules.LearningRateSchedule
_Schedule3 = keras3.optimizers.schedules.LearningRateSchedule
_SCHEDULES = (_Schedule2, _Schedule3)
# State variables of an optimizer, each with its initial value.
Slots = list[tuple[Variable, Any]]


class OffsetSchedule:
    """A learning-rate schedule that continues when `iterations` is set to 0.

    Args:
      schedule: the schedule that is read, of Keras 2 or Keras 3. This one is a
        schedule of the same Keras.
      offset: number of steps taken before the last reset.

    Example:

    >>> base = keras.optimizers.schedules.PolynomialDecay(1.0, 10, 0.0)
    >>> float(OffsetSchedule(base, offset=5)(0))
    0.5
    """

    def __new__(cls, schedule: Any, offset: int = 0) -> "OffsetSchedule":
        if cls is OffsetSchedule:
            cls = KINDS[keras_of(schedule)]
        return super().__new__(cls)

    def __init__(self, schedule: Any, offset: int = 0) -> None:
        self.schedule = schedule
        self.offset = tf.Variable(
            offset,
            dtype=tf.int64,
            trainable=False,
            name="iterations_before_reset",
            aggregation=tf.VariableAggregation.ONLY_FIRST_REPLICA,
        )

    def __call__(self, step: Any) -> tf.Tensor:
        step = tf.convert_to_tensor(step)
        return self.schedule(step + tf.cast(self.offset, step.dtype))

    def get_config(self) -> dict[str, Any]:
        return {
            "schedule": keras_of(self).optimizers.schedules.serialize(self.schedule),
            "offset": int(self.offset),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "OffsetSchedule":
        library = keras3 if issubclass(cls, _Schedule3) else keras2
        schedule = library.optimizers.schedules.deserialize(config["schedule"])
        return cls(schedule, config["offset"])


class _OffsetSchedule2(OffsetSchedule, _Schedule2):  # type: ignore[misc, valid-type]
    """The same for Keras 2."""


class _OffsetSchedule3(OffsetSchedule, _Schedule3):  # type: ignore[misc, valid-type]
    """The same for Keras 3."""


KINDS = register_pair({keras2: _OffsetSchedule2, keras3: _OffsetSchedule3})
# Keras 2 looks for the schedules of an HDF5 file by the plain name of their class.
keras2.saving.get_custom_objects()[OffsetSchedule.__name__] = KINDS[keras2]


def _inner(optimizer: Optimizer) -> Optimizer:
    """The optimizer that takes the steps. Loss scaling wraps it, with its own state."""
    return getattr(optimizer, "inner_optimizer", optimizer)


def _is_legacy(optimizer: Optimizer) -> bool:
    return isinstance(optimizer, keras2.optimizers.legacy.Optimizer)


def _learning_rate(optimizer: Optimizer) -> Any:
    if _is_legacy(optimizer):
        return optimizer._hyper.get("learning_rate")
    return optimizer.__dict__.get("_learning_rate")


def _iterations(optimizer: Optimizer) -> Variable:
    """The variable that counts its steps: with accumulation, one for each batch."""
    return optimizer._iterations if is_keras3(optimizer) else optimizer.iterations


def _set_learning_rate(optimizer: Optimizer, value: Any) -> None:
    if _is_legacy(optimizer):
        optimizer._hyper["learning_rate"] = value
    else:
        optimizer.__dict__["_learning_rate"] = value


def prepare(optimizer: Optimizer) -> bool:
    """Prepares an optimizer for resets. Call it before its step is traced.

    Args:
      optimizer: any optimizer, also `LossScaleOptimizer` or a legacy one of Keras 2.

    Returns:
      Whether its learning rate follows a schedule that was not prepared before.

    Raises:
      ValueError: for a legacy optimizer with time-based `decay`, which cannot be
        offset.
    """
    optimizer = _inner(optimizer)
    # The decay of a legacy Nadam is that of its momentum.
    is_nadam = isinstance(optimizer, keras2.optimizers.legacy.Nadam)
    decays = _is_legacy(optimizer) and getattr(optimizer, "_initial_decay", None)
    if decays and not is_nadam:
        raise ValueError(
            f"Optimizer {type(optimizer).__name__} has decay="
            f"{optimizer._initial_decay}, which would restart at every phase change. "
            "Use learning_rate=InverseTimeDecay(...) instead of `decay`, or "
            "`UpdatePruningStep(reset_optimizer=False)`."
        )
    schedule = _learning_rate(optimizer)
    if not isinstance(schedule, _SCHEDULES):
        return False
    is_new = not isinstance(schedule, OffsetSchedule)
    if is_new:
        schedule = OffsetSchedule(schedule)
        _set_learning_rate(optimizer, schedule)
    # Tracked, so that checkpoints of the optimizer hold the offset. The optimizer's own
    # list of variables stays as it is: Keras 3 loads it by their number.
    optimizer._track_trackable(
        schedule.offset, name="iterations_before_reset", overwrite=True
    )
    return is_new


def steps_taken(optimizer: Optimizer) -> int:
    """Number of steps since the optimizer was new, or was reset."""
    return int(stored(_iterations(_inner(optimizer))))


def restore_offset(optimizer: Optimizer, steps: int, before_phase: int) -> None:
    """Continues the schedule of an optimizer that was restored from a file.

    A weights file of Keras 3 holds the optimizer's variables, but not the offset. The
    offset follows if the optimizer has taken all steps since the last reset.

    Args:
      optimizer: an optimizer that went through `prepare` and whose offset is new.
      steps: number of training steps done.
      before_phase: number of them before the last reset.
    """
    schedule = _learning_rate(_inner(optimizer))
    if before_phase and steps_taken(optimizer) == steps - before_phase:
        schedule.offset.assign(before_phase)


def _optimized_variables(
    optimizer: Optimizer, variables: Sequence[Variable]
) -> list[Variable]:
    """The variables that the optimizer was built for, in its order."""
    if _is_legacy(optimizer):
        return [v for v in variables if _legacy_key(v) in optimizer._slots]
    order = (
        optimizer._trainable_variables_indices
        if is_keras3(optimizer)
        else optimizer._index_dict
    )
    known = {optimizer._var_key(v): v for v in variables}
    if set(order) - set(known):
        raise ValueError(
            f"Optimizer {type(optimizer).__name__} was built for variables that are "
            "not trainable variables of the pruned model, so it cannot be reset. Use "
            "one optimizer for the pruned model, or `reset_optimizer=False`."
        )
    return [known[key] for key in sorted(order, key=order.get)]


def _legacy_key(variable: Variable) -> Any:
    if hasattr(variable, "_distributed_container"):
        variable = variable._distributed_container()
    return getattr(variable, "_unique_id", None) or variable.ref()


def _new_like(optimizer: Optimizer, variables: Sequence[Variable]) -> Optimizer:
    """A new optimizer of the same configuration, built for `variables`."""
    learning_rate = _learning_rate(optimizer)
    try:
        # A user's schedule may not be serializable, and the slots do not depend on it.
        if isinstance(learning_rate, _SCHEDULES):
            _set_learning_rate(optimizer, 0.0)
        config = optimizer.get_config()
    finally:
        _set_learning_rate(optimizer, learning_rate)
    fresh = type(optimizer).from_config(config)
    if _is_legacy(optimizer):
        fresh._create_all_weights(variables)
    else:
        fresh.build(variables)
    return fresh


def _slots(optimizer: Optimizer) -> list[Variable]:
    """All state of the optimizer except its step, learning rate and averages."""
    if _is_legacy(optimizer):
        return [v for v in optimizer.weights if v is not optimizer.iterations]
    kept = {id(_iterations(optimizer)), id(_learning_rate(optimizer))}
    # An exponential average of the weights is a result, not a state of the descent.
    kept |= {
        id(v) for v in getattr(optimizer, "_model_variables_moving_average", None) or []
    }
    kept.add(id(getattr(optimizer, "_current_learning_rate", None)))
    # Nadam holds its product as an attribute only.
    held = [v for v in optimizer.__dict__.values() if is_variable(v)]
    listed = {id(v) for v in optimizer.variables}
    found = [*optimizer.variables, *(v for v in held if id(v) not in listed)]
    return [v for v in found if id(v) not in kept]


def initial_slots(optimizer: Optimizer, variables: Sequence[Variable]) -> Slots:
    """Returns (slot variable, initial value) for all slots of an optimizer.

    Args:
      optimizer: a built optimizer.
      variables: the trainable variables of the model.

    Returns:
      A list of pairs. The value is a scalar if all entries of the slot start equal.
    """
    optimizer = _inner(optimizer)
    fresh = _new_like(optimizer, _optimized_variables(optimizer, variables))
    pairs = []
    for slot, start in zip(_slots(optimizer), _slots(fresh), strict=True):
        value = np.asarray(stored(start))
        constant = value.size and np.all(value == value.flat[0])
        pairs.append((slot, value.flat[0] if constant else value))
    return pairs


def is_built(optimizer: Optimizer) -> bool:
    """Whether the optimizer has its slots."""
    optimizer = _inner(optimizer)
    if _is_legacy(optimizer):
        return bool(optimizer._slots) or optimizer._iterations is not None
    built = "built" if is_keras3(optimizer) else "_built"
    return bool(getattr(optimizer, built, False))


def reset(optimizer: Optimizer, slots: Slots) -> None:
    """Makes an optimizer like new, while its learning-rate schedule continues.

    Args:
      optimizer: a built optimizer that went through `prepare`.
      slots: its `initial_slots`.
    """
    optimizer = _inner(optimizer)
    for slot, value in slots:
        slot.assign(tf.cast(tf.broadcast_to(value, slot.shape), slot.dtype))
    if hasattr(optimizer, "_u_product_counter"):
        # Nadam counts the steps in its product in Python.
        optimizer._u_product_counter = 1
    iterations, schedule = _iterations(optimizer), _learning_rate(optimizer)
    if isinstance(schedule, OffsetSchedule):
        schedule.offset.assign_add(tf.cast(stored(iterations), tf.int64))
    iterations.assign(tf.zeros_like(stored(iterations)))
