"""The learning rate of the logits: the same whatever optimizer trains the kernels.

An optimizer such as Adam divides the gradient of every logit by that logit's own
typical size, and so makes blocks that matter and blocks that do not move alike. SGD's
rate is chosen for kernels, and moves logits hardly at all. Here the gradient is divided
by its typical size over all blocks of the kernel. The rate is a distance in all, spread
over the training, so that a short training and a long one move the logits as far.
"""

import tensorflow as tf

from tf_seqattn.kernels import blocks
from tf_seqattn.sparsity.importance import Importance

# Of the running mean of squared gradients, per training step.
_DECAY = 0.999
# A short training moves the logits at least so often, and a long one as seldom as
# leaves the typical size of a gradient what it is in single steps.
_MOVES = 250
_MOST_STEPS_PER_MOVE = 8


def steps_per_move(end_step: int) -> int:
    """Number of training steps whose gradients move the logits at once, at least 1.

    To move them costs as much as a good part of a small network's step.

    Args:
      end_step: last training step of the schedule.

    Example:

    >>> steps_per_move(300), steps_per_move(30_000)
    (1, 8)
    """
    return min(max(1, end_step // _MOVES), _MOST_STEPS_PER_MOVE)


def logit_gradient(
    importance: Importance,
    kernel: tf.Tensor,
    logits: tf.Tensor,
    mask: tf.Tensor,
    grid: blocks.BlockGrid,
    density: float | None,
    scale_gradient: tf.Tensor,
) -> tf.Tensor:
    """Gradient of the loss and of the penalty in the logits.

    Args:
      importance: has logits.
      kernel: float tensor of `grid.kernel_shape`.
      logits: float32 tensor of `grid.shape`.
      mask: float32 tensor of `grid.shape`, 1 for the blocks that compete: the active
        ones, or all while masks are revised, straight through the mask.
      grid: the kernel's `BlockGrid`.
      density: `1 - target sparsity` of the schedule, or None if unknown.
      scale_gradient: float32 tensor of `grid.shape`, gradient of the loss in what each
        block was multiplied by (`multipliers * mask`).

    Returns:
      float32 tensor of `grid.shape`.

    Example:

    >>> from tf_seqattn.sparsity.importance import SoftmaxAttention
    >>> grid = blocks.BlockGrid((2, 2), (1, 1))
    >>> ones, gradient = tf.ones((2, 2)), tf.constant([[1., 0.], [0., 0.]])
    >>> logit_gradient(
    ...     SoftmaxAttention(), ones, 0 * ones, ones, grid, None, gradient
    ... ).numpy().tolist()
    [[0.75, -0.25], [-0.25, -0.25]]
    """
    with tf.GradientTape() as tape:
        tape.watch(logits)
        multipliers = importance.multipliers(kernel, logits, grid, density)
        loss = tf.reduce_sum(multipliers * mask * scale_gradient)
        penalty = importance.penalty(logits)
        if penalty is not None:
            loss += penalty
    return tape.gradient(loss, logits)


def mean_square_after(
    mean_square: tf.Tensor, gradient: tf.Tensor, steps: tf.Tensor
) -> tf.Tensor:
    """Running mean of the squared gradient of one step, over all blocks of a kernel.

    Args:
      mean_square: float32 scalar, the mean so far; at first 0.
      gradient: float32 tensor, the sum over `steps` training steps.
      steps: float32 scalar.

    Example:

    >>> round(float(mean_square_after(0.0, tf.ones((2, 2)), tf.constant(1.0))), 6)
    0.001
    """
    kept = tf.pow(_DECAY, steps)
    squares = tf.reduce_mean(tf.square(gradient)) / steps
    return kept * mean_square + (1.0 - kept) * squares


def logit_step(
    gradient: tf.Tensor,
    mean_square: tf.Tensor,
    rate: float,
    step: tf.Tensor,
    end_step: int,
) -> tf.Tensor:
    """What is subtracted from the logits after a training step.

    The weight of a step falls linearly to 0 at the end of the schedule. A logit whose
    gradient always has the typical size and one sign moves by `rate / 2` in all.

    Args:
      gradient: float32 tensor, the sum over the steps since the last call.
      mean_square: float32 scalar of `mean_square_after`.
      rate: distance in all.
      step: float32 scalar, number of training steps done, from 1.
      end_step: last training step of the schedule.

    Returns:
      float32 tensor like `gradient`; 0 where there is no gradient yet.

    Example:

    >>> step = logit_step(tf.ones(2), 0.001, 1.0, tf.constant(1.0), 100)
    >>> [round(value, 6) for value in step.numpy().tolist()]
    [0.0099, 0.0099]
    """
    left = tf.maximum(0.0, 1.0 - step / end_step)
    # The mean began at 0, so early values of it are too small.
    typical = tf.sqrt(tf.math.divide_no_nan(mean_square, 1.0 - tf.pow(_DECAY, step)))
    return tf.math.divide_no_nan(rate / end_step * left * gradient, typical)
