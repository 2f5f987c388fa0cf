"""Where to prune: tfmot's `PruningPolicy` protocol, and the paper's default."""

from tf_seqattn.keras_api import (
    Layer,
    Model,
    arrays_of,
    classes,
    is_keras_class,
)
from tf_seqattn.kernels import layer_kernels
from tf_seqattn.kernels.blocks import BlockGrid
from tf_seqattn.kernels.layer_kernels import BlockSize

MIN_BLOCKS = 100
MIN_HEADS = 2


class PruningPolicy:
    """tfmot's protocol: which layers of a model are pruned.

    Subclass it, or pass one of tfmot's policies. In a layer that is allowed, single
    kernels of fewer blocks than `min_blocks` are left alone.

    Example:

    >>> class OnlyConvolutions(PruningPolicy):
    ...     def allow_pruning(self, layer):
    ...         return isinstance(layer, keras.layers.Conv2D)
    >>> OnlyConvolutions().allow_pruning(keras.layers.Dense(3))
    False
    """

    min_blocks = 1

    def allow_pruning(self, layer: Layer) -> bool:
        """Returns whether `layer` is to be pruned."""
        del layer
        return True

    def ensure_model_supports_pruning(self, model: Model) -> None:
        """Raises a ValueError if `model` as a whole cannot be pruned."""
        del model

    def reason(self, layer: Layer) -> str:
        """Returns why `layer` is left alone, to be shown to the user."""
        del layer
        return f"left out by {type(self).__name__}"


class MinimumBlocks(PruningPolicy):
    """The paper's policy: a kernel of fewer than 100 blocks is left alone.

    So is a kernel that is narrower or lower than a block, such as the last one of a
    classifier with few classes.

    Args:
      block_size: (rows, columns) of a block, or "heads" (see `PrunableLayer`).
      min_blocks: smallest number of blocks in a pruned kernel, by default 100
        (appendix C.1), or 2 heads.

    Example:

    >>> layer = keras.layers.Dense(8)
    >>> layer.build((None, 8))
    >>> policy = MinimumBlocks((2, 2))
    >>> policy.allow_pruning(layer), policy.reason(layer)
    (False, 'kernel has 16 blocks, fewer than 100')
    """

    def __init__(
        self, block_size: BlockSize = (16, 16), min_blocks: int | None = None
    ) -> None:
        self.block_size = layer_kernels.check_block_size_or_heads(block_size)
        if min_blocks is None:
            min_blocks = MIN_HEADS if layer_kernels.is_heads(block_size) else MIN_BLOCKS
        self.min_blocks = min_blocks

    def allow_pruning(self, layer: Layer) -> bool:
        # An unbuilt layer has no shape yet: its wrapper decides when it is built.
        if not layer.built:
            return True
        return any(
            why_too_small(kernel.grid(self.block_size), self.min_blocks) is None
            for kernel in layer_kernels.divided_kernels(layer, self.block_size)
        )

    def reason(self, layer: Layer) -> str:
        grids = {
            kernel.name: kernel.grid(self.block_size)
            for kernel in layer_kernels.divided_kernels(layer, self.block_size)
        }
        if not grids:
            return f"{type(layer).__name__} has no attention heads"
        few = [
            f"{name} has {grid.num_blocks}"
            for name, grid in grids.items()
            if grid.num_blocks < self.min_blocks
        ]
        reasons = [f"{', '.join(few)} blocks, fewer than {self.min_blocks}"] * bool(few)
        reasons += [
            f"{name}: {why_too_small(grid, self.min_blocks)}"
            for name, grid in grids.items()
            if grid.num_blocks >= self.min_blocks
        ]
        return "; ".join(reasons)


def why_too_small(grid: BlockGrid, min_blocks: int) -> str | None:
    """Returns why a kernel is too small for its blocks, or None.

    Args:
      grid: how the kernel is cut.
      min_blocks: number of blocks that it must have.

    Example:

    >>> why_too_small(BlockGrid((2048, 10), (16, 16)), min_blocks=100)
    'a 2048 x 10 matrix has no room for a block of 16 x 16'
    """
    if grid.num_blocks < min_blocks:
        return f"{grid.num_blocks} blocks, fewer than {min_blocks}"
    if not grid.fits:
        matrix, block = (
            " x ".join(map(str, sizes))
            for sizes in (grid.matrix_shape, grid.block_size)
        )
        return f"a {matrix} matrix has no room for a block of {block}"
    return None


def why_unprunable(layer: Layer, pattern: str | None = None) -> str | None:
    """Returns why a layer has nothing to prune, or None if it has a kernel.

    Args:
      layer: any layer. An unbuilt one of a known class counts as one with a kernel.
      pattern: "N:M" if single entries are pruned in place of blocks.
    """
    kind = type(layer).__name__
    try:
        layer_kernels.check_plain(layer)
    except ValueError as error:
        return str(error)
    if isinstance(layer, classes("DepthwiseConv1D", "DepthwiseConv2D")):
        if pattern is not None:
            return None
        return f"{kind} contracts no channels: there are no blocks to remove"
    if layer_kernels.is_supported(layer):
        if not layer.built:
            return None
        try:
            return (
                None if layer_kernels.find_kernels(layer) else f"{kind} has no kernel"
            )
        except ValueError as error:
            return str(error)
    if isinstance(layer, classes("Wrapper")):
        return f"{kind} wraps a layer in a way that tf_seqattn does not know"
    if not layer.weights:
        return f"{kind} has no weights"
    if is_keras_class(type(layer)):
        has_kernel = any("kernel" in weight.name for weight in arrays_of(layer))
        return f"{kind} {'is not a supported kind' if has_kernel else 'has no kernel'}"
    return f"{kind} is a custom layer without `get_prunable_weights()`"
