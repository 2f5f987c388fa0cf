"""The callback that computes training steps from kept blocks while masks are fixed."""

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import tensorflow as tf

from tf_seqattn.inference.layer_plan import (
    LayerPlan,
    is_packable_kind,
    num_samples,
    packed_counterpart,
    plan_support,
)
from tf_seqattn.inference.packed_layers import PackedLayer, positions_of
from tf_seqattn.inference.packed_model import print_plans
from tf_seqattn.keras_api import Logs, Model, Optimizer, TrainFunction
from tf_seqattn.sparsity.callbacks import UpdatePruningStep
from tf_seqattn.sparsity.phases import Phase, next_phase_change, phase_at
from tf_seqattn.sparsity.pruning_warning import warn
from tf_seqattn.sparsity.wrapper import PrunableLayer, PrunedKernel
from tf_seqattn.training.kept_blocks import take_blocks

logger = logging.getLogger("tf_seqattn")

# To trace a training step again takes as long as many steps.
_SHORTEST_PHASE = 50
CHOICES = ("model", "always")

# From the kernel, `A * mask`, what sums its gradient, the gain, and the layer's inputs.
KeptCall = Callable[..., tf.Tensor]


def _kept_call(owner: Any, packed: PackedLayer, pruned: PrunedKernel) -> KeptCall:
    """The `call` of a layer from the kept blocks of its kernel.

    Args:
      owner: the layer that holds the kernel.
      packed: its counterpart in the form "training", not built.
      pruned: the kernel.
    """
    rows, columns = positions_of(packed.pattern)
    height = packed.pattern.block_size[0]

    def call(
        kernel: tf.Tensor,
        multipliers: tf.Tensor,
        on_gradient: Callable[[tf.Tensor], None] | None,
        gain: tf.Tensor | None,
        inputs: tf.Tensor,
        training: Any = None,
    ) -> tf.Tensor:
        # EinsumDense takes it, too.
        del training
        blocks = take_blocks(
            kernel, multipliers, pruned.grid, rows, columns, height, on_gradient, gain
        )
        # Not as attributes, which Keras would track.
        packed.__dict__["kernels"] = [tf.cast(blocks, owner.compute_dtype)]
        packed.__dict__["bias"] = getattr(owner, "bias", None)
        return packed.call(tf.convert_to_tensor(inputs))

    return call


def _plan(layer: PrunableLayer, pruned: PrunedKernel, batch_size: int) -> LayerPlan:
    """Plans one kernel from its mask."""
    owner = pruned.kernel.owner
    plan = LayerPlan(f"{layer.layer.name}/{pruned.name}", pruned.grid.kernel_shape)
    if not is_packable_kind(owner) or pruned.name.startswith("pointwise"):
        plan.reason = f"no product from kept blocks for {type(owner).__name__}"
        return plan
    if layer.pattern is not None:
        plan.reason = f"its pattern {layer.pattern} has no blocks"
        return plan
    plan.samples = num_samples(owner, batch_size)
    plan.block_size = pruned.grid.block_size
    return plan_support(owner, plan, pruned.mask.numpy() > 0, trainable=True)


@contextlib.contextmanager
def _computing(calls: Sequence[tuple[PrunedKernel, KeptCall]]) -> Iterator[None]:
    """Context in which kernels are computed from their kept blocks."""
    for pruned, call in calls:
        pruned.kept_call = call
    try:
        yield
    finally:
        for pruned, _ in calls:
            pruned.kept_call = None


