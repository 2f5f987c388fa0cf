"""How much of each layer to remove: a target sparsity by the name of the layer.

An allocation divides one overall sparsity among the layers of a model. It is a plain
dictionary for `sa.prune(..., sparsity=allocation)` that you may read and change. The
overall sparsity is the share of entries removed from all pruned kernels. A share of a
kernel's blocks counts as the same share of its entries. A kernel keeps whole blocks,
and at least one, so it may miss its share by half a block.
"""

import dataclasses
import difflib
import math
import numbers
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from tf_seqattn import tfmot_api
from tf_seqattn.keras_api import (
    MODELS,
    Layer,
    Model,
    check_layer,
    classes,
    stored,
    sublayers,
)
from tf_seqattn.kernels import layer_kernels
from tf_seqattn.kernels.blocks import BlockGrid, block_norms
from tf_seqattn.kernels.layer_kernels import BlockSize
from tf_seqattn.sparsity.policies import (
    MinimumBlocks,
    PruningPolicy,
    why_too_small,
    why_unprunable,
)
from tf_seqattn.sparsity.wrapper import PrunableLayer
from tf_seqattn.tfmot_api import Schedule


def retargeted(schedule: Schedule, target: float) -> Schedule:
    """Returns a copy of a schedule that ends with another sparsity.

    Args:
      schedule: a `PruningSchedule` of tf_seqattn or tfmot; it is not changed.
      target: the sparsity of the copy, in [0, 1).

    Raises:
      ValueError: for a schedule without `target_sparsity` or `final_sparsity`.

    Example:

    >>> from tf_seqattn.sparsity.schedules import OneShotSchedule
    >>> retargeted(OneShotSchedule(0.5, prune_step=10), 0.8)
    OneShotSchedule(target_sparsity=0.8, prune_step=10)
    """
    config = schedule.get_config()["config"]
    for name in tfmot_api.TARGETS:
        if name in config:
            return type(schedule).from_config({**config, name: target})
    raise ValueError(
        f"`sparsity` gives a layer its own target, but {type(schedule).__name__} has "
        f"none to replace: its configuration holds {sorted(config)}, none of "
        f"{tfmot_api.TARGETS}. Use a schedule with one of them, or wrap each layer by "
        "itself."
    )


def prunable_layers(
    to_prune: Layer | Sequence[Layer], policy: PruningPolicy | None
) -> Iterator[Layer]:
    """Yields the layers that `sa.prune` wraps, in the order in which they are found.

    Args:
      to_prune: a layer, a list of layers or a model, without pruning.
      policy: a `PruningPolicy`, or None to allow every layer.
    """
    inside: set[int] = set()
    for item in to_prune if isinstance(to_prune, (list, tuple)) else [to_prune]:
        for layer in sublayers(item):
            if id(layer) in inside or isinstance(layer, MODELS):
                continue
            prunable = why_unprunable(layer) is None
            # The kernels of an LSTM's cell, say, belong to the LSTM.
            if prunable or isinstance(layer, classes("Wrapper")):
                inside |= {id(inner) for inner in sublayers(layer)}
            inside.add(id(layer))
            if prunable and (policy is None or policy.allow_pruning(layer)):
                yield layer


def check_targets(
    sparsity: Mapping[str, float],
    to_prune: Layer | Sequence[Layer],
    policy: PruningPolicy | None,
) -> dict[str, float]:
    """Returns the targets by name of layer, checked against what is to be pruned.

    Args:
      sparsity: the user's mapping from layer name to a number in [0, 1).
      to_prune: a layer, a list of layers or a model.
      policy: a `PruningPolicy`, or None to allow every layer.

    Raises:
      ValueError: for anything but a mapping, a target out of range, or a name that no
        pruned layer has. The message gives similar names, or why the layer is left
        alone.
    """
    if not isinstance(sparsity, Mapping):
        raise ValueError(
            "`sparsity` must map names of layers to their target sparsity, such as "
            '{"dense_1": 0.8} or what sa.uniform_allocation returns. For one sparsity '
            f"everywhere, give it to the schedule. Received: sparsity={sparsity!r}"
        )
    for name, target in sparsity.items():
        is_number = isinstance(target, numbers.Real) and not isinstance(target, bool)
        if not is_number or not 0.0 <= target < 1.0:
            raise ValueError(
                "`sparsity` must give each layer a share of blocks to remove in [0, 1)."
                f" Received: sparsity[{name!r}]={target!r}"
            )
    pruned = {layer.name for layer in prunable_layers(to_prune, policy)}
    unknown = [name for name in sparsity if name not in pruned]
    if unknown:
        raise ValueError(_unknown_names(unknown, pruned, to_prune, policy))
    return {name: float(target) for name, target in sparsity.items()}


