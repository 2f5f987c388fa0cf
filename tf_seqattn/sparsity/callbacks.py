"""The callback that counts steps, updates masks and resets the optimizer."""

import collections
import itertools
import logging
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tf_seqattn import tfmot_api
from tf_seqattn.keras_api import (
    Callback,
    Logs,
    Model,
    Optimizer,
    TrainFunction,
    Variable,
    add_to,
    check_layer,
    check_one_keras,
    compilation_of,
    is_keras3,
    single_step_function,
    steps_per_execution,
    submodules,
)
from tf_seqattn.sparsity import optimizer_reset
from tf_seqattn.sparsity.after_pruning import keeps_best_weights
from tf_seqattn.sparsity.channel_units import ChannelUnits
from tf_seqattn.sparsity.layer_summary import summary
from tf_seqattn.sparsity.phases import (
    next_phase_change,
    phase_at,
    phase_changes,
    resets_optimizer,
    steps_before_phase,
    update_at,
)
from tf_seqattn.sparsity.progress import is_pruned_for_good, shortfall
from tf_seqattn.sparsity.pruning_warning import warn
from tf_seqattn.sparsity.wrapper import PrunableLayer, pruned_layers
from tf_seqattn.tfmot_api import Schedule

logger = logging.getLogger("tf_seqattn")

# A phase of fewer steps only disturbs the training.
_SENSIBLE_PHASE = 20

# So many counters are faster to count one by one than by a call of a trace.
_FEW_LAYERS = 8

# What the iterators of Keras 3 raise at the end of their data.
_NO_MORE_DATA = (StopIteration, tf.errors.OutOfRangeError)
# A scale of 2^15 is halved at each step that is skipped.
_SKIPPED_BY_LOSS_SCALING = 15


def check_prunable(model: Model) -> list[PrunableLayer]:
    """Returns the pruned layers of a model, or raises if it is not ready to train."""
    layers = pruned_layers(model)
    if not layers:
        tfmot = [m.name for m in submodules(model) if tfmot_api.is_wrapper(m)]
        remedy = (
            f"It was pruned by tfmot ({tfmot[0]!r}): use "
            "tfmot.sparsity.keras.UpdatePruningStep() and PruningSummaries instead."
            if tfmot
            else "Wrap it first: `model = sa.prune(model, pruning_schedule=...)`. If "
            "that left every layer alone, its log says why (for example too few "
            "blocks: choose a smaller block_size or a pruning_policy)."
        )
        raise ValueError(
            f"Model {model.name!r} has no pruned layer: nothing to do. {remedy}"
        )
    names = collections.Counter(
        layer.name for layer in layers if isinstance(layer.layer, ChannelUnits)
    )
    split = [name for name, number in names.items() if number > 1]
    if split:
        raise ValueError(
            f"Model {model.name!r} has several copies of a group of channels "
            f"({split[0]!r}), which its layers should share. Cloning and HDF5 files "
            'lose that: save it as "model.keras", or prune anew and load its weights.'
        )
    unbuilt = [layer.name for layer in layers if not layer.built]
    if unbuilt:
        raise ValueError(
            f"Model {model.name!r} is not built: {', '.join(unbuilt)} have no kernels "
            "yet, so their steps cannot be counted from the first one. Call the model "
            "on a batch, `model(batch)`, or `model.build(input_shape)`, before `fit`."
        )
    return layers


