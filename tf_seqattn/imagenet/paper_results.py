"""Table 1 of the paper: ImageNet top-1 accuracy (arXiv 2402.17902, section 4.2)."""

DENSE = 76.90
# (block size, real sparsity): ACDC, SequentialAttention++, in per cent; None where the
# training diverged. Real sparsities are lower at large blocks, since layers of fewer
# than 100 blocks stay dense.
TABLE_1 = {
    (8, 0.70): (74.11, 74.14),
    (8, 0.80): (72.47, 72.90),
    (8, 0.90): (67.74, 69.56),
    (8, 0.95): (None, None),
    (16, 0.70): (74.08, 74.40),
    (16, 0.80): (72.56, 73.50),
    (16, 0.90): (68.61, 69.92),
    (16, 0.95): (61.42, 64.27),
    (32, 0.68): (74.40, 74.82),
    (32, 0.78): (72.39, 73.78),
    (32, 0.88): (68.96, 70.82),
    (32, 0.92): (63.03, 65.41),
    (64, 0.58): (75.18, 75.53),
    (64, 0.66): (74.49, 74.52),
    (64, 0.74): (71.95, 72.76),
    (64, 0.79): (67.36, 70.30),
}


def paper_accuracies(block_size: int) -> dict[float, tuple[float | None, float | None]]:
    """Returns (ACDC, SequentialAttention++) top-1 by real sparsity.

    Args:
      block_size: rows and columns of a block.

    Example:

    >>> paper_accuracies(64)[0.58]
    (75.18, 75.53)
    """
    return {s: found for (size, s), found in TABLE_1.items() if size == block_size}