def _unknown_names(
    unknown: list[str],
    pruned: set[str],
    to_prune: Layer | Sequence[Layer],
    policy: PruningPolicy | None,
) -> str:
    items = to_prune if isinstance(to_prune, (list, tuple)) else [to_prune]
    present = {layer.name: layer for item in items for layer in sublayers(item)}
    lines = []
    for name in unknown:
        if name in present:
            reason = why_unprunable(present[name])
            if reason is None and policy and not policy.allow_pruning(present[name]):
                default = f"left out by {type(policy).__name__}"
                why = getattr(policy, "reason", None)
                reason = why(present[name]) if why else default
            reason = reason or "it is a part of another layer, or a model"
            lines.append(f"{name!r} is left alone: {reason}")
            continue
        close = difflib.get_close_matches(str(name), sorted(pruned), n=3)
        close = close or sorted(pruned)[:5]
        lines.append(
            f"{name!r} is not a layer; the model has {', '.join(map(repr, close))}"
        )
    return "`sparsity` names layers that are not pruned: " + "; ".join(lines)


@dataclasses.dataclass
class PlannedKernel:
    """A kernel that would be pruned: where it is, and how it is cut."""

    kernel: layer_kernels.Kernel
    grid: BlockGrid

    @property
    def entries(self) -> int:
        """Number of its entries."""
        return math.prod(self.grid.kernel_shape)

    @property
    def sizes(self) -> list[int]:
        """Sizes of the window, inputs and outputs, which ERK sums."""
        rows, columns = self.grid.matrix_shape
        window = list(getattr(self.kernel.owner, "kernel_size", ()))
        return [*window, rows // math.prod(window), columns]


def kernels_by_layer(
    model: Model, block_size: BlockSize, policy: PruningPolicy | None
) -> dict[str, list[PlannedKernel]]:
    """The kernels that `sa.prune` would prune, by the name of their layer.

    Args:
      model: a model or layer, built, without pruning.
      block_size: (rows, columns) of a block.
      policy: a `PruningPolicy`, or None for the default one of `sa.prune`.

    Raises:
      ValueError: if the model mixes Keras 2 and 3, is pruned already, is not built or
        has no layer to prune.
    """
    check_layer(model, "model")
    pruned = [
        m
        for m in sublayers(model)
        if isinstance(m, PrunableLayer) or tfmot_api.is_wrapper(m)
    ]
    if pruned:
        raise ValueError(
            f"`model` {model.name!r} is pruned already (layer {pruned[0].name!r}). Use "
            "the plain model, or `sa.strip_pruning(model)` first."
        )
    policy = policy or MinimumBlocks(block_size)
    found: dict[str, list[PlannedKernel]] = {}
    for layer in prunable_layers(model, policy):
        if not layer.built:
            raise ValueError(
                f"Layer {layer.name!r} of {model.name!r} is not built, so its kernel "
                "has no shape yet. Give the model an input shape, or call it once on a "
                "batch, `model(batch)`."
            )
        for kernel in layer_kernels.divided_kernels(layer, block_size):
            grid = kernel.grid(block_size)
            if why_too_small(grid, getattr(policy, "min_blocks", 1)) is None:
                found.setdefault(layer.name, []).append(PlannedKernel(kernel, grid))
    if not found:
        raise ValueError(
            f"`model` {model.name!r} has no layer to prune by blocks of {block_size}; "
            "sa.summary(model) lists why. Use smaller blocks or another "
            "`pruning_policy`."
        )
    return found


def _check_overall(sparsity: float) -> None:
    if not 0.0 <= sparsity < 1.0:
        raise ValueError(
            "`sparsity` must be in [0, 1): the overall share of weights to remove, "
            f"such as 0.9. Received: sparsity={sparsity!r}"
        )


def uniform_allocation(
    model: Model,
    sparsity: float,
    block_size: BlockSize = (16, 16),
    pruning_policy: PruningPolicy | None = None,
) -> dict[str, float]:
    """The same sparsity for every layer, as in the paper and by default in `sa.prune`.

    Args:
      model: a model or layer, built.
      sparsity: share of the weights to remove, in [0, 1).
      block_size: (rows, columns) of a block, the same as for `sa.prune`.
      pruning_policy: which layers to prune, the same as for `sa.prune`.

    Returns:
      A dictionary from the name of each pruned layer to its sparsity.

    Raises:
      ValueError: for a model that is not built or has nothing to prune, or a sparsity
        out of range.

    Example:

    >>> model = keras.Sequential([keras.layers.Dense(64, input_shape=(64,), name="d")])
    >>> uniform_allocation(model, 0.75, block_size=(4, 4))
    {'d': 0.75}
    """
    _check_overall(sparsity)
    found = kernels_by_layer(model, block_size, pruning_policy)
    return dict.fromkeys(found, float(sparsity))


def _scaled_densities(
    raw: np.ndarray, entries: np.ndarray, density: float
) -> np.ndarray:
    """`min(1, e * raw)` with the `e` at which the kept entries make up `density`."""
    raw, entries = np.asarray(raw, float), np.asarray(entries, float)
    is_dense = np.zeros(len(raw), bool)
    while True:
        budget = density * entries.sum() - entries[is_dense].sum()
        scaled = np.where(is_dense, 1.0, raw)
        if not is_dense.all():
            scaled[~is_dense] *= budget / (raw * entries)[~is_dense].sum()
        # A kernel that would keep more than it has is dense; the rest share the budget.
        if not (scaled > 1.0).any():
            return scaled
        is_dense |= scaled >= 1.0


def erdos_renyi_allocation(
    model: Model,
    sparsity: float,
    block_size: BlockSize = (16, 16),
    pruning_policy: PruningPolicy | None = None,
) -> dict[str, float]:
    """Larger layers are pruned more: the Erdos-Renyi-kernel allocation (ERK).

    The share of entries that a kernel keeps is proportional to the sum of its sizes
    divided by their product, `(h + w + inputs + outputs) / (h * w * inputs * outputs)`.
    So the number of entries it keeps grows with the number of its neurons. A kernel
    that would keep more entries than it has stays dense, at sparsity 0 (Evci et al.
    2020, "Rigging the Lottery", appendix; a kernel of any rank is read as inputs by
    outputs).

    Args:
      model: a model or layer, built.
      sparsity: share of the weights to remove over all layers, in [0, 1).
      block_size: (rows, columns) of a block, the same as for `sa.prune`.
      pruning_policy: which layers to prune, the same as for `sa.prune`.

    Returns:
      A dictionary from the name of each pruned layer to its sparsity.

    Raises:
      ValueError: as `uniform_allocation`.

    Example:

    >>> model = keras.Sequential([
    ...     keras.layers.Dense(128, input_shape=(512,), name="large"),
    ...     keras.layers.Dense(64, name="small"),
    ... ])
    >>> allocation = erdos_renyi_allocation(model, 0.8, block_size=(4, 4))
    >>> {name: round(sparsity, 3) for name, sparsity in allocation.items()}
    {'large': 0.827, 'small': 0.585}
    """
    _check_overall(sparsity)
    found = kernels_by_layer(model, block_size, pruning_policy)
    entries = np.array([sum(k.entries for k in group) for group in found.values()])
    kept = [sum(sum(k.sizes) for k in group) for group in found.values()]
    raw = np.array(kept) / entries
    densities = _scaled_densities(raw, entries, 1.0 - sparsity)
    return {
        name: max(0.0, 1.0 - float(density))
        for name, density in zip(found, densities, strict=True)
    }


def _mean_squares(kernel: PlannedKernel) -> np.ndarray:
    """Mean square of the entries of each block, float `(blocks,)`."""
    norms = block_norms(stored(kernel.kernel.variable), kernel.grid)
    return (norms.numpy() ** 2 / kernel.grid.block_entries()).ravel()


def global_allocation(
    model: Model,
    sparsity: float,
    block_size: BlockSize = (16, 16),
    pruning_policy: PruningPolicy | None = None,
) -> dict[str, float]:
    """The sparsity of each layer when the blocks of all layers are ranked together.

    Blocks are ranked by the root mean square of their entries. For blocks of equal size
    that is the order of their Frobenius norms. The result is only the share of each
    layer; the importance decides which blocks go. It is meant for a trained model: in a
    new one, the initializer alone decides the ranking. Every kernel keeps at least one
    block.

    Args:
      model: a model or layer, built and trained.
      sparsity: share of the weights to remove over all layers, in [0, 1).
      block_size: (rows, columns) of a block, the same as for `sa.prune`.
      pruning_policy: which layers to prune, the same as for `sa.prune`.

    Returns:
      A dictionary from the name of each pruned layer to its sparsity.

    Raises:
      ValueError: as `uniform_allocation`.

    Example:

    >>> model = keras.Sequential([
    ...     keras.layers.Dense(64, input_shape=(64,), name="small_weights"),
    ...     keras.layers.Dense(64, name="large_weights"),
    ... ])
    >>> model.set_weights([0.1 * w for w in model.layers[0].get_weights()]
    ...                   + model.layers[1].get_weights())
    >>> allocation = global_allocation(model, 0.5, block_size=(4, 4))
    >>> {name: round(sparsity, 2) for name, sparsity in allocation.items()}
    {'small_weights': 1.0, 'large_weights': 0.0}
    """
    _check_overall(sparsity)
    found = kernels_by_layer(model, block_size, pruning_policy)
    every = [kernel for group in found.values() for kernel in group]
    scores = [_mean_squares(kernel) for kernel in every]
    for score in scores:
        # A kernel keeps at least its best block (as `keep_count`).
        score[np.argmax(score)] = np.inf
    blocks = [kernel.grid.num_blocks for kernel in every]
    entries = [kernel.entries for kernel in every]
    # A target is a share of blocks, whichever these are, so each counts as the mean.
    mean_entries = np.repeat(np.divide(entries, blocks), blocks)
    order = np.argsort(-np.concatenate(scores), kind="stable")
    budget = (1.0 - sparsity) * sum(entries)
    num_kept = np.searchsorted(np.cumsum(mean_entries[order]), budget) + 1
    of_kernel = np.repeat(np.arange(len(every)), blocks)
    kept_of = np.bincount(of_kernel[order[:num_kept]], minlength=len(every))
    kept_blocks = iter(kept_of.tolist())
    allocation = {}
    for name, group in found.items():
        kept = sum(next(kept_blocks) for _ in group)
        allocation[name] = 1.0 - kept / sum(k.grid.num_blocks for k in group)
    return allocation