class UpdatePruningStep(Callback):
    """Counts training steps, updates the masks, resets the optimizer.

    Before every training step, the step of each pruned layer advances and its mask
    follows the schedule. Where a phase of a schedule with cycles begins, the optimizer
    is reset: its slots get their initial values and Adam's bias correction starts
    again, while the learning-rate schedule goes on. Training a pruned model without
    this callback raises. The order of callbacks does not matter. The same callback
    serves the `fit` of Keras 2 and of Keras 3.

    With `steps_per_execution=K` the masks are updated once per execution, to what
    the schedule wants at its last step; an execution that would cross a phase change
    is cut short, so phases begin exactly where they should.

    In a custom training loop two lines do the same::

        pruning = sa.UpdatePruningStep.for_loop(model, optimizer)
        for batch in dataset:
            pruning.step()
            train_step(batch)

    A model with its own `train_step`, such as a GAN, may use other optimizers than the
    one it was compiled with. Pass them as `optimizer`.

    Args:
      reset_optimizer: whether to reset the optimizer at phase changes. By default each
        schedule decides (`PruningSchedule.resets_optimizer`): the paper's schedules
        with cycles reset it (appendix C.1), those whose sparsity rises once do not.
        Schedules of tfmot have no phases and reset nothing.
      optimizer: the optimizer to reset, or a list of several; by default the one that
        the model was compiled with.

    Raises:
      ValueError: when training begins, if the model has no pruned layer (naming the
        remedy), is not built or runs with `steps_per_execution="auto"`.

    Warns:
      PruningWarning: when training begins, of phases that are too short and of
        callbacks that would keep the weights of a dense model (see `AfterPruning`);
        at the first phase change, if the optimizer has taken no step; when training
        ends before its schedule.

    Example:

    >>> from tf_seqattn.sparsity import OneShotSchedule, prune
    >>> model = keras.Sequential([keras.layers.Dense(64, input_shape=(64,))])
    >>> pruned = prune(model, OneShotSchedule(0.9, prune_step=1), block_size=(4, 4))
    >>> pruned.compile("adam", "mse")
    >>> x = tf.ones((8, 64))
    >>> history = pruned.fit(x, x, verbose=0, callbacks=[UpdatePruningStep()])
    """

    def __init__(
        self,
        reset_optimizer: bool | None = None,
        optimizer: Optimizer | Sequence[Optimizer] | None = None,
    ) -> None:
        super().__init__()
        self.reset_optimizer = reset_optimizer
        self.optimizer = optimizer
        self._layers: list[PrunableLayer] = []
        self._groups: list[_Group] | None = None
        # Steps begun by each layer after the last step, or None to read the variables.
        self._steps_done: dict[int, int] | None = None
        self._one_step = tf.constant(1, tf.int64)
        self._steps_per_move: int | None = None
        self._optimizers: list[_Optimizer] = []
        self._executed_steps = 1
        self._whole_function: TrainFunction | None = None

    @classmethod
    def for_loop(
        cls,
        model: Model,
        optimizer: Optimizer | Sequence[Optimizer] | None = None,
        reset_optimizer: bool | None = None,
    ) -> "UpdatePruningStep":
        """Returns the callback ready for a custom training loop.

        Args:
          model: the pruned model (or layer), built.
          optimizer: its optimizer, or a list of several; `model.optimizer` by default.
          reset_optimizer: as in the constructor.

        Raises:
          ValueError: as when training begins.
        """
        check_layer(model, "model")
        pruning = cls(reset_optimizer, optimizer)
        pruning.set_model(model)
        pruning._begin()
        return pruning

    def step(self, steps: int = 1) -> None:
        """Begins a training step: call it before each one in a custom loop.

        Args:
          steps: number of steps that run before the next call, where a loop cannot stop
            after each. Masks are updated once for all of them, as with
            `steps_per_execution`; see `steps_to_phase_change`.
        """
        # The loop may have restored a checkpoint.
        self._steps_done = None
        self._advance(steps)

    def steps_to_phase_change(self) -> float:
        """Steps that can be begun at once so that no phase begins among them.

        Returns:
          An integer from 1, or infinity after the last change of phase.
        """
        return min(
            next_phase_change(layer.pruning_schedule, done + 1) - (done + 1)
            for layer in self._layers
            for done in [layer.steps_begun]
        )

    # The callback's events.

    def on_train_begin(self, logs: Logs = None) -> None:
        if getattr(self.model, "autotune_steps_per_execution", False):
            raise ValueError(
                'steps_per_execution="auto" changes during training, so phases would '
                "begin at the wrong steps. Compile with a number instead."
            )
        self._begin()
        _check_other_callbacks(sys._getframe(1), self._layers)
        self._executed_steps = steps_per_execution(self.model)
        self._reuse_train_function()
        if is_keras3(self.model) and self._executed_steps > 1:
            self._whole_function = self.model.train_function
            self.model.train_function = self._train_in_parts(self._whole_function)

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:
        # A callback may have restored other weights.
        self._steps_done = None
        self._end_execution_at_phase_change()

    def on_epoch_end(
        self, epoch: int | None = None, logs: Logs = None, batch: int | None = None
    ) -> None:
        # Nothing to do; tfmot's documented custom loop calls it with `batch`.
        del epoch, logs, batch

    def on_train_batch_begin(self, batch: int, logs: Logs = None) -> None:
        if self._whole_function is None:
            # To read the number takes as long as a part of a small step.
            one = self._executed_steps == 1
            self._advance(1 if one else steps_per_execution(self.model))

    def on_train_batch_end(self, batch: int, logs: Logs = None) -> None:
        self._end_execution_at_phase_change()

    def on_train_end(self, logs: Logs = None) -> None:
        self._set_steps_per_execution(self._executed_steps)
        if self._whole_function is not None:
            self.model.train_function = self._whole_function
            self._whole_function = None
        for layer in self._layers:
            layer.steps_are_counted = False
        self._put_train_function_aside()
        _warn_of_shortfall(self._layers, self.model.stop_training)
        summary(self.model, print_fn=logger.info)

    def on_test_begin(self, logs: Logs = None) -> None:
        # A validation inside `fit` need not stop where a phase does.
        if self._groups is not None:
            self._set_steps_per_execution(self._executed_steps)

    # Steps, masks and the optimizer.

    def _begin(self) -> None:
        self._layers = check_prunable(self.model)
        self._groups = None
        self._steps_done = None
        given = self.optimizer or getattr(self.model, "optimizer", None)
        optimizers = list(given) if isinstance(given, (list, tuple)) else [given]
        # TFRS's `CompositeOptimizer` consists of several.
        optimizers = [
            part for o in optimizers for part in getattr(o, "optimizers", [o])
        ]
        self._optimizers = [_Optimizer(o) for o in optimizers if o is not None]
        if self._any_resets() and not self._optimizers:
            raise ValueError(
                "There is no optimizer to reset at phase changes: compile the model or "
                "pass `optimizer`, or set `reset_optimizer=False`."
            )
        if self._any_resets():
            check_one_keras([self.model, *optimizers], "optimizer")
            for optimizer in self._optimizers:
                optimizer.prepare()
        _warn_of_short_phases(self._layers)
        self._steps_since_check = 0
        self._warned_of_idle = False
        for layer in self._layers:
            layer.steps_are_counted = True
        # Traced now, since Keras warns if the first batches wait for a callback. A call
        # of the trace itself is three times as fast as looking it up.
        number = tf.TensorSpec((), tf.int64)
        layers = tuple(self._layers)
        self._move_all_logits = _move_logits.get_concrete_function(layers, number)
        self._count_at_once = _count.get_concrete_function(layers, number)
        # The layers whose logits the optimizer moves have no number.
        numbers = [layer.steps_per_move for layer in layers]
        self._steps_per_move = min(filter(None, numbers), default=None)
        _group_by_schedule(self._layers)

    def _resets(self, schedule: Schedule) -> bool:
        """Whether the optimizer is reset where a phase of a schedule begins."""
        if self.reset_optimizer is None:
            return resets_optimizer(schedule)
        return self.reset_optimizer

    def _any_resets(self) -> bool:
        return any(self._resets(layer.pruning_schedule) for layer in self._layers)

    def _advance(self, steps: int) -> None:
        """Begins `steps` training steps that run as one execution."""
        if self._groups is None:
            # Only now: another callback may have restored a backup in the meantime.
            self._groups = _group_by_schedule(self._layers)
            if self._any_resets():
                self._continue_learning_rate(self._groups)
        if self._steps_done is None:
            self._steps_done = {id(x): x.steps_begun for x in self._layers}
        resets = updates = False
        for group in self._groups:
            done = self._steps_done[id(group.layers[0])]
            for step in range(done + 1, done + steps + 1):
                sparsity = update_at(group.schedule, step)
                updates |= sparsity is not None
                if sparsity is None and group.every_step:
                    sparsity = float(group.schedule(tf.constant(step, tf.int64))[1])
                if sparsity is not None:
                    group.update_masks(tf.constant(sparsity, tf.float32))
            before, now = (
                phase_at(group.schedule, done),
                phase_at(group.schedule, done + 1),
            )
            changes = done > 0 and before != now
            resets |= changes and self._resets(group.schedule)
        self._move_logits(steps)
        self._count(steps)
        # To read the variables each time would cost as much as to count.
        counted = {layer: done + steps for layer, done in self._steps_done.items()}
        self._steps_done = None if updates else counted
        if resets:
            self._check_optimizers_step()
            for optimizer in self._optimizers:
                optimizer.reset(self.model.variables)
            self._steps_since_check = 0
        self._steps_since_check += steps

    def _move_logits(self, steps: int) -> None:
        """Moves the logits if it is time; a resumed training does at the same steps."""
        assert self._steps_done is not None
        done, every = self._steps_done[id(self._layers[0])], self._steps_per_move
        if every is not None and done % every < steps:
            self._move_all_logits(tf.constant(max(steps, every), tf.int64))

    def _count(self, steps: int) -> None:
        number = self._one_step if steps == 1 else tf.constant(steps, tf.int64)
        if len(self._layers) > _FEW_LAYERS:
            self._count_at_once(number)
        else:
            for layer in self._layers:
                add_to(layer.pruning_step, number)

    def _check_optimizers_step(self) -> None:
        """Warns once if steps were counted but an optimizer has taken none."""
        steps = self._steps_since_check
        idle = [o for o in self._optimizers if o.is_idle(steps)]
        if idle and not self._warned_of_idle:
            self._warned_of_idle = True
            names = ", ".join(type(o.optimizer).__name__ for o in idle)
            warn(
                f"A phase begins after {steps} training steps, but "
                f"the optimizer that is reset there ({names}) has taken none of them. "
                "If the training step uses another optimizer, pass it: "
                "sa.UpdatePruningStep(optimizer=...), or a list of several."
            )

    def _continue_learning_rate(self, groups: "list[_Group]") -> None:
        """Continues the learning-rate schedule of an optimizer that was restored.

        A backup of Keras 3 holds the optimizer's steps since the last phase change but
        not those before it. The layers count all of them.
        """
        done = max(layer.steps_begun for layer in self._layers)
        before = max(steps_before_phase(g.schedule, done) for g in groups)
        for optimizer in self._optimizers:
            optimizer.continue_learning_rate(done, before)

    # Executions of several steps.

    def _set_steps_per_execution(self, steps: int) -> None:
        if steps != steps_per_execution(self.model):
            self.model._steps_per_execution.assign(steps)

    def _end_execution_at_phase_change(self) -> None:
        """Shortens the next execution so that it ends where a phase does.

        Keras 2 reads the variable again before each execution. Keras 3 counts on the
        full number of steps: see `_train_in_parts`.
        """
        if self._executed_steps > 1 and self._whole_function is None:
            self._set_steps_per_execution(self._steps_within_phase())

    def _train_in_parts(self, whole: TrainFunction) -> TrainFunction:
        """Returns what runs an execution of Keras 3: step by step at a phase change."""
        single = single_step_function(self.model)

        def run(iterator: Iterator[Any]) -> Logs:
            if self._steps_within_phase() == self._executed_steps:
                return self._counted(whole, iterator, self._executed_steps)
            logs = None
            for _ in range(self._executed_steps):
                try:
                    logs = self._counted(single, iterator, 1)
                except _NO_MORE_DATA:
                    if logs is None:
                        raise
                    break
            return logs

        return run

    def _counted(
        self, train: TrainFunction, iterator: Iterator[Any], steps: int
    ) -> Logs:
        """Runs `steps` steps, or as many as there are data for, and counts them."""
        self._advance(steps)
        before = [o.steps_taken() for o in self._optimizers]
        ran = 0
        try:
            logs = train(iterator)
            ran = max(
                (
                    optimizer.steps_taken() - taken
                    for optimizer, taken in zip(self._optimizers, before, strict=True)
                ),
                default=0,
            )
            return logs
        finally:
            # A custom training step may use another optimizer.
            ended = isinstance(sys.exc_info()[1], _NO_MORE_DATA)
            if ran < steps and (ran or ended):
                self._count(ran - steps)
                self._steps_done = None

    def _steps_within_phase(self) -> int:
        """How many steps of the next execution belong to the phase it begins in."""
        return int(min(self._executed_steps, self.steps_to_phase_change()))

    # A second `fit` without the callback.

    def _put_train_function_aside(self) -> None:
        """Makes a later `fit` without this callback trace again, and so raise.

        The wrappers check for this callback while the training step is traced. A step
        that is traced already would train without counting.
        """
        # Set in `__dict__`, since Keras would track and save the variable.
        self.model.__dict__["_counted_train_function"] = (
            compilation_of(self.model),
            self.model.train_function,
        )
        self.model.train_function = None

    def _reuse_train_function(self) -> None:
        """Restores the function that an earlier `fit` traced, or makes a new one.

        A new one is needed after `compile`, and after a `fit` that failed in tracing.
        """
        compilation, function = getattr(
            self.model, "_counted_train_function", (None, None)
        )
        if function is not None and compilation is compilation_of(self.model):
            self.model.train_function = function
        else:
            self.model.make_train_function(force=True)


