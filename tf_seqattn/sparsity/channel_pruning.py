"""Wrapping a model so that its coupled channels are pruned."""

import collections
import functools
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from tf_seqattn.keras_api import (
    MODELS,
    Layer,
    Model,
    arrays_of,
    classes,
    is_graph_model,
    keras_of,
    sublayers,
    uncompile,
)
from tf_seqattn.kernels.channel_cost import entries_left, multiply_adds
from tf_seqattn.kernels.channel_groups import (
    ChannelGroup,
    ChannelGroups,
    channel_groups,
)
from tf_seqattn.kernels.channel_trace import Place, Trace
from tf_seqattn.kernels.layer_kernels import find_kernels, is_supported
from tf_seqattn.kernels.live_channels import Mask
from tf_seqattn.model_editing import clone, replace_sublayers
from tf_seqattn.sparsity.allocation import retargeted
from tf_seqattn.sparsity.channel_layer import ChannelLayer, Slices
from tf_seqattn.sparsity.channel_units import UNITS, is_normalization, kept_units
from tf_seqattn.sparsity.importance import (
    Importance,
    NormalizationScale,
    PowerPropagation,
)
from tf_seqattn.sparsity.wrapper import PrunableLayer, default_importance, pruned_layers
from tf_seqattn.tfmot_api import Schedule

logger = logging.getLogger("tf_seqattn")

# Where the bisection for a number of multiply-adds begins, and ends.
LARGEST_SHARE, _PRECISION = 0.99, 1e-3
# In place of a block size: whole channels, with all that are coupled to them.
CHANNELS = "channels"


def is_channels(block_size: object) -> bool:
    """Whether a block size stands for whole channels."""
    return isinstance(block_size, str) and block_size == CHANNELS


def prune_channels(
    model: Model,
    pruning_schedule: Schedule,
    importance: Importance | None = None,
    round_to: int = 8,
    target_flops: float | None = None,
    target_parameters: float | None = None,
) -> Any:
    """`sa.prune(model, ..., block_size="channels")`: see there.

    Args:
      model: a built model. A subclassed one, and custom layers that hold others, are
        changed in place.
      pruning_schedule: when to prune, and what share of the units of each group.
      importance: what to score, by default `SoftmaxAttention(rank="effective",
        logit_rate=1.0)`.
      round_to: the units of a group that stay are a multiple of it.
      target_flops: the share of the model's multiply-adds to keep. It takes the place
        of the schedule's target; see `shares_for`.
      target_parameters: likewise of its weights.
    """
    check_channels(model, importance, round_to)
    if target_flops is not None and target_parameters is not None:
        raise ValueError(
            "Give `target_flops` or `target_parameters`, not both. Received: "
            f"target_flops={target_flops!r}, target_parameters={target_parameters!r}"
        )
    groups = channel_groups(model)
    wrapping = _Wrapping(groups, isinstance(importance, NormalizationScale))
    targets = {
        "target_flops": (target_flops, functools.partial(multiply_adds, groups.trace)),
        "target_parameters": (
            target_parameters,
            functools.partial(_parameters, model, groups.trace),
        ),
    }
    schedules = [pruning_schedule] * len(wrapping.prunable)
    for name, (target, count) in targets.items():
        if target is not None:
            _check_target(name, target)
            shares = shares_for(groups, wrapping.prunable, count, target, round_to)
            schedules = [retargeted(pruning_schedule, share) for share in shares]
    for group, schedule in zip(wrapping.prunable, schedules, strict=True):
        wrapping.add(group, schedule, importance, round_to)
    if wrapping.left and wrapping.groups:
        logger.warning("Channels left alone by sa.prune:%s", _lines(wrapping.left))
    if not wrapping.groups:
        reasons = _lines({**groups.frozen, **wrapping.left})
        logger.warning("No channels are pruned by sa.prune:%s", reasons)
    elif not is_graph_model(model):
        uncompile(model)
    wrapped = wrapping(model)
    for group in wrapping.groups:
        group._prune_without_training()
    return wrapped


def _lines(reasons: Mapping[str, str]) -> str:
    return "".join(f"\n  {name}: {why}" for name, why in reasons.items())


