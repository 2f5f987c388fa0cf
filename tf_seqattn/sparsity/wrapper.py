"""The wrapper that trains a layer with a mask over the blocks of its kernels."""

import contextlib
import dataclasses
import functools
import logging
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.python.saved_model import save_context

from tf_seqattn import tfmot_api
from tf_seqattn.keras_api import (
    Layer,
    Library,
    Model,
    OfEitherKeras,
    Variable,
    add_counter,
    add_float,
    add_gradient_sum,
    add_to,
    build_attention,
    change_initial_value,
    check_layer,
    keras2,
    keras3,
    keras_of,
    register_pair,
    registered_object,
    stored,
    submodules,
)
from tf_seqattn.kernels import blocks, layer_kernels
from tf_seqattn.kernels.layer_kernels import BlockSize
from tf_seqattn.sparsity import kernel_rate, logit_rate, n_of_m, support
from tf_seqattn.sparsity.calling import CallingLikeItsLayer2, CallingLikeItsLayer3
from tf_seqattn.sparsity.channel_units import ChannelUnits
from tf_seqattn.sparsity.importance import (
    Importance,
    NormalizationScale,
    SoftmaxAttention,
)
from tf_seqattn.sparsity.n_of_m import NofM
from tf_seqattn.sparsity.phases import (
    PruningSchedule,
    end_step,
    final_sparsity,
    rate_power,
    revised_until,
    update_at,
)
from tf_seqattn.sparsity.policies import why_too_small, why_unprunable
from tf_seqattn.sparsity.schedules import SequentialAttentionSchedule
from tf_seqattn.tfmot_api import Schedule

logger = logging.getLogger("tf_seqattn")

DEFAULT_BLOCK_SIZE = (16, 16)

NOT_COUNTED = (
    "Layer {name!r} takes part in a training step, but nothing counts its steps, so it "
    "would never be pruned. In `fit`, pass `callbacks=[sa.UpdatePruningStep()]` "
    "(tfmot's callback of that name does not know this layer). In a custom loop, or "
    "with `train_on_batch`: `pruning = sa.UpdatePruningStep.for_loop(model, optimizer)`"
    " before it and `pruning.step()` before each training step."
)


@dataclasses.dataclass
class PrunedKernel:
    """A kernel, its grid and the pruning variables that belong to it.

    Attributes:
      kernel: where the kernel is.
      grid: how it is cut into blocks.
      mask: float32 variable of `grid.shape`, 1 for active blocks, 0 for others, between
        the two for entries that decay (`pattern`).
      logits: float32 variable of `grid.shape`, or None. The optimizer trains it, unless
        there is a `scale_gradient`.
      scale_gradient: float32 variable of `grid.shape`: the gradient, summed over the
        training steps since the logits last moved, in what each block is multiplied by.
        None where the optimizer trains the logits.
      mean_square: float32 scalar variable: running mean of the squared logit gradient,
        or None likewise.
      kept_call: computes the layer that holds the kernel from its kept blocks, while a
        step of `sa.SkipPrunedBlocks` is traced. Its arguments are the kernel, `A *
        mask`, what sums the gradient of that, the gain of the learning rate, and the
        inputs of the layer.

    In Keras 3 the variables are `keras.Variable`s.
    """

    kernel: layer_kernels.Kernel
    grid: blocks.BlockGrid
    mask: Variable
    logits: Variable | None
    scale_gradient: Variable | None = None
    mean_square: Variable | None = None
    kept_call: Callable[..., tf.Tensor] | None = None

    @property
    def name(self) -> str:
        """Name within the layer, such as "kernel"."""
        return self.kernel.name


def _check_schedule(schedule: Schedule) -> Schedule:
    if not callable(schedule) or not hasattr(schedule, "get_config"):
        raise ValueError(
            "`pruning_schedule` must be a PruningSchedule of tf_seqattn or tfmot, such "
            "as sa.SequentialAttentionSchedule(0.9, end_step=10_000). Received: "
            f"pruning_schedule={schedule!r}"
        )
    return schedule