class _Group(NamedTuple):
    """Layers that follow the same schedule and are at the same step."""

    schedule: Schedule
    layers: tuple[PrunableLayer, ...]
    update_masks: Callable[[tf.Tensor], None]  # of the sparsity, a float32 scalar
    every_step: bool  # whether the masks follow the scores between updates too


def _group_by_schedule(layers: Sequence[PrunableLayer]) -> list[_Group]:
    groups: dict[str, list[PrunableLayer]] = {}
    for layer in layers:
        key = repr(
            (
                layer.pruning_schedule.get_config(),
                layer.steps_begun,
                _chooses_every_step(layer),
            )
        )
        groups.setdefault(key, []).append(layer)
    scalar = tf.TensorSpec((), tf.float32)
    return [
        _Group(
            g[0].pruning_schedule,
            g,
            _update_masks.get_concrete_function(g, scalar),
            _chooses_every_step(g[0]),
        )
        for g in map(tuple, groups.values())
    ]


def _chooses_every_step(layer: PrunableLayer) -> bool:
    return layer.pattern is not None and layer.pattern.every_step


# These are traced once for each tuple of layers.
@tf.function
def _move_logits(layers: tuple[PrunableLayer, ...], steps: tf.Tensor) -> None:
    for layer in layers:
        layer.move_logits(steps)


