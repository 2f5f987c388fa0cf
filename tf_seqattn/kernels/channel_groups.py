"""The groups of channels of a model that can be removed."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from tf_seqattn.keras_api import Model, check_layer
from tf_seqattn.kernels.channel_cost import multiply_adds
from tf_seqattn.kernels.channel_labels import FROZEN, Labels
from tf_seqattn.kernels.channel_trace import Place, Trace
from tf_seqattn.kernels.channel_walk import trace_channels
from tf_seqattn.text_table import print_table

# How many layers a line names.
_NAMES_SHOWN = 4


@dataclasses.dataclass(frozen=True)
class ChannelGroup:
    """Channels that stand at the same places: some of them may go, but not all.

    Attributes:
      name: of the first layer that computes them.
      labels: `(units,)`, the label of each unit. A unit goes as a whole: it is one
        channel of every layer here, or a head, or a group of a grouped convolution.
      places: the axes of weights that get shorter.
    """

    name: str
    labels: Labels
    places: tuple[Place, ...]

    @property
    def units(self) -> int:
        """Number of units."""
        return len(self.labels)

    @property
    def layers(self) -> list[str]:
        """Names of the layers that get smaller, in the order of computation."""
        return list(dict.fromkeys(place.name for place in self.places))

    @property
    def readers(self) -> list[Place]:
        """The axes that multiply these channels, in a sum over them."""
        return [place for place in self.places if place.reads]

    def positions(self, place: Place, trace: Trace) -> Labels:
        """The unit of each entry along a place, or -1 for one of another group."""
        order = np.argsort(self.labels)
        roots = trace.units.find(place.labels)
        at = np.minimum(np.searchsorted(self.labels[order], roots), self.units - 1)
        return np.where(self.labels[order][at] == roots, order[at], -1)


@dataclasses.dataclass(frozen=True)
class ChannelGroups(Sequence[ChannelGroup]):
    """All groups of a model, a sequence; `print` shows them.

    Attributes:
      groups: in the order of computation.
      frozen: for each layer whose channels must stay, the reason.
      trace: what the walk over the graph found.
    """

    groups: tuple[ChannelGroup, ...]
    frozen: dict[str, str]
    trace: Trace = dataclasses.field(repr=False)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        return self.groups[index]

    def __len__(self) -> int:
        return len(self.groups)

    def __iter__(self) -> Iterator[ChannelGroup]:
        return iter(self.groups)

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of the whole model for one sample."""
        return multiply_adds(self.trace)

    def print(self, print_fn: Callable[[str], object] = print) -> None:
        """Prints a line for each group, and one for each layer that must stay."""
        rows = [(g.name, str(g.units), _names(g.layers)) for g in self.groups]
        rows += [(name, "", f"stays: {why}") for name, why in self.frozen.items()]
        print_table(("channels of", "units", "layers"), rows, print_fn)

    def __str__(self) -> str:
        lines: list[str] = []
        self.print(lines.append)
        return "\n".join(lines)


def _names(names: list[str]) -> str:
    shown = ", ".join(names[:_NAMES_SHOWN])
    more = len(names) - _NAMES_SHOWN
    return f"{shown} and {more} more" if more > 0 else shown


def groups_of(trace: Trace) -> ChannelGroups:
    """Sorts the units of a trace into groups."""
    places = list(trace.places.values())
    standing: dict[int, list[int]] = {}
    for index, place in enumerate(places):
        for root in np.unique(trace.units.find(place.labels)).tolist():
            standing.setdefault(root, []).append(index)
    standing.pop(FROZEN, None)
    by_places: dict[tuple[int, ...], list[int]] = {}
    for root, indices in sorted(standing.items()):
        by_places.setdefault(tuple(indices), []).append(root)
    origins = trace.units.origins()
    groups = [
        ChannelGroup(
            origins[roots[0]],
            np.array(roots, np.int64),
            tuple(places[index] for index in indices),
        )
        for indices, roots in by_places.items()
    ]
    frozen = {**trace.left, **trace.units.frozen()}
    return ChannelGroups(tuple(groups), frozen, trace)


def channel_groups(model: Model) -> ChannelGroups:
    """Finds all groups of channels that must be removed together.

    One walk over the graph gives every element of every tensor a label: that of the
    channel it belongs to. Additions, products, concatenations, reshapes, normalizations
    and shared layers say which labels go together (Structurally Prune Anything, arXiv
    2403.18955, calls the results units and groups).

    A custom layer, or a subclassed model, is followed by running its `call` on symbolic
    tensors: what it calls inside has rules. Where that fails, the layer is frozen, with
    the error as the reason. It can give a rule of its own: a method
    `channel_rule(call)`, see `tf_seqattn.kernels.channel_trace.Call`.

    Channels stay if they are an output of the model, if a normalization over channels
    (LayerNormalization) or a softmax reads them, since its statistics would change, if
    a custom layer multiplies them by weights of its own or reshapes them to a size that
    it holds as a number, or if an operation without a rule reads them.

    Args:
      model: a built model of Keras 2 or Keras 3. A subclassed one must have been called
        on a batch.

    Returns:
      A sequence of `ChannelGroup`, which `print` shows with the reasons for all layers
      whose channels stay.

    Raises:
      ValueError: for anything but a model of Keras, or one that is not built.

    Example:

    >>> x = keras.Input((8, 8, 3))
    >>> y = keras.layers.Conv2D(16, 3, padding="same", name="stem")(x)
    >>> z = keras.layers.Conv2D(16, 3, padding="same", name="inner")(y)
    >>> y = keras.layers.Flatten()(keras.layers.Add()([y, z]))
    >>> model = keras.Model(x, keras.layers.Dense(10, name="head")(y))
    >>> [(g.name, g.units, g.layers) for g in channel_groups(model)]
    [('stem', 16, ['stem', 'inner', 'head'])]
    """
    check_layer(model, "model")
    if not model.built:
        raise ValueError(
            f"Model {model.name!r} is not built, so its kernels have no shapes yet. "
            "Call it once on a batch, `model(batch)`."
        )
    return groups_of(trace_channels(model))
