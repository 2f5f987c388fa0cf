"""Labels that say which channel each element of a tensor belongs to.

A tensor carries an integer array of its own rank, in which an axis of constant labels
has size 1. Two channels that must be removed together have the same label. Label 0 may
not be removed.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Labels = npt.NDArray[np.int64]
# What a channel is in inference if it is the same for every input, otherwise NaN.
Values = npt.NDArray[np.float64]
FROZEN = 0


class Units:
    """A union-find over labels, which remembers why a label may not be removed.

    Example:

    >>> units = Units()
    >>> a, b = units.new(2, "first"), units.new(2, "second")
    >>> units.join(a, b)
    >>> (units.find(a) == units.find(b)).tolist()
    [True, True]
    >>> units.freeze(a[:1], "an output of the model")
    >>> units.frozen()
    {'first': 'an output of the model', 'second': 'an output of the model'}
    """

    def __init__(self) -> None:
        self._root = np.zeros(1, np.int64)
        self._members: dict[int, list[int]] = {0: [0]}
        self._origin = [""]
        self._why: dict[int, str] = {}

    @property
    def size(self) -> int:
        """Number of labels, with label 0."""
        return len(self._root)

    def new(self, count: int, origin: str) -> Labels:
        """Returns `count` new labels.

        Args:
          count: number of channels.
          origin: name of the layer that computes them.
        """
        first = len(self._root)
        labels = np.arange(first, first + count, dtype=np.int64)
        self._root = np.concatenate([self._root, labels])
        self._members.update({int(label): [int(label)] for label in labels})
        self._origin += [origin] * count
        return labels

    def find(self, labels: npt.ArrayLike) -> Labels:
        """Returns the label that stands for each class, same shape."""
        return self._root[np.asarray(labels)]

    def join(self, first: npt.ArrayLike, second: npt.ArrayLike, why: str = "") -> None:
        """Joins labels pairwise, after broadcasting.

        Args:
          first: integer array.
          second: integer array that it broadcasts with.
          why: the reason to give if one of a pair is frozen.
        """
        pairs = np.stack(np.broadcast_arrays(self.find(first), self.find(second)), -1)
        for a, b in np.unique(pairs.reshape(-1, 2), axis=0).tolist():
            self._join_two(int(self._root[a]), int(self._root[b]), why)

    def _join_two(self, a: int, b: int, why: str) -> None:
        if a == b:
            return
        if FROZEN in (a, b):
            a, b = FROZEN, max(a, b)
            known = next((self._why[m] for m in self._members[b] if m in self._why), "")
            self._why.update(dict.fromkeys(self._members[b], known or why))
        elif len(self._members[a]) < len(self._members[b]):
            a, b = b, a
        moved = self._members.pop(b)
        self._root[moved] = a
        self._members[a] += moved

    def freeze(self, labels: npt.ArrayLike, why: str) -> None:
        """Keeps channels from being removed.

        Args:
          labels: integer array.
          why: the reason, a phrase for the report.
        """
        self.join(labels, FROZEN, why)

    def frozen(self) -> dict[str, str]:
        """The first reason by the name of each layer that computes frozen channels."""
        found: dict[str, str] = {}
        for label in self._members[FROZEN][1:]:
            found.setdefault(self._origin[label], self._why.get(label, ""))
        return found

    def origins(self) -> dict[int, str]:
        """The name of the first layer that computes each class of labels."""
        return {root: self._origin[min(m)] for root, m in self._members.items()}


@dataclasses.dataclass(frozen=True)
class Channels:
    """The labels and the constant values of a tensor.

    Attributes:
      shape: the shape of the tensor, with the batch; unknown sizes are None.
      labels: of the same rank; an axis is 1 or as long as the tensor's.
      values: likewise.
    """

    shape: tuple[int | None, ...]
    labels: Labels
    values: Values

    def whole(self, array: Array) -> Array:
        """`labels` or `values` in the shape of the tensor; unknown sizes are 1."""
        return np.broadcast_to(array, known(self.shape))

    def moved(
        self,
        function: Callable[[Array], Array],
        shape: Sequence[int | None],
    ) -> "Channels":
        """The channels of a tensor whose elements only have other places.

        Args:
          function: takes an array of the shape of this tensor, returns one of `shape`.
          shape: of the result.
        """
        labels = function(self.whole(self.labels))
        values = function(self.whole(self.values))
        return channels(shape, labels, values)

    def axis(self) -> int | None:
        """The axis along which labels differ; None if they are all the same.

        Raises:
          ValueError: if they differ along several.
        """
        axes = [axis for axis, size in enumerate(self.labels.shape) if size > 1]
        if len(axes) > 1:
            raise ValueError("labels differ along several axes")
        return axes[0] if axes else None

    def along(self, axis: int) -> tuple[Labels, Values]:
        """Labels and values along one axis, `(size,)` each.

        A value that differs along other axes is NaN. Labels must not.
        """
        size = known(self.shape)[axis]
        axis %= len(self.shape)
        labels = np.moveaxis(self.labels, axis, -1).reshape(-1, self.labels.shape[axis])
        values = np.moveaxis(self.values, axis, -1).reshape(-1, self.values.shape[axis])
        same = (values == values[:1]).all(axis=0)
        return (
            np.broadcast_to(labels[0], size),
            np.broadcast_to(np.where(same, values[0], np.nan), size),
        )


def known(shape: Sequence[int | None]) -> tuple[int, ...]:
    """The shape with 1 for the batch and every other unknown size."""
    return tuple(1 if size is None else int(size) for size in shape)


def narrowed(array: Array) -> Array:
    """The array with size 1 for each axis along which it is constant.

    Example:

    >>> narrowed(np.array([[1, 2], [1, 2]])).shape
    (1, 2)
    """
    for axis, size in enumerate(array.shape):
        if size > 1:
            first = array.take([0], axis)
            same = array == first
            if array.dtype.kind == "f":
                same |= np.isnan(array) & np.isnan(first)
            if same.all():
                array = first
    return array


def channels(
    shape: Sequence[int | None],
    labels: Array,
    values: Array | None = None,
) -> Channels:
    """Makes `Channels` of arrays that broadcast to a shape. No values means unknown."""
    if values is None:
        values = np.full((1,) * len(shape), np.nan)
    return Channels(
        tuple(None if size is None else int(size) for size in shape),
        narrowed(np.asarray(labels, np.int64)),
        narrowed(np.asarray(values, np.float64)),
    )


def at_axis(
    shape: Sequence[int | None],
    axis: int,
    labels: Labels,
    values: Values | None = None,
) -> Channels:
    """`Channels` that differ along one axis only.

    Args:
      shape: of the tensor.
      axis: of the channels.
      labels: integer vector.
      values: float vector, or None.
    """
    places = [1] * len(shape)
    places[axis] = -1
    spread = None if values is None else values.reshape(places)
    return channels(shape, labels.reshape(places), spread)


def alike(shape: Sequence[int | None], label: int) -> Channels:
    """`Channels` of a tensor whose elements all have one label."""
    return channels(shape, np.full((1,) * len(shape), label))


def fixed(shape: Sequence[int | None]) -> Channels:
    """`Channels` of a tensor of which nothing may be removed."""
    return alike(shape, FROZEN)