@tf.function
def _count(layers: tuple[PrunableLayer, ...], steps: tf.Tensor) -> None:
    for layer in layers:
        add_to(layer.pruning_step, steps)


@tf.function
def _update_masks(layers: tuple[PrunableLayer, ...], sparsity: tf.Tensor) -> None:
    for layer in layers:
        layer.update_masks(sparsity)


class _Optimizer:
    """An optimizer that is reset at phase changes.

    Attributes:
      optimizer: of Keras 2 or Keras 3.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self._slots: optimizer_reset.Slots | None = None
        self._is_new = False
        self._steps_at_first = self.steps_taken()

    def prepare(self) -> None:
        """Prepares it to be reset, before its step is traced."""
        self._is_new = optimizer_reset.prepare(self.optimizer)

    def steps_taken(self) -> int:
        """Number of steps since it was new, or was reset."""
        if not optimizer_reset.is_built(self.optimizer):
            return 0
        return optimizer_reset.steps_taken(self.optimizer)

    def is_idle(self, steps: int) -> bool:
        """Whether it ought to have taken one of so many steps, and has taken none.

        The steps are those since training began or since it was reset. Loss scaling
        skips steps until its scale is small enough.
        """
        scales_loss = hasattr(self.optimizer, "inner_optimizer")
        patience = _SKIPPED_BY_LOSS_SCALING if scales_loss else 0
        return steps > patience and self.steps_taken() == self._steps_at_first

    def reset(self, variables: Sequence[Variable]) -> None:
        """Resets it, once it has slots: see `optimizer_reset`."""
        if not optimizer_reset.is_built(self.optimizer):
            return
        if self._slots is None:
            self._slots = optimizer_reset.initial_slots(self.optimizer, variables)
        optimizer_reset.reset(self.optimizer, self._slots)
        self._steps_at_first = 0

    def continue_learning_rate(self, done: int, before: int) -> None:
        """Continues a learning-rate schedule that is new to us after `done` steps."""
        if self._is_new:
            optimizer_reset.restore_offset(self.optimizer, done, before)


def _warn_of_shortfall(layers: Sequence[PrunableLayer], stopped: bool) -> None:
    """Warns if training ends before the schedule does, once for each model.

    Args:
      layers: the pruned layers.
      stopped: whether a callback stopped the training.
    """
    lacking = shortfall(layers)
    if lacking is None:
        return
    if layers[0].warned_of_its_end:
        logger.info("Training ended too early: %s.", lacking)
        return
    layers[0].warned_of_its_end = True
    cause = (
        " A callback stopped it: let that one start once the model is pruned, with "
        "sa.AfterPruning(callback)."
        if stopped
        else ""
    )
    warn(
        f"Training ended too early: {lacking}.{cause} {lacking.remedy} Further calls "
        "of `fit` continue from here."
    )


def _warn_of_short_phases(layers: Sequence[PrunableLayer]) -> None:
    """Warns of phases in which a network cannot settle.

    The first phase may be short, as it is from a trained checkpoint.
    """
    schedules = {repr(s): s for s in (layer.pruning_schedule for layer in layers)}
    for schedule in schedules.values():
        lengths = np.diff([*itertools.islice(phase_changes(schedule), 1000)]).tolist()
        if lengths and min(lengths) < _SENSIBLE_PHASE:
            warn(
                f"The phases of {schedule!r} have {min(lengths)} to {max(lengths)} "
                f"steps: in fewer than {_SENSIBLE_PHASE} the network cannot settle. "
                "Give the schedule more steps, or fewer `cycles`."
            )


def _check_other_callbacks(
    frame: types.FrameType, layers: Sequence[PrunableLayer]
) -> None:
    """Checks the callbacks beside this one in the list of the running `fit`.

    Keras gives a callback no access to the list, but the list is the caller.

    Args:
      frame: the caller of `on_train_begin`.
      layers: the pruned layers.

    Raises:
      ValueError: for a callback of tfmot, which would not find our layers and would
        silently do nothing.
    """
    siblings = getattr(frame.f_locals.get("self"), "callbacks", None) or []
    for callback in siblings:
        if tfmot_api.is_callback(callback):
            name = type(callback).__name__
            raise ValueError(
                f"tfmot's callback {name} does not know the layers of tf_seqattn and "
                f"would do nothing. Use sa.{name} in its place."
            )
    hasty = [type(c).__name__ for c in siblings if keeps_best_weights(c)]
    if hasty and not is_pruned_for_good(layers):
        names = " and ".join(hasty)
        warn(
            f"{names} may keep the weights of an epoch in which the model is not "
            "pruned yet, since that scores better. Let it start once the model is "
            f"pruned, with sa.AfterPruning({hasty[0]}(...))."
        )
