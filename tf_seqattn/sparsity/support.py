"""Choosing the support: which blocks stay. Plain functions of tensors."""

import numpy as np
import numpy.typing as npt
import tensorflow as tf


def keep_count(num_blocks: int, sparsity: float | tf.Tensor) -> tf.Tensor:
    """Number of blocks that stay at a sparsity: `round(N * (1 - s))`, at least 1.

    Args:
      num_blocks: int, number of blocks `N` of the kernel.
      sparsity: scalar in [0, 1), the share of blocks to remove.

    Returns:
      Scalar int32 tensor. Never 0: a layer is not wiped out (appendix C.1).

    Example:

    >>> int(keep_count(400, 0.9))
    40
    """
    kept = tf.round(num_blocks * (1.0 - tf.cast(sparsity, tf.float64)))
    return tf.cast(tf.maximum(kept, 1.0), tf.int32)


def update_mask(
    mask: tf.Tensor,
    scores: tf.Tensor,
    sparsity: float | tf.Tensor,
    balanced: bool = False,
) -> tf.Tensor:
    """Drops the least important active blocks, or revives blocks.

    While sparsity rises, the active blocks with the lowest scores go (section 3.1:
    backward selection). When more blocks are wanted than are
    active, as after a dense phase or at sparsity 0, all blocks compete.

    Args:
      mask: float tensor (block rows, block columns) of zeros and ones.
      scores: float tensor of the same shape; larger is more important. Equal
        scores are ranked by position, row by row, first one kept.
      sparsity: scalar in [0, 1).
      balanced: whether every block column keeps the same number of blocks. Blocks
        then compete within their column.

    Returns:
      The new mask, like `mask`.

    Example:

    >>> mask = tf.constant([[1., 1., 0., 1.]])
    >>> update_mask(mask, tf.constant([[3., 1., 9., 2.]]), 0.5).numpy().tolist()
    [[1.0, 0.0, 0.0, 1.0]]
    >>> scores = tf.constant([[4., 1.], [3., 2.]])
    >>> update_mask(tf.ones((2, 2)), scores, 0.5, balanced=True).numpy().tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    if balanced:
        return tf.transpose(
            _keep_best(tf.transpose(mask), tf.transpose(scores), sparsity)
        )
    every = [1, mask.shape.num_elements()]
    kept = _keep_best(tf.reshape(mask, every), tf.reshape(scores, every), sparsity)
    return tf.reshape(kept, mask.shape)


def _keep_best(
    mask: tf.Tensor, scores: tf.Tensor, sparsity: float | tf.Tensor
) -> tf.Tensor:
    """`update_mask` of blocks that compete within their group.

    Args:
      mask: (groups, blocks) of zeros and ones.
      scores: of the same shape.
      sparsity: scalar in [0, 1).
    """
    groups, size = mask.shape
    active = mask > 0
    kept = keep_count(size, sparsity)
    num_active = tf.math.count_nonzero(active, axis=1, keepdims=True, dtype=tf.int32)
    candidates = active | (kept > num_active)
    scores = tf.cast(scores, tf.float32)
    # A score that is not a number ranks below every finite one.
    scores = tf.where(tf.math.is_finite(scores), scores, scores.dtype.min)
    _, chosen = tf.math.top_k(tf.where(candidates, scores, -float("inf")), kept)
    places = tf.reshape(chosen + np.arange(groups)[:, None] * size, [-1, 1])
    flat = tf.scatter_nd(
        places, tf.ones_like(places[:, 0], mask.dtype), [groups * size]
    )
    return tf.reshape(flat, mask.shape)


def support_churn(before: npt.ArrayLike, after: npt.ArrayLike) -> float:
    """Share of a support that was not in an earlier one.

    Args:
      before: 0/1 array of the earlier mask.
      after: 0/1 array of the later mask, same shape.

    Example:

    >>> support_churn([1, 1, 0, 0], [1, 0, 1, 0])
    0.5
    """
    before, after = np.asarray(before) > 0, np.asarray(after) > 0
    kept = int(np.count_nonzero(before & after))
    return 1.0 - kept / max(1, int(np.count_nonzero(after)))
