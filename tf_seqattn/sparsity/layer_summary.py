"""One table of what is pruned, how far, and why the rest is not."""

import contextlib
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from tf_seqattn.keras_api import (
    METRICS,
    MODELS,
    Layer,
    Model,
    check_layer,
    sublayers,
)
from tf_seqattn.kernels import layer_kernels
from tf_seqattn.sparsity.channel_layer import ChannelLayer
from tf_seqattn.sparsity.channel_savings import channel_savings
from tf_seqattn.sparsity.channel_units import ChannelUnits
from tf_seqattn.sparsity.phases import final_sparsity, phase_at
from tf_seqattn.sparsity.policies import MinimumBlocks, PruningPolicy, why_unprunable
from tf_seqattn.sparsity.wrapper import PrunableLayer, pruned_layers
from tf_seqattn.text_table import print_table

_COLUMNS = ("layer", "matrix", "blocks", "kept", "requested", "reached", "zeros", "")


def _pruned_rows(layer: PrunableLayer) -> list[dict[str, Any]]:
    rows = []
    schedule = layer.pruning_schedule
    step = layer.steps_begun if layer.built else 0
    for pruned in layer.pruned_kernels:
        mask = pruned.mask.numpy()
        phase = phase_at(schedule, step)
        rows.append(
            {
                "layer": f"{layer.layer.name}/{pruned.name}",
                "kernel_shape": pruned.grid.kernel_shape,
                "matrix_shape": pruned.grid.matrix_shape,
                "block_size": pruned.grid.block_size,
                "num_blocks": pruned.grid.num_blocks,
                "kept_blocks": int(mask.sum()),
                "requested_sparsity": final_sparsity(schedule),
                "block_sparsity": 1.0 - float(mask.mean()),
                "zero_fraction": float(np.mean(layer.effective_kernel(pruned) == 0)),
                "step": step,
                "phase": None if phase is None else phase.name.lower(),
                "left_alone": None,
            }
        )
    rows += [
        {"layer": f"{layer.layer.name}/{name}", "left_alone": reason}
        for name, reason in layer.left_dense.items()
    ]
    if not layer.built:
        rows.append({"layer": layer.layer.name, "left_alone": "not built yet"})
    return rows


def _left_alone_reason(layer: Layer, policy: PruningPolicy | None) -> str:
    reason = why_unprunable(layer)
    if reason is not None:
        return reason
    if layer.built and policy is not None and not policy.allow_pruning(layer):
        return policy.reason(layer)
    return "not wrapped"


def _plain_rows(layer: Layer, reason: str) -> list[dict[str, Any]]:
    """Rows of a layer without a wrapper: one for each kernel, or one for the layer."""
    found = []
    if layer.built and layer_kernels.is_supported(layer):
        with contextlib.suppress(ValueError):
            found = layer_kernels.find_kernels(layer)
    rows = []
    for kernel in found:
        grid = kernel.grid((1, 1))
        rows.append(
            {
                "layer": f"{layer.name}/{kernel.name}",
                "kernel_shape": grid.kernel_shape,
                "matrix_shape": grid.matrix_shape,
                "zero_fraction": float(np.mean(kernel.variable.numpy() == 0)),
                "left_alone": reason,
            }
        )
    return rows or [{"layer": layer.name, "left_alone": reason}]


def _rows(model: Model) -> list[dict[str, Any]]:
    wrappers = pruned_layers(model)
    of_blocks = [w for w in wrappers if not isinstance(w.layer, ChannelUnits)]
    policy = MinimumBlocks(of_blocks[0].block_size) if of_blocks else None
    wrapping = [
        *wrappers,
        *(m for m in sublayers(model) if isinstance(m, ChannelLayer)),
    ]
    inside = {
        id(inner)
        for w in wrapping
        for inner in sublayers(w)
        if inner is not w and not isinstance(inner, PrunableLayer)
    }
    rows = []
    for layer in sublayers(model):
        if isinstance(layer, PrunableLayer):
            rows += _pruned_rows(layer)
            continue
        # The layers that it holds have their own rows, and it need not be built.
        if isinstance(layer, MODELS + METRICS):
            continue
        # So do the layers in a composite layer, unless its class is known: then its
        # kernels are found as a whole.
        known = why_unprunable(layer) is None
        is_leaf = known or len(sublayers(layer)) == 1
        if id(layer) in inside or not is_leaf or not layer.weights:
            continue
        rows += _plain_rows(layer, _left_alone_reason(layer, policy))
        if known:
            inside |= {id(inner) for inner in sublayers(layer)}
    return rows


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    if row["left_alone"] is not None:
        matrix, zeros = "", ""
        if "matrix_shape" in row:
            matrix = " x ".join(map(str, row["matrix_shape"]))
            zeros = f"{row['zero_fraction']:.1%}"
        note = f"left alone: {row['left_alone']}"
        return (row["layer"], matrix, "", "", "", "", zeros, note)
    rows, columns = row["matrix_shape"]
    height, width = row["block_size"]
    requested = row["requested_sparsity"]
    phase = f", {row['phase']}" if row["phase"] else ""
    return (
        row["layer"],
        f"{rows} x {columns}",
        f"{row['num_blocks']} of {height} x {width}",
        str(row["kept_blocks"]),
        "" if requested is None else f"{requested:.1%}",
        f"{row['block_sparsity']:.1%}",
        f"{row['zero_fraction']:.1%}",
        f"step {row['step']}{phase}",
    )


def _total(rows: list[dict[str, Any]]) -> str:
    """What all pruned kernels together should reach and do reach, by their entries."""
    pruned = [row for row in rows if row["left_alone"] is None]
    entries = [math.prod(row["kernel_shape"]) for row in pruned]

    def mean(name: str) -> str:
        values = [row[name] for row in pruned]
        return "–" if None in values else f"{np.average(values, weights=entries):.1%}"

    return (
        f"{len(pruned)} kernels of {sum(entries):,} weights are pruned: "
        f"{mean('requested_sparsity')} requested, {mean('block_sparsity')} reached"
    )


def summary(
    model: Model, print_fn: Callable[[str], object] = print
) -> list[dict[str, Any]]:
    """Prints which kernels are pruned, how far, and why the others are left alone.

    A line below gives the sparsity requested, and reached, over all pruned kernels. If
    channels are pruned, there follow the multiply-adds and parameters before and after
    `sa.shrink`, and the reason for each layer whose channels must stay.

    Args:
      model: a model or layer, pruned by tf_seqattn or not.
      print_fn: called with each line, as in `model.summary()`.

    Returns:
      A dictionary for each row: layer, kernel_shape, matrix_shape, block_size,
      num_blocks, kept_blocks, requested_sparsity (at the schedule's end),
      block_sparsity (blocks removed), zero_fraction (entries of the effective kernel
      that are zero), step, phase. A kernel without pruning has left_alone, the reason.

    Raises:
      ValueError: if `model` is not a layer or model of Keras.

    Example:

    >>> model = keras.Sequential([keras.layers.Dense(2, input_shape=(2,))])
    >>> rows = summary(model, print_fn=lambda line: None)
    >>> rows[0]["left_alone"]
    'not wrapped'
    """
    check_layer(model, "model")
    rows = _rows(model)
    print_table(_COLUMNS, [_cells(row) for row in rows], print_fn)
    if any(row["left_alone"] is None for row in rows):
        print_fn(_total(rows))
    savings = channel_savings(model)
    if savings is not None:
        print_fn(str(savings))
        for name, why in savings.frozen.items():
            print_fn(f"the channels of {name} stay: {why}")
    return rows
