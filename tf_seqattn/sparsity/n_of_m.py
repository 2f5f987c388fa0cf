"""N:M sparsity: of every M consecutive inputs of an output, N stay.

Some GPUs multiply 2:4 fast. Nothing that this package exports to does, for 2:4 or any
other pattern: there the entries are zeros. An importance scores which entries stay, as
for blocks. The others are not cut off at once, so that gradients reach
them for long ("Progressive Gradient Flow for Robust N:M Sparsity Training in
Transformers", arXiv 2402.04744): their mask decays, or the pattern tightens in frames.
Plain functions of tensors.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

MASK_DECAYS = ("linear", "exponential")
STRUCTURE_DECAYS = ("stepwise", "geometric")
GRADIENTS = ("damped", "straight", "regularized")
# Of the mask of what goes, over that of what stays, at the end of an exponential decay.
_LAST = 0.01
# SR-STE's pull of what is masked towards 0 (arXiv 2102.04010).
_PULL = 2e-4


def check_pattern(pattern: str) -> tuple[int, int]:
    """Returns the `(N, M)` of a pattern "N:M".

    Raises:
      ValueError: unless it is a string of two integers, 0 < N < M.

    Example:

    >>> check_pattern("2:4")
    (2, 4)
    """
    parts = pattern.split(":") if isinstance(pattern, str) else ()
    if len(parts) == 2 and all(part.strip().isdecimal() for part in parts):
        kept, group = map(int, parts)
        if 0 < kept < group:
            return kept, group
    raise ValueError(
        '`pattern` must be "N:M" with 0 < N < M, such as "2:4": of every M consecutive '
        f"inputs of an output, N stay. Received: pattern={pattern!r}"
    )


@dataclasses.dataclass(frozen=True)
class NofM:
    """A pattern of single entries, and the way to it.

    Give it as `pattern=` to `sa.prune` or `sa.PrunableLayer`, where `"2:4"` stands for
    `NofM("2:4")`. Progress is the sparsity of the schedule over its target, so
    `sa.GradualSchedule(..., power=1)` makes it even.

    Args:
      pattern: "N:M", such as "2:4".
      decay: how the others go as progress rises from 0 to 1. "linear": their mask is
        1 - progress. "exponential": it falls from 1 to 0 as a power of 0.01.
        "stepwise": they are cut off, first to M - 1 of M, then to M / 2, M / 4 and so
        on until N, in frames of equal progress. "geometric": likewise 8 N of 8 M, 4 N
        of 4 M, 2 N of 2 M, N of M.
      gradient: what reaches a masked entry. "damped": its gradient times its mask, as
        the paper's text says. "straight": all of it, as the paper's code does.
        "regularized": all of it, and a pull to 0 of 2e-4 times the weight where the
        mask is not 1. With a schedule that begins at its target that is SR-STE.
      every_step: whether the choice is made anew before every training step, to the
        end, as the paper's code does; otherwise at the updates of the schedule alone.

    Raises:
      ValueError: for a value outside these.

    Example:

    >>> sa.NofM("1:8", decay="geometric", gradient="straight").kept
    1
    """

    pattern: str
    decay: str = "linear"
    gradient: str = "damped"
    every_step: bool = False

    def __post_init__(self) -> None:
        check_pattern(self.pattern)
        for name, known in (
            ("decay", MASK_DECAYS + STRUCTURE_DECAYS),
            ("gradient", GRADIENTS),
        ):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"`{name}` must be one of {', '.join(known)}. Received: "
                    f"{name}={getattr(self, name)!r}"
                )

    @property
    def kept(self) -> int:
        """N."""
        return check_pattern(self.pattern)[0]

    @property
    def group(self) -> int:
        """M."""
        return check_pattern(self.pattern)[1]

    @property
    def sparsity(self) -> float:
        """`1 - N / M`."""
        return 1.0 - self.kept / self.group

    def mask(
        self, scores: tf.Tensor, sparsity: float | tf.Tensor, run: int | None = None
    ) -> tf.Tensor:
        """The mask at a sparsity of the schedule.

        Args:
          scores: float tensor (inputs, outputs); larger is more important.
          sparsity: scalar, from 0 to `self.sparsity`.
          run: as for `keep_n_of_m`.

        Returns:
          float32 tensor like `scores`, from 0 to 1; at sparsity 0 all ones.
        """
        progress = _progress(sparsity, self.sparsity)
        if self.decay in MASK_DECAYS:
            best = keep_n_of_m(scores, self.kept, self.group, run)
            if self.decay == "linear":
                return decaying_mask(best, 1.0 - progress)
            return decaying_mask(best, (_LAST**progress - _LAST) / (1.0 - _LAST))
        frames = frames_of(self.kept, self.group, self.decay)
        at = tf.cast(tf.floor(progress * len(frames)), tf.int32)
        masks = [
            lambda kept=kept, group=group: keep_n_of_m(scores, kept, group, run)
            for kept, group in frames
        ]
        return tf.cond(
            progress > 0.0,
            lambda: tf.switch_case(tf.minimum(at, len(frames) - 1), masks),
            lambda: tf.ones_like(scores, tf.float32),
        )

    @classmethod
    def of(cls, pattern: "str | NofM | Mapping[str, Any]") -> "NofM":
        """The pattern that a user, or a saved layer, gives."""
        if isinstance(pattern, NofM):
            return pattern
        return cls(**pattern) if isinstance(pattern, Mapping) else cls(pattern)


def frames_of(kept: int, group: int, decay: str) -> list[tuple[int, int]]:
    """The patterns (N, M) of a structure decay, one after another.

    Args:
      kept: N of the last one.
      group: M of the last one.
      decay: "stepwise" or "geometric".

    Example:

    >>> frames_of(1, 8, "stepwise"), frames_of(2, 4, "geometric")
    ([(7, 8), (4, 8), (2, 8), (1, 8)], [(16, 32), (8, 16), (4, 8), (2, 4)])
    """
    if decay == "geometric":
        return [(kept * by, group * by) for by in (8, 4, 2, 1)]
    counts, halved = [group - 1], group // 2
    while halved > kept:
        counts.append(halved)
        halved //= 2
    counts.append(kept)
    return [(count, group) for count in dict.fromkeys(counts)]


def _progress(sparsity: float | tf.Tensor, final_sparsity: float) -> tf.Tensor:
    progress = tf.cast(sparsity, tf.float32) / final_sparsity
    # A schedule's target in float32 may fall short of the final sparsity by a rounding.
    return tf.where(progress > 1.0 - 1e-6, 1.0, progress)


def keep_n_of_m(
    scores: tf.Tensor, kept: int, group: int, run: int | None = None
) -> tf.Tensor:
    """Marks the best `kept` of every `group` consecutive rows, in each column.

    Args:
      scores: float tensor (inputs, outputs); larger is more important. Equal scores
        are ranked by position, first one kept.
      kept: N, how many stay.
      group: M, of how many. The last group of a run has fewer if M does not divide it;
        at most N of it stay.
      run: rows after which groups begin anew, such as the channels of a convolution, so
        that no group has inputs of two places. All rows by default.

    Returns:
      float32 tensor like `scores`: 1 for those that stay, 0 elsewhere.

    Example:

    >>> scores = tf.constant([[4.], [1.], [3.], [2.], [0.], [5.], [6.], [7.]])
    >>> tf.reshape(keep_n_of_m(scores, 2, 4), [-1]).numpy().tolist()
    [1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0, 1.0]
    >>> tf.reshape(keep_n_of_m(scores, 1, 4, run=2), [-1]).numpy().tolist()
    [1.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 1.0]
    """
    inputs, outputs = scores.shape
    run = inputs if run is None else run
    scores = tf.cast(scores, tf.float32)
    # A score that is not a number ranks below every finite one, and padding below that.
    scores = tf.where(tf.math.is_finite(scores), scores, scores.dtype.min)
    runs = tf.reshape(scores, (inputs // run, run, outputs))
    padding = [[0, 0], [0, -run % group], [0, 0]]
    runs = tf.pad(runs, padding, constant_values=-float("inf"))
    groups = tf.reshape(runs, (-1, group, outputs))
    _, best = tf.math.top_k(tf.transpose(groups, (0, 2, 1)), kept)
    chosen = tf.reduce_sum(tf.one_hot(best, group), axis=2)
    chosen = tf.reshape(tf.transpose(chosen, (0, 2, 1)), tf.shape(runs))
    return tf.reshape(chosen[:, :run], (inputs, outputs))


def decaying_mask(support: tf.Tensor, left: float | tf.Tensor) -> tf.Tensor:
    """1 for what stays, and `left` for the rest.

    Args:
      support: float tensor of zeros and ones.
      left: scalar from 1, before anything goes, to 0.

    Returns:
      Tensor like `support`.

    Example:

    >>> decaying_mask(tf.constant([1., 0.]), 0.5).numpy().tolist()
    [1.0, 0.5]
    """
    return tf.maximum(support, left)


def apply_mask(
    kernel: tf.Tensor, mask: tf.Tensor, gradient: str = "straight"
) -> tf.Tensor:
    """`kernel * mask`, whose gradient goes straight through to the kernel.

    Args:
      kernel: float tensor.
      mask: tensor of its shape, from 0 to 1.
      gradient: "straight", or "regularized", which adds a pull to 0 of what is masked.

    Example:

    >>> kernel, mask = tf.constant([3., -2.]), tf.constant([1., 0.])
    >>> with tf.GradientTape() as tape:
    ...     tape.watch(kernel)
    ...     masked = apply_mask(kernel, mask, "regularized")
    >>> masked.numpy().tolist()
    [3.0, -0.0]
    >>> [round(float(g), 4) for g in tape.gradient(masked, kernel)]
    [1.0, 0.9996]
    """
    mask = tf.cast(mask, kernel.dtype)

    @tf.custom_gradient
    def masked(
        kernel: tf.Tensor,
    ) -> tuple[tf.Tensor, Callable[[tf.Tensor], tf.Tensor]]:
        def back(upstream: tf.Tensor) -> tf.Tensor:
            if gradient == "straight":
                return upstream
            return upstream + _PULL * (1.0 - mask) * kernel

        return kernel * mask, back

    return masked(kernel)
