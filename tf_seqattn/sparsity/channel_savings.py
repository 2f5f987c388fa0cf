"""What the masks of a model's channels save."""

import math
from typing import NamedTuple

import numpy as np

from tf_seqattn.keras_api import MODELS, Model, arrays_of, sublayers
from tf_seqattn.kernels.channel_cost import entries_left, multiply_adds
from tf_seqattn.kernels.channel_groups import channel_groups
from tf_seqattn.kernels.channel_walk import has_graph
from tf_seqattn.kernels.inner_calls import call_of
from tf_seqattn.sparsity.channel_layer import ChannelLayer
from tf_seqattn.sparsity.channel_pruning import why_not_prunable
from tf_seqattn.sparsity.channel_units import ChannelUnits
from tf_seqattn.sparsity.wrapper import pruned_layers


class Savings(NamedTuple):
    """A model whose channels are pruned, now and after `sa.shrink`.

    Attributes:
      multiply_adds: of the whole model, for one sample.
      multiply_adds_left: without the channels whose mask is 0.
      parameters: entries of all weights.
      parameters_left: without those channels.
      frozen: for each layer whose channels must stay, the reason.
    """

    multiply_adds: int
    multiply_adds_left: int
    parameters: int
    parameters_left: int
    frozen: dict[str, str]

    def __str__(self) -> str:
        work = self.multiply_adds_left / max(1, self.multiply_adds)
        size = self.parameters_left / max(1, self.parameters)
        return (
            f"sa.shrink leaves {self.multiply_adds_left:,} of {self.multiply_adds:,} "
            f"multiply-adds ({work:.1%}) and {self.parameters_left:,} of "
            f"{self.parameters:,} parameters ({size:.1%})"
        )


def _channel_layers(model: Model) -> list[ChannelLayer]:
    return [m for m in sublayers(model) if isinstance(m, ChannelLayer)]


def _model_with_channels(model: Model) -> Model | None:
    """The outermost model that holds all layers whose channels are pruned.

    One with a graph comes first, which a subclassed model, such as one of TFRS, may
    hold. A subclassed one must have been called, so that the walk knows its inputs.
    """
    number = len(_channel_layers(model))
    models = [m for m in sublayers(model) if isinstance(m, MODELS)]
    holding = [m for m in models if number and len(_channel_layers(m)) == number]
    graphs = [m for m in holding if has_graph(m)]
    called = [m for m in holding if not has_graph(m) and call_of(m) is not None]
    return next(iter([*graphs, *called]), None)


def channel_savings(model: Model) -> Savings | None:
    """What the masks of the channels of a model save; None if it has no masks.

    Args:
      model: a model, or a layer.
    """
    holding = _model_with_channels(model)
    if holding is None:
        return None
    wrappers = _channel_layers(holding)
    groups = channel_groups(holding)
    trace = groups.trace
    live = np.ones(trace.units.size, bool)
    for wrapper in wrappers:
        for found in wrapper.slices:
            weight = wrapper.layer.weights[found.weight]
            labels = trace.places[(id(weight), found.axis)].labels
            gone = labels[~wrapper.kept_entries(found)]
            live[trace.units.find(gone)] = False
    own = {
        id(weight)
        for group in pruned_layers(holding)
        if isinstance(group.layer, ChannelUnits)
        for weight in group.weights
    }
    weights = [w for w in arrays_of(holding) if id(w) not in own]
    frozen = dict(groups.frozen)
    for group in groups:
        why = why_not_prunable(group)
        if why is not None:
            frozen.setdefault(group.name, why)
    return Savings(
        multiply_adds(trace),
        multiply_adds(trace, live),
        sum(math.prod(w.shape) for w in weights),
        sum(entries_left(trace, w, live) for w in weights),
        frozen,
    )
