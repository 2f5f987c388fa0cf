"""Table 2 of the paper: validation loss on Criteo (arXiv 2402.17902, section 4.3)."""

# (sparsity, block size): magnitude, Powerpropagation, ACDC, SequentialAttention++; the
# mean of three runs.
DENSE = 0.4489
ALGORITHMS = ("magnitude", "powerprop", "acdc", "seqattn")
TABLE_2 = {
    (0.90, 5): (0.4523, 0.4521, 0.4517, 0.4515),
    (0.90, 10): (0.4693, 0.4572, 0.4580, 0.4535),
    (0.90, 20): (0.4923, 0.4920, 0.4829, 0.4596),
    (0.95, 5): (0.4586, 0.4547, 0.4547, 0.4540),
    (0.95, 10): (0.4892, 0.4768, 0.4754, 0.4595),
    (0.95, 20): (0.4998, 0.4946, 0.4961, 0.4715),
    (0.97, 5): (0.4656, 0.4587, 0.4606, 0.4570),
    (0.97, 10): (0.5004, 0.5061, 0.4936, 0.4708),
    (0.97, 20): (0.5079, 0.5093, 0.5056, 0.4865),
    (0.98, 5): (0.4717, 0.4622, 0.4692, 0.4601),
    (0.98, 10): (0.5145, 0.5158, 0.4929, 0.4904),
    (0.98, 20): (0.5447, 0.5379, 0.5184, 0.5162),
    (0.99, 5): (0.4881, 0.5017, 0.5050, 0.4803),
    (0.99, 10): (0.5376, 0.5295, 0.5153, 0.5068),
    (0.99, 20): (0.5482, 0.5425, 0.5427, 0.5253),
}


def paper_loss(algorithm: str, sparsity: float, block_size: int) -> float | None:
    """Returns the paper's validation loss, or None where it has none.

    Args:
      algorithm: one of `experiment.ALGORITHMS`.
      sparsity: share of the blocks removed.
      block_size: rows and columns of a block.

    Example:

    >>> paper_loss("seqattn", 0.9, 20)
    0.4596
    """
    if algorithm == "dense":
        return DENSE
    losses = TABLE_2.get((round(sparsity, 4), block_size))
    if losses is None or algorithm not in ALGORITHMS:
        return None
    return losses[ALGORITHMS.index(algorithm)]
