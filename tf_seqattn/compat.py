"""tfmot's `prune_low_magnitude`, with its arguments, and our wrapper inside.

For a program that calls tfmot: change the import, keep the arguments. What the rest of
tfmot's module offers has the same name in `tf_seqattn`: `strip_pruning`,
`UpdatePruningStep`, `PruningSummaries` and `prune_scope`.
"""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tf_seqattn import tfmot_api
from tf_seqattn.keras_api import LAYERS, MODELS, Layer, register
from tf_seqattn.kernels import blocks
from tf_seqattn.sparsity import Importance, PruningPolicy, prune
from tf_seqattn.tfmot_api import Schedule

POOLING = ("AVG", "MAX")


@register
class PooledMagnitude(Importance):
    """Ranks blocks by the mean or the largest magnitude of their entries, like tfmot.

    Args:
      pooling: "AVG" or "MAX".

    Raises:
      ValueError: for another one.

    Example:

    >>> grid = blocks.BlockGrid((2, 2), (2, 1))
    >>> kernel = tf.constant([[1.0, -2.0], [-3.0, 2.0]])
    >>> PooledMagnitude("AVG").scores(kernel, None, grid).numpy().tolist()
    [[2.0, 2.0]]
    >>> PooledMagnitude("MAX").scores(kernel, None, grid).numpy().tolist()
    [[3.0, 2.0]]
    """

    def __init__(self, pooling: str = "AVG") -> None:
        if pooling not in POOLING:
            raise ValueError(
                f"`block_pooling_type` must be one of {', '.join(POOLING)}. Received: "
                f"block_pooling_type={pooling!r}"
            )
        self.pooling = pooling

    def scores(
        self, kernel: tf.Tensor, logits: tf.Tensor | None, grid: blocks.BlockGrid
    ) -> tf.Tensor:
        del logits
        magnitudes = tf.abs(tf.cast(kernel, tf.float32))
        if self.pooling == "AVG":
            return blocks.sum_blocks(magnitudes, grid) / grid.block_entries()
        return blocks.max_blocks(magnitudes, grid)

    def get_config(self) -> dict[str, Any]:
        return {"pooling": self.pooling}


def prune_low_magnitude(
    to_prune: Layer | Sequence[Layer],
    pruning_schedule: Schedule | None = None,
    block_size: tuple[int, int] = (1, 1),
    block_pooling_type: str = "AVG",
    pruning_policy: PruningPolicy | None = None,
    sparsity_m_by_n: tuple[int, int] | None = None,
    **kwargs: Any,
) -> Any:
    """Wraps a layer, a list of layers or a model, with the arguments of tfmot.

    It prunes what tfmot prunes: every kernel, small ones too, by magnitude. Models of
    both Keras versions, subclassed models and blocks in kernels of any rank work.

    Args:
      to_prune: a layer, a list of layers or a model: see `tf_seqattn.prune`.
      pruning_schedule: of tfmot or tf_seqattn; tfmot's `ConstantSparsity(0.5, 0)` by
        default.
      block_size: (rows, columns) of a block.
      block_pooling_type: "AVG" or "MAX": what ranks a block.
      pruning_policy: where to prune: an object with tfmot's `allow_pruning(layer)`.
      sparsity_m_by_n: (zeros, group), such as (2, 4): of so many consecutive inputs of
        an output, so many are removed. The target of the schedule must be their ratio.
      **kwargs: passed to `tf_seqattn.PrunableLayer`.

    Returns:
      The wrapped layer, list or model, which has to be compiled.

    Raises:
      ValueError: as `tf_seqattn.prune` does; for an unknown pooling; for a ratio of
        `sparsity_m_by_n` that is not the schedule's target.

    Example:

    >>> layer = prune_low_magnitude(keras.layers.Dense(8, input_shape=(4,)))
    >>> keras.Sequential([layer]).output_shape
    (None, 8)
    """
    if pruning_schedule is None:
        constant: Any = tfmot_api.schedule_class("ConstantSparsity")
        pruning_schedule = constant(0.5, 0)
    if sparsity_m_by_n is not None:
        zeros, group = sparsity_m_by_n
        kwargs["pattern"] = f"{group - zeros}:{group}"
    # tfmot keeps no weights that are pruned.
    kwargs.setdefault("zero_pruned_weights", True)
    # One layer is pruned whatever its size.
    is_one = isinstance(to_prune, LAYERS) and not isinstance(to_prune, MODELS)
    return prune(
        to_prune,
        pruning_schedule,
        block_size=block_size,
        importance=PooledMagnitude(block_pooling_type),
        pruning_policy=pruning_policy or (None if is_one else PruningPolicy()),
        **kwargs,
    )