def check_channels(model: Model, importance: Importance | None, round_to: int) -> None:
    """Raises a ValueError for arguments that `prune_channels` cannot serve."""
    if not isinstance(model, MODELS):
        raise ValueError(
            'block_size="channels" needs a whole model, which says which channels go '
            f"together. Received: {type(model).__name__} {model.name!r}"
        )
    if pruned_layers(model):
        raise ValueError(
            f"Model {model.name!r} is pruned already. Channels are pruned first: then "
            "`sa.shrink`, and blocks of what is left."
        )
    if isinstance(importance, PowerPropagation):
        raise ValueError(
            "`importance` PowerPropagation stores a rescaled kernel, which channels "
            "that several layers share do not have. Use sa.SoftmaxAttention() or "
            "sa.Magnitude(). Received: importance=PowerPropagation()"
        )
    if isinstance(round_to, bool) or not isinstance(round_to, int) or round_to < 1:
        raise ValueError(
            "`round_to` must be a positive integer, such as 8; 1 does not round. "
            f"Received: round_to={round_to!r}"
        )


def _check_target(name: str, target: float) -> None:
    if not 0.0 < target < 1.0:
        raise ValueError(
            f"`{name}` must be between 0 and 1: the share to keep. "
            f"Received: {name}={target!r}"
        )


def _parameters(model: Model, trace: Trace, live: Mask) -> int:
    """Entries of all weights of a model, for the channels that are live."""
    return sum(entries_left(trace, weight, live) for weight in arrays_of(model))


def live_after(
    groups: ChannelGroups, removed: Iterable[tuple[ChannelGroup, float]], round_to: int
) -> Mask:
    """Which channels are live without a share of each group: so many, not which.

    Args:
      groups: of the model.
      removed: groups, each with the share of its units to remove.
      round_to: see `prune_channels`.

    Returns:
      Bool array over the labels.
    """
    live = np.ones(groups.trace.units.size, bool)
    for group, share in removed:
        live[group.labels[int(kept_units(group.units, share, round_to)) :]] = False
    return live


def shares_for(
    groups: ChannelGroups,
    prunable: Sequence[ChannelGroup],
    count: Callable[[Mask], int],
    target: float,
    round_to: int,
) -> list[float]:
    """The smallest share to remove of each group that leaves so much of a model.

    It is the same for all groups. If they are narrow, rounding makes many of them lose
    units at the same share, which may leave far less than the target. Then only as many
    of them as are needed take this last step.

    Args:
      groups: of the model.
      prunable: those to prune.
      count: what is left for the channels that are live, such as its multiply-adds.
      target: share of it that may be left, in (0, 1).
      round_to: see `prune_channels`.

    Returns:
      One share for each of `prunable`.

    Raises:
      ValueError: if the target is beyond what can be removed.
    """

    def left(shares: Sequence[float]) -> int:
        removed = zip(prunable, shares, strict=True)
        return count(live_after(groups, removed, round_to))

    number = len(prunable)
    whole = left([0.0] * number)
    low, high = 0.0, LARGEST_SHARE
    if left([high] * number) > target * whole:
        raise ValueError(
            f"A target of {target:.1%} cannot be reached: removing {high:.0%} of each "
            f"group leaves {left([high] * number) / whole:.1%}. "
            "print(sa.channel_groups(model)) shows what stays, and why."
        )
    while high - low > _PRECISION:
        middle = (low + high) / 2
        is_too_much = left([middle] * number) > target * whole
        low, high = (middle, high) if is_too_much else (low, middle)

    shares = [low] * number
    waiting = [
        place
        for place, group in enumerate(prunable)
        if kept_units(group.units, low, round_to)
        != kept_units(group.units, high, round_to)
    ]
    while left(shares) > target * whole:
        after = {
            place: left([*shares[:place], high, *shares[place + 1 :]])
            for place in waiting
        }
        enough = [place for place in waiting if after[place] <= target * whole]
        # The step that just suffices or, if none does, the one that saves most.
        best = max if enough else min
        step = best(enough or waiting, key=after.__getitem__)
        shares[step] = high
        waiting.remove(step)
    return shares


