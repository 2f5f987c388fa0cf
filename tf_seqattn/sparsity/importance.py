"""What to score: how important each block is, and how that acts on the kernel.

An importance answers three questions about a kernel `W` cut into blocks, each with a
plain function of tensors. What multiplies each block in the forward pass
(`multipliers`)? What ranks the blocks when some must go (`scores`)? What is added to
the loss (`penalty`)?
"""

import abc
import math
from typing import Any

import tensorflow as tf

from tf_seqattn.keras_api import register
from tf_seqattn.kernels import blocks


def softmax_attention(logits: tf.Tensor) -> tf.Tensor:
    """Softmax over all blocks, scaled to mean 1 (section 3, algorithm 1).

    Args:
      logits: float tensor (block rows, block columns).

    Returns:
      `N * softmax(logits)`, same shape: 1 everywhere when all logits are equal.

    Example:

    >>> softmax_attention(tf.zeros((2, 2))).numpy().tolist()
    [[1.0, 1.0], [1.0, 1.0]]
    """
    flat = tf.reshape(logits, [-1])
    attention = tf.nn.softmax(flat) * tf.cast(tf.size(flat), flat.dtype)
    return tf.reshape(attention, logits.shape)


# Activation name: (function of the logits, the logit at which it is 1).
_ACTIVATIONS = {
    "softmax": (softmax_attention, 0.0),
    "exp": (tf.exp, 0.0),
    "sigmoid": (lambda logits: 2.0 * tf.sigmoid(logits), 0.0),
    "identity": (tf.identity, 1.0),
}


# What ranks the blocks of `SoftmaxAttention`, and the power of the norm in it.
_NORM_POWERS = {"attention": 0.0, "effective": 1.0}
# By default, of a matrix and of a kernel of more dimensions.
_OF_MATRICES, _OF_OTHERS = 0.125, 1.0


class Importance(abc.ABC):
    """Base of the three importances; subclass it for a criterion of your own.

    Attributes:
      initial_logit: initial value of the trainable logit of each block, or None if the
        importance has no logits.
      logit_rate: how far the logits may move over the whole schedule, or None to leave
        them to the optimizer of the training.
    """

    initial_logit: float | None = None
    logit_rate: float | None = None

    def prepare_kernel(
        self, kernel: tf.Tensor, grid: blocks.BlockGrid
    ) -> tf.Tensor | None:
        """Returns the kernel to store, so that the layer starts with the same function.

        The default is None: the kernel stays as it is.
        """
        del kernel, grid
        return None

    def multipliers(
        self,
        kernel: tf.Tensor,
        logits: tf.Tensor | None,
        grid: blocks.BlockGrid,
        density: float | None,
    ) -> tf.Tensor | None:
        """Returns what each block is multiplied by, `grid.shape`; None means 1.

        Args:
          kernel: float tensor of `grid.kernel_shape`.
          logits: float32 tensor of `grid.shape`, or None.
          grid: the kernel's `BlockGrid`.
          density: `1 - target sparsity` of the schedule, or None if unknown.
        """
        del kernel, logits, grid, density
        return None

    @abc.abstractmethod
    def scores(
        self, kernel: tf.Tensor, logits: tf.Tensor | None, grid: blocks.BlockGrid
    ) -> tf.Tensor:
        """Returns the rank value of each block, `grid.shape`; larger is kept."""

    def penalty(self, logits: tf.Tensor | None) -> tf.Tensor | None:
        """Returns a scalar to add to the loss, or None."""
        del logits
        return None

    def new_logits(
        self, logits: tf.Tensor, gradient: tf.Tensor, steps: tf.Tensor
    ) -> tf.Tensor | None:
        """Returns the logits after some training steps.

        The default is None: they descend the gradient, at `logit_rate`.

        Args:
          logits: float32 tensor of `grid.shape`.
          gradient: same shape: the gradient of the loss in what multiplies each block,
            summed over the steps.
          steps: float32 scalar, number of them.
        """
        del logits, gradient, steps
        return None

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Importance":
        """Inverse of `get_config`."""
        return cls(**config)

    def __eq__(self, other: Any) -> bool:
        return type(self) is type(other) and self.get_config() == other.get_config()

    def __hash__(self) -> int:
        return hash((type(self).__name__, repr(self.get_config())))

    def __repr__(self) -> str:
        listed = ", ".join(f"{k}={v!r}" for k, v in self.get_config().items())
        return f"{type(self).__name__}({listed})"


