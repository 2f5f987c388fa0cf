"""Removes channels that do not count before a model is packed, by whole blocks.

A channel does not count if nothing reads it, or if it is a constant that its readers
can do without (`sa.shrink`). It goes with all channels that are coupled to it, and only
where whole blocks of every kernel around it go, so that the kernels keep their grids.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tf_seqattn.inference.layer_plan import (
    is_packable_kind,
    kernel_grid,
    kernel_matrix,
    product_kernel,
    row_divisor,
)
from tf_seqattn.keras_api import classes, projections
from tf_seqattn.kernels.channel_groups import ChannelGroups, channel_groups
from tf_seqattn.kernels.channel_trace import Place, Trace
from tf_seqattn.kernels.live_channels import Mask, live_channels
from tf_seqattn.kernels.smaller_model import smaller_model
from tf_seqattn.kernels.zero_blocks import find_block_size


def _product(place: Place) -> Any:
    """The layer whose kernel a place is an axis of, or None if it is no kernel."""
    layers = [place.layer]
    if isinstance(place.layer, classes("MultiHeadAttention")):
        layers = list(projections(place.layer).values())
    kernels = ((layer, product_kernel(layer)) for layer in layers)
    owners = (layer for layer, kernel in kernels if kernel is place.variable)
    return next(filter(is_packable_kind, owners), None)


def _block_length(place: Place, block_size: Sequence[int | None] | None) -> int:
    """Entries of a block along an axis of a kernel; 1 where there are no blocks."""
    layer = _product(place)
    if layer is None:
        return 1
    grid = kernel_grid(layer)
    is_column = place.axis in grid.column_axes
    axes = grid.column_axes if is_column else grid.row_axes
    inner = axes[axes.index(place.axis) + 1 :]
    entries = math.prod(grid.kernel_shape[axis] for axis in inner)
    block = (block_size or _found_block_size(layer))[is_column]
    # A block that spans a whole axis fits an axis of any length.
    return math.lcm(block or 1, entries) // entries


def _found_block_size(layer: Any) -> tuple[int, int]:
    matrix = kernel_matrix(layer)
    # Any grid fits a kernel of zeros.
    found = find_block_size(matrix, row_divisor(layer)) if matrix.any() else None
    return found or (1, 1)


def _keep_whole_blocks(
    trace: Trace, live: Mask, block_size: Sequence[int | None] | None
) -> None:
    """Keeps all channels of a block of which one is kept, in every kernel."""
    lengths = {key: _block_length(p, block_size) for key, p in trace.places.items()}
    changed = True
    while changed:
        changed = False
        for key, place in trace.places.items():
            if lengths[key] == 1:
                continue
            labels = trace.units.find(place.labels)
            firsts = np.arange(0, len(labels), lengths[key])
            kept = np.logical_or.reduceat(live[labels], firsts)
            kept = np.repeat(kept, lengths[key])[: len(labels)]
            if not live[labels[kept]].all():
                live[labels[kept]] = True
                changed = True


def _all_live(groups: ChannelGroups, live: Mask) -> bool:
    return all(live[group.labels].all() for group in groups)


def without_dead_channels(
    model: Any, block_size: Sequence[int | None] | None = None
) -> Any:
    """A smaller model with the same outputs in inference, or the model itself.

    Args:
      model: a Sequential or functional model, built, without pruning. It does not
        change. Layers inside custom layers keep their channels; `sa.shrink` removes
        those too.
      block_size: (rows, columns) of the blocks of its kernels. By default they are
        found in the zeros.

    Returns:
      A model that shares nothing with `model`, or `model` if every channel counts.

    Example:

    >>> model = keras.Sequential(
    ...     [keras.layers.Dense(4, input_shape=(3,)), keras.layers.Dense(2)]
    ... )
    >>> kernel = np.ones((3, 4)) * [1, 0, 1, 0]
    >>> model.layers[0].set_weights([kernel, np.ones(4)])
    >>> smaller = without_dead_channels(model, block_size=(1, 1))
    >>> smaller.layers[1].kernel.shape
    TensorShape([2, 2])
    """
    groups = channel_groups(model)
    trace, live = groups.trace, live_channels(groups)
    for place in trace.places.values():
        if id(place.layer) in trace.inner or id(place.layer) in trace.holders:
            live[trace.units.find(place.labels)] = True
    # Most models have no dead channel, and to find blocks takes a look at every weight.
    if not _all_live(groups, live):
        _keep_whole_blocks(trace, live, block_size)
    return model if _all_live(groups, live) else smaller_model(model, trace, live)