class _Wrapping:
    """One call of `prune_channels`: wraps each layer of a group once."""

    def __init__(self, found: ChannelGroups, by_scales: bool) -> None:
        self._found = found
        self._by_scales = by_scales
        self.prunable = prunable_groups(found)
        self.left = {g.name: why for g in found if (why := why_not_prunable(g))}
        if by_scales:
            self.prunable = _scaled(self.prunable)
        self.groups: list[PrunableLayer] = []
        self._slices: dict[int, list[Slices]] = {}
        self._layers: dict[int, list[PrunableLayer]] = {}
        self._done: dict[int, tuple[Layer, Layer]] = {}
        # How many groups begin in a layer: an attention has heads and outputs.
        self._names: collections.Counter[str] = collections.Counter()

    def add(
        self,
        group: ChannelGroup,
        schedule: Schedule,
        importance: Importance | None,
        round_to: int,
    ) -> None:
        """Makes the units of a group."""
        places = [p for p in group.places if len(p.variable.shape) > 1]
        if self._by_scales:
            places += [p for p in group.places if _is_scale(p)]
        kind = UNITS[keras_of(places[0].layer)]
        units = kind(group.units, round_to, name=self._name(group))
        if importance is None:
            importance = default_importance(schedule, of_blocks=False)
        pruned = PrunableLayer(units, schedule, (1, 1), importance)
        self.groups.append(pruned)
        for place in places:
            self._add_place(group, place, pruned)

    def _name(self, group: ChannelGroup) -> str:
        """A name of its own for each group, without the slashes that Keras refuses."""
        name = f"{group.name.replace('/', '.')}_{CHANNELS}"
        self._names[name] += 1
        return name if self._names[name] == 1 else f"{name}_{self._names[name]}"

    def _add_place(
        self, group: ChannelGroup, place: Place, pruned: PrunableLayer
    ) -> None:
        layers = self._layers.setdefault(id(place.layer), [])
        if pruned not in layers:
            layers.append(pruned)
        index = next(
            i for i, w in enumerate(place.layer.weights) if w is place.variable
        )
        positions = group.positions(place, self._found.trace)
        self._slices.setdefault(id(place.layer), []).append(
            Slices(
                index,
                place.axis,
                layers.index(pruned),
                np.asarray(positions, np.int64),
                place.reads,
            )
        )

    def __call__(self, layer: Layer) -> Layer:
        """The layer that replaces `layer`, the same one in every call."""
        if id(layer) not in self._done:
            self._done[id(layer)] = (layer, self._visit(layer))
        return self._done[id(layer)][1]

    def _visit(self, layer: Layer) -> Layer:
        if is_graph_model(layer):
            return clone(layer, self)
        if isinstance(layer, classes("InputLayer")):
            return layer.__class__.from_config(layer.get_config())
        if id(layer) in self._slices:
            return ChannelLayer(layer, self._layers[id(layer)], self._slices[id(layer)])
        if any(id(part) in self._slices for part in sublayers(layer)):
            replace_sublayers(layer, self)
        return layer


def prunable_groups(groups: ChannelGroups) -> list[ChannelGroup]:
    """The groups that `sa.prune` prunes."""
    return [group for group in groups if why_not_prunable(group) is None]


def why_not_prunable(group: ChannelGroup) -> str | None:
    """Why `sa.prune` leaves a group alone; None if it prunes it.

    There must be several units, and layers that read them and can be multiplied.
    """
    if group.units == 1:
        return "they can only go all at once"
    if not group.readers:
        return "no weight reads them"
    other = next((p.layer for p in group.readers if not _can_scale(p)), None)
    if other is None:
        return None
    return (
        f"{type(other).__name__} ({other.name}), which reads them, is a custom layer "
        "without `get_prunable_weights()`"
    )


def _is_scale(place: Place) -> bool:
    is_gamma = place.variable is getattr(place.layer, "gamma", None)
    return is_gamma and is_normalization(place.layer)


def _scaled(groups: list[ChannelGroup]) -> list[ChannelGroup]:
    """Those groups that a batch normalization scales; the log names the others."""
    others = [g.name for g in groups if not any(map(_is_scale, g.places))]
    if others:
        logger.warning(
            "No batch normalization scales the channels of %s: sa.NormalizationScale() "
            "leaves them alone.",
            ", ".join(others),
        )
    return [g for g in groups if g.name not in others]


def _can_scale(place: Place) -> bool:
    """Whether the wrapper can put another kernel in the place of this one."""
    if not is_supported(place.layer):
        return False
    return any(
        kernel.variable is place.variable for kernel in find_kernels(place.layer)
    )