def _check_pattern(
    pattern: NofM, block_size: BlockSize, balanced: bool, schedule: Schedule
) -> tuple[int, int]:
    """Returns the blocks of a pattern: single entries."""
    if tuple(block_size) not in (DEFAULT_BLOCK_SIZE, (1, 1)) or balanced:
        raise ValueError(
            f"`pattern` {pattern.pattern!r} chooses single entries: leave out "
            f"`block_size` and `balanced`. Received: block_size={block_size!r}, "
            f"balanced={balanced!r}"
        )
    if pattern.every_step and not isinstance(schedule, PruningSchedule):
        raise ValueError(
            "`every_step` of a pattern needs a schedule of tf_seqattn, which says the "
            "sparsity between updates, such as sa.GradualSchedule. Received: "
            f"pruning_schedule={schedule!r}"
        )
    target = final_sparsity(schedule)
    if target is not None and abs(target - pattern.sparsity) > 1e-6:
        raise ValueError(
            f"`pattern` {pattern.pattern!r} removes {pattern.sparsity:g} of each "
            "layer, so the schedule must end there: use target_sparsity="
            f"{pattern.sparsity:g}. Received: pruning_schedule={schedule!r}"
        )
    return 1, 1


def default_importance(schedule: Schedule, of_blocks: bool = True) -> Importance:
    """The importance for a schedule when the user gives none.

    It is the paper's if the schedule is, so that the named recipes are complete.
    Channels, features and single entries keep the balance of attention and norm that
    was measured for them.
    """
    if isinstance(schedule, SequentialAttentionSchedule) and schedule.follows_paper:
        return SoftmaxAttention.paper()
    if of_blocks:
        return SoftmaxAttention()
    return SoftmaxAttention(rank="effective", logit_rate=1.0)


def _check_importance(
    importance: Importance | None, schedule: Schedule, pattern: NofM | None
) -> Importance:
    if importance is None:
        return default_importance(schedule, of_blocks=pattern is None)
    if not isinstance(importance, Importance):
        hint = " Pass an instance." if isinstance(importance, type) else ""
        raise ValueError(
            "`importance` must be sa.SoftmaxAttention(), sa.Magnitude(), "
            f"sa.PowerPropagation() or another sa.Importance.{hint} Received: "
            f"importance={importance!r}"
        )
    return importance


def _serialize_importance(importance: Importance, library: Library) -> dict[str, Any]:
    name = library.saving.get_registered_name(type(importance))
    return {"class_name": name, "config": importance.get_config()}


def _deserialize(config: dict[str, Any]) -> Any:
    """Restores an importance or a schedule, ours or tfmot's, from its config."""
    name = config["class_name"]
    found: Any = registered_object(name) or tfmot_api.schedule_class(name)
    if found is None:
        raise ValueError(
            f"Unknown schedule or importance {name!r} in the saved layer. Register its "
            "class with keras.saving.register_keras_serializable, or load inside "
            f"`keras.saving.custom_object_scope({{{name!r}: ...}})`."
        )
    return found.from_config(config["config"])


