"""The learning rate of a kernel's kept blocks, which grows as the others go.

A sparse kernel wants larger steps than a dense one: each output sums fewer products, so
the same steps move it less ("Sparse maximal update parameterization", arXiv 2405.15743,
where Adam's rate grows as the inverse of the density). An optimizer has one rate for
both. So the layer computes with its kernel times a gain, and the kernel is stored
divided by it. The gradient passes the gain unchanged. A step of any optimizer is then
the gain times what it would be, whatever the optimizer does with gradients.
"""

import tensorflow as tf


def rate_gain(
    mask: tf.Tensor, power: float, initial_sparsity: float = 0.0
) -> tf.Tensor:
    """Factor of the learning rate of a kernel, from its mask: `density ** -power`.

    Args:
      mask: float32 tensor (block rows, block columns), 1 for the blocks that are kept,
        of which there is one at least.
      power: of the density, at least 0.
      initial_sparsity: share of the blocks that were masked when the training began.
        The density is relative to those that were not.

    Returns:
      float32 scalar, 1 or more.

    Example:

    >>> float(rate_gain(tf.constant([[1.0, 0.0], [0.0, 0.0]]), power=0.5))
    2.0
    """
    density = tf.reduce_mean(mask)
    if initial_sparsity:
        density = tf.minimum(density / (1.0 - initial_sparsity), 1.0)
    return tf.pow(density, -power)
