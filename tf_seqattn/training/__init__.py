"""Training that computes only what it keeps."""

from tf_seqattn.training.skip_pruned_blocks import SkipPrunedBlocks

__all__ = ["SkipPrunedBlocks"]
