"""Wrapping a model so that its coupled channels are pruned."""

import logging
from typing import Any

import numpy as np

from tf_seqattn.keras_api import (
    Layer,
    Model,
    is_graph_model,
    keras_of,
)
from tf_seqattn.kernels.channel_groups import (
    ChannelGroup,
    ChannelGroups,
    channel_groups,
)
from tf_seqattn.kernels.channel_trace import Place
from tf_seqattn.kernels.layer_kernels import find_kernels, is_supported
from tf_seqattn.model_editing import clone
from tf_seqattn.sparsity.channel_layer import ChannelLayer, Slices
from tf_seqattn.sparsity.channel_units import UNITS
from tf_seqattn.sparsity.importance import Importance, PowerPropagation
from tf_seqattn.sparsity.wrapper import PrunableLayer, pruned_layers
from tf_seqattn.tfmot_api import Schedule

logger = logging.getLogger("tf_seqattn")

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
) -> Any:
    """`sa.prune(model, ..., block_size="channels")`: see there.

    Args:
      model: a built Sequential or functional model.
      pruning_schedule: when to prune, and what share of the units of each group.
      importance: what to score, `SoftmaxAttention()` by default.
      round_to: the units of a group that stay are a multiple of it.
    """
    _check(model, importance, round_to)
    groups = channel_groups(model)
    wrapping = _Wrapping(groups)
    for group in groups:
        wrapping.add(group, pruning_schedule, importance, round_to)
    if not wrapping.groups:
        reasons = "".join(f"\n  {n}: {why}" for n, why in groups.frozen.items())
        logger.warning("No channels are pruned by sa.prune:%s", reasons)
    wrapped = wrapping(model)
    for group in wrapping.groups:
        group._prune_without_training()
    return wrapped


def _check(model: Model, importance: Importance | None, round_to: int) -> None:
    if not is_graph_model(model):
        raise ValueError(
            'block_size="channels" needs a Sequential or functional model, whose graph '
            "says which channels go together. Received: "
            f"{type(model).__name__} {getattr(model, 'name', model)!r}"
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


class _Wrapping:
    """One call of `prune_channels`: wraps each layer of a group once."""

    def __init__(self, found: ChannelGroups) -> None:
        self._found = found
        self.groups: list[PrunableLayer] = []
        self._slices: dict[int, list[Slices]] = {}
        self._layers: dict[int, list[PrunableLayer]] = {}
        self._done: dict[int, tuple[Layer, Layer]] = {}

    def add(
        self,
        group: ChannelGroup,
        schedule: Schedule,
        importance: Importance | None,
        round_to: int,
    ) -> None:
        """Makes the units of a group, if there are several and all can be scaled."""
        places = [p for p in group.places if len(p.variable.shape) > 1]
        readers = [p for p in places if p.reads]
        if group.units == 1 or not readers or not all(map(_can_scale, readers)):
            return
        kind = UNITS[keras_of(places[0].layer)]
        units = kind(group.units, round_to, name=f"{group.name}_{CHANNELS}")
        pruned = PrunableLayer(units, schedule, (1, 1), importance)
        self.groups.append(pruned)
        for place in places:
            self._add_place(group, place, pruned)

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
        if type(layer).__name__ == "InputLayer":
            return layer.__class__.from_config(layer.get_config())
        if id(layer) not in self._slices:
            return layer
        return ChannelLayer(layer, self._layers[id(layer)], self._slices[id(layer)])


def _can_scale(place: Place) -> bool:
    """Whether the wrapper can put another kernel in the place of this one."""
    if not is_supported(place.layer):
        return False
    return any(
        kernel.variable is place.variable for kernel in find_kernels(place.layer)
    )