@register
class SoftmaxAttention(Importance):
    """One trainable logit per block, softmax over the blocks (section 3).

    The attention multiplies the block in the forward pass and, with a power of the
    block's norm, ranks it when blocks must go. `SoftmaxAttention.paper()` ranks by the
    attention alone. It is 1 everywhere at the start, so wrapping a trained layer
    does not change what it computes.

    Args:
      activation: function from logits to attention. "softmax" (the paper's, mean 1);
        "exp", the unnormalised softmax of lemma 2.1; "sigmoid", scaled to 1 at
        logit 0; "identity", the mask itself, starting at 1 (lemma 2.2 with `l1`).
      rank: what ranks a block: a float `p` in [0, 1] for `attention * norm ** p`, with
        its Frobenius norm; "effective", the norm of what the layer computes with, is
        1, and "attention" alone, as in the paper, is 0. A small power lets a slight
        attention decide, which disturbs the training less than a strong one. None is
        0.125 for kernels that are matrices, and 1 for those of more dimensions, such
        as a convolution's or a projection of attention.
      clip: "density" clips the attention to `[d, 1 / d]`, `d = 1 - target sparsity`
        (appendix C.1, which prints `[n d, n / d]`: that is read here as bounds on the
        mean-1 attention, the reading taken throughout); a pair of floats gives
        bounds; None does not clip. Ranking uses the attention before clipping.
      l1: weight of an L1 penalty on the attention (lemma 2.2).
      l2: weight of an L2 penalty on the logits (appendix C.1: weight decay helps on
        the logits too; an optimizer's own decay reaches them as well).
      logit_rate: how far a logit may move over the whole schedule, about. The logits
        then follow their gradient divided by its typical size in the kernel, so that
        one rate serves every optimizer, learning rate and length of training. None
        leaves them to the optimizer that trains the kernels, as the paper does.

    Raises:
      ValueError: for an unknown activation, bad bounds or a negative weight.

    Example:

    >>> importance = SoftmaxAttention()
    >>> grid = blocks.BlockGrid((4, 4), (2, 2))
    >>> logits = tf.math.log([[1., 1.], [1., 5.]])
    >>> importance.multipliers(None, logits, grid, density=0.5).numpy().tolist()
    [[0.5, 0.5], [0.5, 2.0]]
    """

    def __init__(
        self,
        activation: str = "softmax",
        clip: str | tuple[float, float] | None = "density",
        l1: float = 0.0,
        l2: float = 0.0,
        rank: str | float | None = None,
        logit_rate: float | None = 0.5,
    ) -> None:
        if logit_rate is not None and not 0.0 < logit_rate < math.inf:
            raise ValueError(
                "`logit_rate` must be above 0, or None to leave the logits to the "
                f"optimizer. Received: logit_rate={logit_rate!r}"
            )
        norm_power = _NORM_POWERS.get(rank) if isinstance(rank, str) else rank
        is_power = isinstance(norm_power, int | float) and 0.0 <= norm_power <= 1.0
        if rank is not None and not is_power:
            raise ValueError(
                f"`rank` must be one of {sorted(_NORM_POWERS)}, the power of the norm, "
                f"a float in [0, 1], or None. Received: rank={rank!r}"
            )
        if activation not in _ACTIVATIONS:
            raise ValueError(
                f"`activation` must be one of {sorted(_ACTIVATIONS)}. "
                f"Received: activation={activation!r}"
            )
        if clip is not None and clip != "density":
            bounds = () if isinstance(clip, str) else tuple(float(b) for b in clip)
            if len(bounds) != 2 or not bounds[0] < bounds[1]:
                raise ValueError(
                    '`clip` must be "density", None or a pair (low, high) with '
                    f"low < high. Received: clip={clip!r}"
                )
            clip = (bounds[0], bounds[1])
        for name, value in (("l1", l1), ("l2", l2)):
            if value < 0:
                raise ValueError(
                    f"`{name}` must not be negative. Received: {name}={value!r}"
                )
        self.activation = activation
        self.rank = rank
        self._norm_power = norm_power
        self.logit_rate = None if logit_rate is None else float(logit_rate)
        self.clip = clip
        self.l1 = float(l1)
        self.l2 = float(l2)
        self._activate, self.initial_logit = _ACTIVATIONS[activation]

    def attention(self, logits: tf.Tensor) -> tf.Tensor:
        """Returns the attention before clipping, like `logits`."""
        return self._activate(logits)

    def _bounds(self, density: float | None) -> tuple[float, float] | None:
        if self.clip != "density":
            return self.clip  # type: ignore[return-value]
        # At density 1 nothing is to be pruned and the bounds would freeze the logits.
        if density is None or density >= 1.0:
            return None
        return density, 1.0 / density

    def multipliers(
        self,
        kernel: tf.Tensor,
        logits: tf.Tensor,
        grid: blocks.BlockGrid,
        density: float | None,
    ) -> tf.Tensor:
        del kernel, grid
        attention = self.attention(logits)
        bounds = self._bounds(density)
        return tf.clip_by_value(attention, *bounds) if bounds else attention

    def scores(
        self, kernel: tf.Tensor, logits: tf.Tensor, grid: blocks.BlockGrid
    ) -> tf.Tensor:
        attention = self.attention(logits)
        norms = blocks.block_norms(kernel, grid)
        power = self._norm_power
        if power is None:
            power = _OF_MATRICES if len(grid.kernel_shape) == 2 else _OF_OTHERS
        if power:
            return tf.abs(attention) * tf.pow(norms, power)
        # Untrained logits rank nothing; the blocks' norms then do.
        untrained = tf.reduce_all(logits == tf.reshape(logits, [-1])[0])
        return tf.where(untrained, norms, attention)

    def penalty(self, logits: tf.Tensor) -> tf.Tensor | None:
        if not self.l1 and not self.l2:
            return None
        l1 = self.l1 * tf.reduce_sum(tf.abs(self.attention(logits)))
        return l1 + self.l2 * tf.reduce_sum(tf.square(logits))

    def get_config(self) -> dict[str, Any]:
        return {
            "activation": self.activation,
            "clip": self.clip,
            "l1": self.l1,
            "l2": self.l2,
            "rank": self.rank,
            "logit_rate": self.logit_rate,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "SoftmaxAttention":
        # Files written before there was a choice follow the paper.
        return cls(**{"rank": "attention", "logit_rate": None, **config})

    @classmethod
    def paper(cls, l2: float = 0.0) -> "SoftmaxAttention":
        """Returns the paper's importance.

        Blocks are ranked by the attention alone, and the optimizer of the training
        moves the logits.

        Args:
          l2: weight of an L2 penalty on the logits.
        """
        return cls(l2=l2, rank="attention", logit_rate=None)


@register
class Magnitude(Importance):
    """Ranks blocks by their Frobenius norm (section 4.1).

    Example:

    >>> grid = blocks.BlockGrid((2, 4), (2, 2))
    >>> Magnitude().scores(tf.ones((2, 4)), None, grid).numpy().tolist()
    [[2.0, 2.0]]
    """

    def scores(
        self, kernel: tf.Tensor, logits: tf.Tensor | None, grid: blocks.BlockGrid
    ) -> tf.Tensor:
        del logits
        return blocks.block_norms(kernel, grid)


@register
class Taylor(Importance):
    """Ranks blocks by how much the loss would change without them, to first order.

    If block `W_b` were multiplied by 0 in place of 1, the loss would change by about
    `sum(W_b * gradient)`. The score is the mean square of that over the last steps
    ("Importance estimation for neural network pruning", arXiv 1906.10771). With
    `sa.OneShotSchedule(sparsity, prune_step=10)` a network is pruned at its
    initialization by the first eight batches, as SNIP does by single weights (arXiv
    1810.02340). A mask knows the gradients up to two steps before its own; until then,
    at `prune_step` 1 and 2, the norm ranks.

    Args:
      decay: how much of the mean is kept in a step, in [0, 1).

    Raises:
      ValueError: if `decay` is out of range.

    Example:

    >>> Taylor(decay=0.5).new_logits(
    ...     tf.zeros((1, 2)), tf.constant([[1.0, 2.0]]), tf.constant(1.0)
    ... ).numpy().tolist()
    [[0.5, 2.0]]
    """

    initial_logit = 0.0
    # The gradient is collected, and nothing descends it.
    logit_rate = 1.0

    def __init__(self, decay: float = 0.99) -> None:
        if not 0.0 <= decay < 1.0:
            raise ValueError(
                f"`decay` must be at least 0 and below 1. Received: decay={decay!r}"
            )
        self.decay = float(decay)

    def scores(
        self, kernel: tf.Tensor, logits: tf.Tensor, grid: blocks.BlockGrid
    ) -> tf.Tensor:
        unseen = tf.reduce_all(logits == 0)
        return tf.where(unseen, blocks.block_norms(kernel, grid), logits)

    def new_logits(
        self, logits: tf.Tensor, gradient: tf.Tensor, steps: tf.Tensor
    ) -> tf.Tensor:
        kept = tf.pow(self.decay, steps)
        return kept * logits + (1.0 - kept) * tf.square(gradient / steps)

    def get_config(self) -> dict[str, Any]:
        return {"decay": self.decay}


@register
class NormalizationScale(Magnitude):
    """Ranks channels by the scale that their batch normalization gives them.

    For `block_size="channels"` alone. Train with a penalty that drives needless scales
    to 0, `BatchNormalization(gamma_regularizer=keras.regularizers.L1(1e-4))` ("Learning
    efficient convolutional networks through network slimming", arXiv 1708.06519). All
    scales are 1 at the start, so let some steps pass before the first removal
    (`begin_step`). Channels that no batch normalization scales are left alone.

    Example:

    >>> NormalizationScale()
    NormalizationScale()
    """


@register
class PowerPropagation(Importance):
    """Each block times its own Frobenius norm (section 4.1, lemma 2.3).

    The stored kernel is rescaled once so that training starts from the function
    the layer had: block `W_b` is stored as `W_b / sqrt(||W_b||)`.

    Example:

    >>> grid = blocks.BlockGrid((2, 4), (2, 2))
    >>> PowerPropagation().multipliers(tf.ones((2, 4)), None, grid, None).numpy()
    array([[2., 2.]], dtype=float32)
    """

    def prepare_kernel(self, kernel: tf.Tensor, grid: blocks.BlockGrid) -> tf.Tensor:
        norms = blocks.block_norms(kernel, grid)
        return blocks.scale_blocks(
            kernel, tf.where(norms > 0, tf.math.rsqrt(norms), 0.0), grid
        )

    def multipliers(
        self,
        kernel: tf.Tensor,
        logits: tf.Tensor | None,
        grid: blocks.BlockGrid,
        density: float | None,
    ) -> tf.Tensor:
        del logits, density
        squares = blocks.sum_blocks(tf.square(tf.cast(kernel, tf.float32)), grid)
        # The norm of a zero block has no gradient; a tiny floor gives it 0.
        return tf.sqrt(tf.maximum(squares, 1e-30))

    def scores(
        self, kernel: tf.Tensor, logits: tf.Tensor | None, grid: blocks.BlockGrid
    ) -> tf.Tensor:
        del logits
        return blocks.block_norms(kernel, grid)


def attention_entropy(attention: tf.Tensor) -> tf.Tensor:
    """Entropy of the attention divided by that of uniform attention, in [0, 1].

    Example:

    >>> float(attention_entropy(tf.ones((4, 4))))
    1.0
    """
    flat = tf.abs(tf.reshape(attention, [-1]))
    if flat.shape[0] == 1:
        return tf.ones([], flat.dtype)
    share = flat / tf.reduce_sum(flat)
    entropy = -tf.reduce_sum(tf.math.multiply_no_nan(tf.math.log(share), share))
    return entropy / math.log(flat.shape[0])
