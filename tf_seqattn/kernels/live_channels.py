"""Which channels of a model count: what the others compute changes no output."""

import collections

import numpy as np
import numpy.typing as npt

from tf_seqattn.keras_api import stored
from tf_seqattn.kernels.channel_groups import ChannelGroups
from tf_seqattn.kernels.channel_labels import FROZEN
from tf_seqattn.kernels.channel_trace import Place, Trace

Mask = npt.NDArray[np.bool_]


class _Reader:
    """A place that reads, with what decides whether its channels count."""

    def __init__(self, place: Place, others: list[Place], trace: Trace) -> None:
        self.rows = trace.units.find(place.labels)
        reads = np.asarray(stored(place.variable)) != 0
        self.reads = np.moveaxis(reads, place.axis, 0)
        remaining = [a for a in range(reads.ndim) if a != place.axis]
        self.others = [
            (1 + remaining.index(o.axis), trace.units.find(o.labels)) for o in others
        ]
        self.needed = np.ones(len(self.rows), bool)
        if place.values is not None:
            constant = (place.values == 0) | (place.folds & ~np.isnan(place.values))
            self.needed = ~constant

    def living_rows(self, live: Mask) -> npt.NDArray[np.int64]:
        """Labels of the channels that some living output reads."""
        reads = self.reads
        for axis, labels in self.others:
            reads = np.compress(live[labels], reads, axis)
        read = reads.any(axis=tuple(range(1, reads.ndim)))
        return self.rows[read & self.needed]


def live_channels(groups: ChannelGroups) -> Mask:
    """Tells for each label whether its channel counts.

    A channel counts if a channel that counts reads it with a weight other than 0, and
    it is not a constant that the reader can do without: 0, or one that its bias can
    take. Every group keeps one unit.

    Args:
      groups: what `channel_groups` found.

    Returns:
      Bool array over the labels, by the label that stands for each class.
    """
    trace = groups.trace
    by_variable = collections.defaultdict(list)
    for place in trace.places.values():
        by_variable[id(place.variable)].append(place)
    readers = [
        _Reader(p, [o for o in by_variable[id(p.variable)] if o is not p], trace)
        for p in trace.places.values()
        if p.reads
    ]
    live = np.zeros(trace.units.size, bool)
    live[FROZEN] = True
    changed = True
    while changed:
        changed = False
        for reader in reversed(readers):
            if live[reader.rows].all():
                continue
            rows = reader.living_rows(live)
            if not live[rows].all():
                live[rows] = True
                changed = True
    for group in groups:
        if not live[group.labels].any():
            live[group.labels[0]] = True
    return live