class SkipPrunedBlocks(UpdatePruningStep):
    """An `UpdatePruningStep` whose training steps skip pruned blocks where they can.

    Use it in place of `sa.UpdatePruningStep`. In sparse phases the mask is fixed. Then
    the products of a layer, forward and backward, are computed from its kept blocks
    alone. The result is that of the masked layer, up to rounding: pruned weights, the
    optimizer's slots and the logits go on as they do with a mask. The training step is
    traced again at the first step of such a phase, and the masked one returns after it.

    Dense layers, EinsumDense, convolutions and the projections of MultiHeadAttention
    are computed so, where the cost model of `sa.pack` expects that to be faster: large
    layers, large blocks, large batches. Other layers keep their mask. A table says
    which, when a sparse phase begins. Phases of fewer than 50 steps are left as they
    are.

    Args:
      reset_optimizer, optimizer: as in `UpdatePruningStep`.
      batch_size: samples in a batch, for the cost model.
      choose: "model" leaves layers masked that the cost model expects to be faster so.
        "always" computes all from kept blocks, where they can be.
      print_fn: called with each line of the table. By default it is logged at INFO.

    Raises:
      ValueError: if `choose` or `batch_size` is wrong, or `for_loop` is called.

    Warns:
      PruningWarning: when training begins, with `steps_per_execution` above 1 in Keras
        3, where steps stay masked.

    Example:

    >>> from tf_seqattn.sparsity import OneShotSchedule, prune
    >>> model = keras.Sequential([keras.layers.Dense(64, input_shape=(64,))])
    >>> pruned = prune(model, OneShotSchedule(0.9, prune_step=1), block_size=(4, 4))
    >>> pruned.compile("adam", "mse")
    >>> x = tf.ones((8, 64))
    >>> skipping = SkipPrunedBlocks(batch_size=8, choose="always")
    >>> history = pruned.fit(x, x, epochs=3, verbose=0, callbacks=[skipping])
    >>> [plan.layout for plan in skipping.plans]
    ['packed']
    """

    def __init__(
        self,
        reset_optimizer: bool | None = None,
        optimizer: Optimizer | Sequence[Optimizer] | None = None,
        batch_size: int = 64,
        choose: str = "model",
        print_fn: Callable[[str], object] = logger.info,
    ) -> None:
        super().__init__(reset_optimizer, optimizer)
        if choose not in CHOICES:
            raise ValueError(
                f"`choose` must be one of {CHOICES}. Received: choose={choose!r}"
            )
        if isinstance(batch_size, bool) or not isinstance(batch_size, int):
            raise ValueError(
                f"`batch_size` must be an integer. Received: batch_size={batch_size!r}"
            )
        if batch_size < 1:
            raise ValueError(
                f"`batch_size` must be at least 1. Received: batch_size={batch_size}"
            )
        self.batch_size = batch_size
        self.choose = choose
        self.print_fn = print_fn
        self.plans: list[LayerPlan] = []
        self._masked_function: TrainFunction | None = None
        self._next_change: float = 0

    @classmethod
    def for_loop(
        cls,
        model: Model,
        optimizer: Optimizer | Sequence[Optimizer] | None = None,
        reset_optimizer: bool | None = None,
    ) -> "UpdatePruningStep":
        """Raises: it changes the function that `fit` runs, and a loop has its own."""
        raise ValueError(
            "SkipPrunedBlocks works in `fit` only. In a custom loop use "
            "sa.UpdatePruningStep.for_loop, which computes with masks."
        )

    # The callback's events.

    def on_train_batch_begin(self, batch: int, logs: Logs = None) -> None:
        super().on_train_batch_begin(batch, logs)
        if self._whole_function is None:
            self._follow_phases()

    def on_train_end(self, logs: Logs = None) -> None:
        if self._masked_function is not None and self._whole_function is None:
            # A later `fit` may begin in another phase.
            self.model.train_function = self._masked_function
        super().on_train_end(logs)

    # The function that trains.

    def _reuse_train_function(self) -> None:
        super()._reuse_train_function()
        self._masked_function = self.model.train_function
        self._next_change = 0

    def _train_in_parts(self, whole: TrainFunction) -> TrainFunction:
        warn(
            "SkipPrunedBlocks computes with masks, since Keras 3 runs several steps "
            "per execution. Compile without `steps_per_execution`."
        )
        return super()._train_in_parts(whole)

    def _follow_phases(self) -> None:
        """Changes the function that trains where a phase has begun."""
        if max(layer.steps_begun for layer in self._layers) < self._next_change:
            return
        changes = {
            id(layer): next_phase_change(layer.pruning_schedule, layer.steps_begun)
            for layer in self._layers
        }
        self._next_change = min(changes.values())
        fixed = [
            layer
            for layer in self._layers
            if phase_at(layer.pruning_schedule, layer.steps_begun) is Phase.SPARSE
            and changes[id(layer)] - layer.steps_begun >= _SHORTEST_PHASE
        ]
        calls = self._planned(fixed)
        self.model.train_function = self._masked_function
        if calls:
            self.model.make_train_function(force=True)
            function = self.model.train_function

            def train(iterator: Iterator[Any]) -> Logs:
                with _computing(calls):
                    return function(iterator)

            self.model.train_function = train

    def _planned(
        self, layers: Sequence[PrunableLayer]
    ) -> list[tuple[PrunedKernel, KeptCall]]:
        """How to compute the kernels of layers whose masks are fixed."""
        if not layers:
            return []
        self.plans, calls = [], []
        for layer in layers:
            for pruned in layer.pruned_kernels:
                plan = _plan(layer, pruned, self.batch_size)
                self.plans.append(plan)
                if plan.pattern is None or not plan.pattern.num_kept:
                    continue
                if plan.layout == "dense" and self.choose == "model":
                    continue
                plan.layout, plan.reason = "packed", ""
                owner = pruned.kernel.owner
                bias = getattr(owner, "bias", None)
                shape = None if bias is None else tuple(bias.shape)
                packed = packed_counterpart(owner, plan, "training", shape)
                calls.append((pruned, _kept_call(owner, packed, pruned)))
        print_plans(self.plans, self.print_fn)
        compiled = getattr(self.model, "jit_compile", False)
        if calls and compiled and not tf.config.list_physical_devices("GPU"):
            # Keras 3 chooses XLA by itself.
            self.print_fn(
                "XLA gains less from kept blocks on CPU: compile with "
                "`jit_compile=False`."
            )
        return calls
