"""Plans for pruned kernels of layers that cannot be packed: they stay dense."""

import contextlib
from typing import Any

from tf_seqattn.inference.layer_plan import LayerPlan
from tf_seqattn.keras_api import (
    is_keras_class,
    stored,
)
from tf_seqattn.kernels.blocks import to_matrix
from tf_seqattn.kernels.layer_kernels import find_kernels, is_supported
from tf_seqattn.kernels.zero_blocks import find_block_size


def unpacked_plans(layer: Any) -> list[LayerPlan]:
    """Plans for the kernels with blocks of zeros of a layer that cannot be packed.

    Args:
      layer: of a class that `sa.pack` does not pack, such as LSTM, Conv2DTranspose or
        Embedding, or a custom layer with `get_prunable_weights()`. Kernels of layers
        inside a custom layer are left out, because these layers have plans of their
        own.

    Returns:
      A `LayerPlan` for each kernel, with the layout "dense" and the class as the
      reason. Empty if no kernel has blocks of zeros.

    Example:

    >>> layer = keras.layers.Embedding(32, 16, name="words")
    >>> layer.build((None,))
    >>> layer.set_weights([np.kron(np.eye(2), np.ones((16, 8)))])
    >>> [(plan.name, plan.reason) for plan in unpacked_plans(layer)]
    [('words/embeddings', 'Embedding is not packed')]
    """
    found = []
    if layer.built and is_supported(layer):
        # It is raised if a layer computes with something else than its kernel, or holds
        # a cell of an unknown class.
        with contextlib.suppress(ValueError):
            found = find_kernels(layer)
    plans = []
    for kernel in found:
        if kernel.owner is not layer and not is_keras_class(type(layer)):
            continue
        grid = kernel.grid((1, 1))
        if find_block_size(to_matrix(stored(kernel.variable), grid).numpy()):
            name = f"{layer.name}/{kernel.name}"
            reason = f"{type(layer).__name__} is not packed"
            plans.append(LayerPlan(name, grid.kernel_shape, reason=reason))
    return plans
