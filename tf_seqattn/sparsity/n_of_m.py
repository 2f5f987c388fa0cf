"""N:M sparsity: of every M consecutive inputs of an output, N stay.

Hardware multiplies some of these patterns fast (2:4). An importance scores which
entries stay, as for blocks. The others are not cut off at once but decay: their mask
falls from 1 to 0 while the sparsity of the schedule rises, and gradients reach them
until then ("Progressive Gradient Flow for Robust N:M Sparsity Training in
Transformers", arXiv 2402.04744: mask decay). Plain functions of tensors.
"""

import tensorflow as tf


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


def keep_n_of_m(scores: tf.Tensor, kept: int, group: int) -> tf.Tensor:
    """Marks the best `kept` of every `group` consecutive rows, in each column.

    Args:
      scores: float tensor (inputs, outputs); larger is more important. Equal scores
        are ranked by position, first one kept.
      kept: N, how many stay.
      group: M, of how many. The last group has fewer if M does not divide the inputs;
        at most N of it stay.

    Returns:
      float32 tensor like `scores`: 1 for those that stay, 0 elsewhere.

    Example:

    >>> scores = tf.constant([[4.], [1.], [3.], [2.], [0.], [5.], [6.], [7.]])
    >>> tf.reshape(keep_n_of_m(scores, 2, 4), [-1]).numpy().tolist()
    [1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0, 1.0]
    """
    inputs, outputs = scores.shape
    scores = tf.cast(scores, tf.float32)
    # A score that is not a number ranks below every finite one, and padding below that.
    scores = tf.where(tf.math.is_finite(scores), scores, scores.dtype.min)
    scores = tf.pad(
        scores, [[0, -inputs % group], [0, 0]], constant_values=-float("inf")
    )
    groups = tf.reshape(scores, (-1, group, outputs))
    _, best = tf.math.top_k(tf.transpose(groups, (0, 2, 1)), kept)
    chosen = tf.reduce_sum(tf.one_hot(best, group), axis=2)
    return tf.reshape(tf.transpose(chosen, (0, 2, 1)), (-1, outputs))[:inputs]


def decaying_mask(
    support: tf.Tensor, sparsity: float | tf.Tensor, final_sparsity: float
) -> tf.Tensor:
    """1 for what stays; the rest falls from 1 to 0 until the final sparsity.

    Args:
      support: float tensor of zeros and ones.
      sparsity: scalar, the sparsity of the schedule at this step.
      final_sparsity: `1 - N / M`, at which the mask is `support` itself.

    Returns:
      Tensor like `support`; at sparsity 0 all ones.

    Example:

    >>> [round(float(m), 3) for m in decaying_mask(tf.constant([1., 0.]), 0.2, 0.5)]
    [1.0, 0.6]
    """
    progress = tf.cast(sparsity, tf.float32) / final_sparsity
    # A schedule's target in float32 may fall short of the final sparsity by a rounding.
    left = tf.where(progress > 1.0 - 1e-6, 0.0, 1.0 - progress)
    return tf.maximum(support, left)