class PrunableLayer(OfEitherKeras):
    """Trains a layer whose kernels are pruned block by block.

    In every phase the layer computes with `W * A * mask`: its kernel, times the
    importance of each block, times a 0/1 mask over the blocks (section 3, algorithm
    1). Where the schedule lets the learning rate grow (`rate_power`), `W` is the stored
    kernel times the gain of that rate. Gradients reach `W` and the logits behind `A`.
    Masked blocks keep their values for the next dense phase. `sa.UpdatePruningStep`
    counts the steps and updates the masks; training without it raises.

    Extra variables: per block one float32 mask and, for `SoftmaxAttention`, one
    float32 logit; one int64 step per layer. They stay float32 under mixed precision.

    Args:
      layer: a layer of Keras 2 or Keras 3: Dense, Conv1D/2D/3D and transposed,
        EinsumDense, MultiHeadAttention, LSTM, GRU, Embedding, LocallyConnected1D/2D,
        `FeatureCross` of keras-rs, or one with tfmot's `get_prunable_weights()`. The
        wrapper is a layer of the same Keras. Around a built-in layer without a kernel,
        such as MaxPooling2D, it does nothing, and `sa.summary` gives the reason.
      pruning_schedule: a `PruningSchedule` of tf_seqattn or tfmot.
      block_size: (rows, columns) of a block: inputs by outputs of the kernel read as
        a matrix; a convolution is read as (H * W * C_in, C_out). None stands for all
        of an axis: (None, 1) prunes whole output channels, (1, None) whole inputs.
        "heads" prunes whole heads of MultiHeadAttention: a block is all rows of the
        output projection that read one head. Without it nothing reads the head's query,
        key and value, so `sa.pack` removes all four.
      importance: what to score; `SoftmaxAttention()` by default, or the paper's
        `SoftmaxAttention.paper()` where the schedule is one of the paper's.
      min_blocks: a kernel of fewer blocks is left dense, which the log says at INFO. If
        this is above 1, so is a kernel smaller than a block.
      zero_pruned_weights: set the weights of dropped blocks to zero, as ACDC does on
        ImageNet, instead of keeping them for the next dense phase.
      balanced: keep the same number of blocks in every column of blocks, so that a
        packed layer needs no padding and one batched product.
      pattern: "N:M", such as "2:4", in place of blocks: of every M consecutive inputs
        of an output, the N of highest importance stay. The mask of the others decays
        from 1 to 0 as the sparsity rises to its target, which must be 1 - N / M. The
        mask then has the size of the kernel. Inputs are the rows of the matrix: the
        channels at one place of the window in a convolution, where the last group is
        smaller if M does not divide them, and the entries of the window in a depthwise
        convolution. `sa.NofM` has other ways to the pattern.
      **kwargs: passed to `keras.layers.Layer`.

    Raises:
      ValueError: for anything but a layer; for a layer that is pruned already, has LoRA
        enabled, is quantized or is of an unknown class; for blocks larger than a kernel
        (when the layer is built); for a pattern together with a block size, or with a
        target other than its own.

    Example:

    >>> schedule = SequentialAttentionSchedule(0.5, end_step=100)
    >>> layer = PrunableLayer(keras.layers.Dense(8), schedule, block_size=(2, 2))
    >>> layer(tf.ones((1, 8))).shape
    TensorShape([1, 8])
    >>> layer.pruned_kernels[0].mask.shape
    TensorShape([4, 4])
    """

    # It has these as a layer of Keras.
    layer: Any
    name: str

    def __init__(
        self,
        layer: Layer,
        pruning_schedule: Schedule,
        block_size: BlockSize = DEFAULT_BLOCK_SIZE,
        importance: Importance | None = None,
        min_blocks: int = 1,
        zero_pruned_weights: bool = False,
        balanced: bool = False,
        pattern: str | NofM | Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        check_layer(layer, "layer")
        if isinstance(layer, PrunableLayer):
            raise ValueError(
                f"Layer {layer.name!r} is pruned already: wrap the plain layer, or "
                "strip it first with `sa.strip_pruning`."
            )
        layer_kernels.check_plain(layer)
        if not self._has_known_kernels(layer):
            # Raises, naming the layer and the remedy.
            layer_kernels.find_kernels(layer)
        without = layer_kernels.why_not_divided(layer, block_size)
        if without is not None:
            raise ValueError(
                f"Layer {layer.name!r}: {without}. Give `block_size` as (rows, "
                f"columns). Received: block_size={block_size!r}"
            )
        kwargs.setdefault("name", f"prunable_{layer.name}")
        # The wrapper computes in float32 and casts once, for the layer it holds.
        kwargs["dtype"] = "float32"
        kwargs.setdefault("trainable", layer.trainable)
        super().__init__(layer, autocast=False, **kwargs)
        self.pruning_schedule = _check_schedule(pruning_schedule)
        self.pattern = None if pattern is None else NofM.of(pattern)
        if self.pattern is not None:
            block_size = _check_pattern(
                self.pattern, block_size, balanced, pruning_schedule
            )
        self.block_size = layer_kernels.check_block_size_or_heads(block_size)
        self.importance = _check_importance(importance, pruning_schedule, self.pattern)
        by_scales = isinstance(self.importance, NormalizationScale)
        if by_scales and not isinstance(layer, ChannelUnits):
            raise ValueError(
                "`importance` NormalizationScale ranks whole channels: give "
                '`block_size="channels"`. Received: importance=NormalizationScale(), '
                f"block_size={block_size!r}"
            )
        self.min_blocks = int(min_blocks)
        self.zero_pruned_weights = bool(zero_pruned_weights)
        self.balanced = bool(balanced)
        self._check_sparse_start()
        self.supports_masking = layer.supports_masking
        self.left_dense: dict[str, str] = {}
        self.logits: list[Variable] = []
        self.masks: list[Variable] = []
        self.steps_are_counted = False
        self.warned_of_its_end = False
        self._pruned: list[PrunedKernel] = []
        if layer.built:
            with tf.name_scope(self.name):
                self._create_pruning_variables()
            self.built = True
            self._prune_without_training()

    def _check_sparse_start(self) -> None:
        schedule = self.pruning_schedule
        if not isinstance(schedule, SequentialAttentionSchedule):
            return
        if self._revised_until or not schedule.initial_sparsity:
            return
        raise ValueError(
            "`initial_sparsity` needs an importance whose logits have a rate of their "
            "own, such as sa.SoftmaxAttention(), and masked blocks that keep their "
            "values: without them the first choice would stay. Received: "
            f"pruning_schedule={schedule!r}, importance={self.importance!r}, "
            f"zero_pruned_weights={self.zero_pruned_weights!r}"
        )

    @staticmethod
    def _has_known_kernels(layer: Layer) -> bool:
        """Whether we know the kernels of a layer, even if it has none."""
        return layer_kernels.is_supported(layer) or layer_kernels.holds_no_kernel(layer)

    # Building.

    def build(self, input_shape: Any = None) -> None:
        if self._pruned or self.left_dense:
            self.built = True
            return
        super().build(input_shape)
        build_attention(self.layer)
        self._create_pruning_variables()

    def _create_pruning_variables(self) -> None:
        found = self._find_kernels()
        if not any(kernel.is_divided(self.block_size) for kernel in found):
            self.left_dense[self.layer.name] = (
                why_unprunable(self.layer) or "it has no kernel that can be pruned"
            )
        for kernel in found:
            if kernel.is_divided(self.block_size):
                self._create_kernel_variables(kernel)
            else:
                self.left_dense[kernel.name] = "it is removed with its heads"
        self.pruning_step = add_counter(self, "pruning_step")
        for name, reason in self.left_dense.items():
            logger.info("%s of layer %s stays dense: %s", name, self.layer.name, reason)

    def _find_kernels(self) -> list[layer_kernels.Kernel]:
        if layer_kernels.holds_no_kernel(self.layer):
            return []
        if self.pattern is not None:
            return layer_kernels.find_entries(self.layer)
        return layer_kernels.find_kernels(self.layer)

    def _create_kernel_variables(self, kernel: layer_kernels.Kernel) -> None:
        grid = kernel.grid(self.block_size)
        # A user with a minimum wants small kernels left alone, not an error.
        too_small = why_too_small(grid, self.min_blocks)
        if too_small and self.min_blocks > 1:
            self.left_dense[kernel.name] = too_small
            return
        if not grid.fits:
            raise ValueError(
                f"`block_size` {self.block_size} is larger than {kernel.name!r} of "
                f"layer {self.layer.name!r}, a {grid.matrix_shape[0]} x "
                f"{grid.matrix_shape[1]} matrix (kernel shape {grid.kernel_shape}). "
                "Use smaller blocks for this layer or leave it out by a pruning_policy."
            )
        name, start = kernel.name, self.importance.initial_logit
        mask = add_float(self, f"{name}/mask", grid.shape, 1.0, trainable=False)
        pruned = PrunedKernel(kernel, grid, mask, None)
        if start is not None:
            by_optimizer = self._logit_rate is None
            logits = add_float(self, f"{name}/logits", grid.shape, start, by_optimizer)
            self.logits.append(logits)
            pruned.logits = logits
            if not by_optimizer:
                pruned.scale_gradient = add_gradient_sum(
                    self, f"{name}/scale_gradient", grid.shape
                )
                pruned.mean_square = add_float(
                    self, f"{name}/mean_square", (), 0.0, trainable=False
                )
        self.masks.append(mask)
        self._pruned.append(pruned)
        if type(self.importance).prepare_kernel is not Importance.prepare_kernel:
            change_initial_value(
                kernel.variable,
                lambda value: self.importance.prepare_kernel(value, grid),
            )

    @property
    def _logit_rate(self) -> float | None:
        """Rate of the logits, or None if they are left to the optimizer.

        So they are, too, with a schedule that does not say when it ends, unless the
        importance has its own `new_logits`, which need no end.
        """
        needs_end = type(self.importance).new_logits is Importance.new_logits
        if needs_end and end_step(self.pruning_schedule) is None:
            return None
        return self.importance.logit_rate

    @property
    def steps_per_move(self) -> int | None:
        """Training steps between two moves of logits with a rate of their own."""
        if self._logit_rate is None:
            return None
        return logit_rate.steps_per_move(end_step(self.pruning_schedule) or 0)

    @property
    def pruned_kernels(self) -> list[PrunedKernel]:
        """The kernels that are pruned, with their variables. Empty before `build`."""
        return list(self._pruned)

    @property
    def computes_like(self) -> Layer:
        """The layer whose rule `sa.channel_groups` follows."""
        return self.layer

    @property
    def steps_begun(self) -> int:
        """Number of training steps begun, the step that the mask belongs to."""
        return int(self.pruning_step.numpy())

    @property
    def _density(self) -> float | None:
        """Share of the blocks that the schedule leaves, or None if unknown."""
        final = final_sparsity(self.pruning_schedule)
        return None if final is None else 1.0 - final

    # The forward pass.

    def importance_multipliers(self, pruned: PrunedKernel) -> tf.Tensor | None:
        """`A` of one kernel, float32 of its grid's shape; None means 1 everywhere."""
        return self.importance.multipliers(
            stored(pruned.kernel.variable),
            _stored_logits(pruned),
            pruned.grid,
            self._density,
        )

    def block_multipliers(self, pruned: PrunedKernel) -> tf.Tensor:
        """`A * mask` of one kernel: float32 tensor of its grid's shape."""
        multipliers = self.importance_multipliers(pruned)
        mask = stored(pruned.mask)
        return mask if multipliers is None else multipliers * mask

    def effective_kernel(self, pruned: PrunedKernel) -> tf.Tensor:
        """`W * A * mask` of one kernel, times its gain (`rate_gain`).

        In the kernel's shape and stored dtype.
        """
        kernel, adder = stored(pruned.kernel.variable), self.gradient_adder(pruned)
        if self.pattern is None or self.pattern.gradient == "damped":
            multipliers, gain = self.block_multipliers(pruned), self.rate_gain(pruned)
            return blocks.scale_blocks(kernel, multipliers, pruned.grid, adder, gain)
        multipliers = self.importance_multipliers(pruned)
        if multipliers is not None:
            kernel = blocks.scale_blocks(kernel, multipliers, pruned.grid, adder)
        mask = blocks.expand_blocks(stored(pruned.mask), pruned.grid)
        return n_of_m.apply_mask(kernel, mask, self.pattern.gradient)

    def rate_gain(
        self, pruned: PrunedKernel, mask: tf.Tensor | None = None
    ) -> tf.Tensor | None:
        """Factor of the learning rate of one kernel, float32 scalar; None means 1.

        Args:
          pruned: the kernel.
          mask: its mask; by default that of now.
        """
        schedule: Any = self.pruning_schedule
        power = self._rate_power(pruned)
        if not power:
            return None
        mask = stored(pruned.mask) if mask is None else mask
        return kernel_rate.rate_gain(
            mask, power, getattr(schedule, "initial_sparsity", 0.0)
        )

    @property
    def _prunes_blocks(self) -> bool:
        """Whether it prunes blocks, rather than single entries or channels."""
        return self.pattern is None and not isinstance(self.layer, ChannelUnits)

    def _rate_power(self, pruned: PrunedKernel) -> float:
        """Power of the density in the learning rate of a kernel.

        Channels, features and single entries were measured without it. What multiplies
        the blocks must not depend on the stored kernel, nor may that be too coarse to
        be divided again and again.
        """
        independent = isinstance(self.importance, SoftmaxAttention) or (
            type(self.importance).multipliers is Importance.multipliers
        )
        fine = tf.as_dtype(pruned.kernel.variable.dtype).size >= 4
        if self._prunes_blocks and independent and fine:
            return rate_power(self.pruning_schedule)
        return 0.0

    def gradient_adder(
        self, pruned: PrunedKernel
    ) -> Callable[[tf.Tensor], None] | None:
        """What sums the gradients in the multipliers, where the logits need them.

        What is not finite is left out.
        """
        total = pruned.scale_gradient
        if total is None:
            return None

        def add(gradient: tf.Tensor) -> None:
            finite = tf.where(tf.math.is_finite(gradient), gradient, 0.0)
            add_to(total, tf.reshape(finite, pruned.grid.shape))

        return add

    def _require_counted_steps(self, kernel: tf.Tensor) -> tf.Tensor:
        """Identity whose backward pass raises if nothing counts the steps.

        Training always passes backward through the kernel, whereas a model may forget
        to pass on `training`. The check runs when the training step is traced, so it
        costs nothing afterwards.
        """
        # TensorFlow never frees a custom gradient that it has traced.
        wrapper = weakref.ref(self)

        @tf.custom_gradient
        def check(
            value: tf.Tensor,
        ) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
            def gradient(upstream: tf.Tensor) -> tf.Tensor:
                # Saving traces this gradient too, only to store it.
                saving = save_context.in_save_context()
                layer = wrapper()
                if layer is not None and not (layer.steps_are_counted or saving):
                    raise RuntimeError(NOT_COUNTED.format(name=layer.name))
                return upstream

            return tf.identity(value), gradient

        return check(kernel)

    @contextlib.contextmanager
    def _effective_kernels(self) -> Iterator[None]:
        """Context in which the layer computes with the effective kernels."""
        with contextlib.ExitStack() as undo:
            for pruned in self._pruned:
                if pruned.kept_call is not None:
                    undo.callback(self._replace_call(pruned, pruned.kept_call))
                    continue
                kernel = self._require_counted_steps(self.effective_kernel(pruned))
                dtype = pruned.kernel.owner.compute_dtype
                undo.callback(pruned.kernel.replace(tf.cast(kernel, dtype)))
            yield

    def _replace_call(
        self, pruned: PrunedKernel, kept_call: Callable[..., tf.Tensor]
    ) -> Callable[[], object]:
        """Lets the layer that holds a kernel compute from kept blocks.

        Returns:
          What undoes it.
        """
        call = functools.partial(
            kept_call,
            self._require_counted_steps(stored(pruned.kernel.variable)),
            self.block_multipliers(pruned),
            self.gradient_adder(pruned),
            self.rate_gain(pruned),
        )
        attributes = pruned.kernel.owner.__dict__
        attributes["call"] = call
        return lambda: attributes.pop("call")

    def _call_layer(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the layer with its effective kernels."""
        for pruned in self._pruned:
            penalty = self.importance.penalty(_stored_logits(pruned))
            if penalty is not None:
                self.add_loss(penalty)
            # It may have been changed since it was wrapped.
            layer_kernels.check_plain(pruned.kernel.owner)
        with self._effective_kernels():
            return self.layer(*args, **kwargs)

    # Pruning.

    def move_logits(self, steps: tf.Tensor) -> None:
        """Moves the logits that have a rate of their own by the last steps' gradient.

        Args:
          steps: int64 scalar, number of steps since the last call.
        """
        rate, end = self._logit_rate, end_step(self.pruning_schedule)
        if rate is None:
            return
        done = tf.cast(stored(self.pruning_step), tf.float32)
        number = tf.cast(steps, tf.float32)
        for pruned in self._pruned:
            if pruned.scale_gradient is None or pruned.mean_square is None:
                continue
            assert pruned.logits is not None
            logits, total = stored(pruned.logits), stored(pruned.scale_gradient)
            pruned.scale_gradient.assign(tf.zeros_like(logits))
            new = self.importance.new_logits(logits, total, number)
            if new is not None:
                pruned.logits.assign(new)
                continue
            assert end is not None
            gradient = logit_rate.logit_gradient(
                self.importance,
                stored(pruned.kernel.variable),
                logits,
                self._competing(pruned),
                pruned.grid,
                self._density,
                total,
            )
            mean_square = logit_rate.mean_square_after(
                stored(pruned.mean_square), gradient, number
            )
            step = logit_rate.logit_step(gradient, mean_square, rate, done, max(1, end))
            pruned.logits.assign(logits - step)
            pruned.mean_square.assign(mean_square)

    def update_masks(self, sparsity: float | tf.Tensor) -> None:
        """Updates the mask of every kernel to `sparsity`, a scalar in [0, 1)."""
        if isinstance(self.layer, ChannelUnits):
            self.layer.measure(isinstance(self.importance, NormalizationScale))
        for pruned in self._pruned:
            kernel = stored(pruned.kernel.variable)
            scores = self.importance.scores(kernel, _stored_logits(pruned), pruned.grid)
            mask = self._new_mask(pruned, self._competing(pruned), scores, sparsity)
            gain, new_gain = self.rate_gain(pruned), self.rate_gain(pruned, mask)
            pruned.mask.assign(mask)
            changed = kernel
            if gain is not None and new_gain is not None:
                # The layer computes what it did.
                changed *= tf.cast(gain / new_gain, kernel.dtype)
            if self.zero_pruned_weights:
                kept = tf.cast(mask > 0, tf.float32)
                changed = blocks.scale_blocks(changed, kept, pruned.grid)
            if changed is not kernel:
                pruned.kernel.variable.assign(
                    tf.cast(changed, pruned.kernel.variable.dtype)
                )

    @property
    def _revised_until(self) -> int:
        """The step before which masked blocks compete with the others, or 0.

        They can if their logits learn, from values that they keep. Channels, features
        and single entries were measured without it, and do it only if they must, since
        they begin sparse.
        """
        learns = self._logit_rate is not None and (
            type(self.importance).new_logits is Importance.new_logits
        )
        if not learns or self.zero_pruned_weights:
            return 0
        schedule: Any = self.pruning_schedule
        begins_sparse = getattr(schedule, "initial_sparsity", None)
        return revised_until(schedule) if self._prunes_blocks or begins_sparse else 0

    def _competing(self, pruned: PrunedKernel) -> tf.Tensor:
        """Ones for the blocks of which the next mask is chosen, and whose logits learn.

        Those of the mask, or all as long as it is revised.
        """
        mask, until = stored(pruned.mask), self._revised_until
        if not until:
            return mask
        return tf.where(stored(self.pruning_step) < until, tf.ones_like(mask), mask)

    def _new_mask(
        self,
        pruned: PrunedKernel,
        mask: tf.Tensor,
        scores: tf.Tensor,
        sparsity: float | tf.Tensor,
    ) -> tf.Tensor:
        if isinstance(self.layer, ChannelUnits):
            sparsity = self.layer.rounded(sparsity)
        if self.pattern is None:
            return support.update_mask(mask, scores, sparsity, self.balanced)
        run = layer_kernels.entries_side_by_side(pruned.kernel, pruned.grid)
        return self.pattern.mask(scores, sparsity, run)

    def is_at_target(self, pruned: PrunedKernel) -> bool:
        """Whether the mask of one kernel has reached the final sparsity.

        True for a schedule that does not say how it ends.
        """
        final = final_sparsity(self.pruning_schedule)
        if final is None:
            return True
        mask = stored(pruned.mask)
        wanted = self._new_mask(
            pruned,
            tf.ones_like(mask),
            tf.zeros_like(mask),
            tf.constant(final, tf.float32),
        )
        return bool(np.count_nonzero(mask) <= np.count_nonzero(wanted))

    def _prune_without_training(self) -> None:
        """Applies what the schedule asks for at step 0, before any training."""
        if isinstance(self.layer, ChannelUnits) and not self.layer.users():
            # It is called again once there are kernels to score.
            return
        sparsity = update_at(self.pruning_schedule, 0)
        if sparsity:
            # In float32, as in training: the number of blocks is rounded.
            self.update_masks(tf.constant(sparsity, tf.float32))

    # The interface of a Keras wrapper.

    def compute_output_shape(self, input_shape: Any) -> Any:
        return self.layer.compute_output_shape(input_shape)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "pruning_schedule": self.pruning_schedule.get_config(),
            "block_size": _block_size_config(self.block_size),
            "importance": _serialize_importance(self.importance, keras_of(self)),
            "min_blocks": self.min_blocks,
            "zero_pruned_weights": self.zero_pruned_weights,
            "balanced": self.balanced,
            "pattern": self.pattern and dataclasses.asdict(self.pattern),
        }

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None
    ) -> "PrunableLayer":
        config = dict(config)
        config.pop("dtype", None)
        library = keras3 if issubclass(cls, keras3.layers.Layer) else keras2
        layer = library.layers.deserialize(
            config.pop("layer"), custom_objects=custom_objects
        )
        schedule = _deserialize(config.pop("pruning_schedule"))
        importance = _deserialize(config.pop("importance"))
        return cls(layer, schedule, importance=importance, **config)


def _block_size_config(block_size: BlockSize) -> str | list[int | None]:
    return block_size if isinstance(block_size, str) else list(block_size)


def _stored_logits(pruned: PrunedKernel) -> tf.Tensor | None:
    return None if pruned.logits is None else stored(pruned.logits)


class _PrunableLayer2(PrunableLayer, CallingLikeItsLayer2):
    """The wrapper as a layer of Keras 2."""


class _PrunableLayer3(PrunableLayer, CallingLikeItsLayer3):
    """The wrapper as a layer of Keras 3."""


KINDS = register_pair({keras2: _PrunableLayer2, keras3: _PrunableLayer3})


def pruned_layers(model: Model) -> list[PrunableLayer]:
    """Returns every `PrunableLayer` in a model, however deeply nested, each once.

    Args:
      model: a layer or model.
    """
    return [m for m in submodules(model) if isinstance(m, PrunableLayer)]
