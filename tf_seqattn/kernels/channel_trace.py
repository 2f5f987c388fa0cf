"""What one walk over the graph of a model finds out about its channels."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tf_seqattn.keras_api import GraphCall, Layer, Variable, flat
from tf_seqattn.kernels.channel_labels import (
    FROZEN,
    Array,
    Channels,
    Labels,
    Units,
    Values,
    channels,
    fixed,
    narrowed,
)
from tf_seqattn.kernels.code_numbers import numbers_of

# Tells for each label whether its channel stays.
Alive = Callable[[Labels], npt.NDArray[np.bool_]]
# What an argument is once only the channels that are alive stay.
Edit = Callable[[Alive], Any]


def count(labels: Labels) -> Edit:
    """The number of channels that stay."""
    return lambda alive: int(alive(labels).sum())


@dataclasses.dataclass
class Place:
    """An axis of a weight, and whose channels its entries belong to.

    Attributes:
      layer: the layer that has the weight.
      variable: the weight.
      axis: the axis.
      labels: `(size,)`, one for each entry along the axis.
      reads: whether the entries multiply channels, in a sum over them.
      values: `(size,)`, the constant that each channel read has, or NaN.
      folds: whether constants that are read may go into the bias of the layer.
      name: of the layer, behind those of the layers that it is in.
    """

    layer: Layer
    variable: Variable
    axis: int
    labels: Labels
    reads: bool = False
    values: Values | None = None
    folds: bool = False
    name: str = ""


class Work(NamedTuple):
    """How often one call multiplies by a kernel, for one sample."""

    variable: Variable
    times: int


class Trace:
    """The units of a model, and all that depends on how many of them stay.

    Attributes:
      units: the labels.
      places: the axes of weights, by (id of the weight, axis).
      sizes: for the id of a layer, or the key of a call of an operation, how its
        arguments follow from the channels that stay.
      work: the products with kernels, call by call.
      holders: layers that were followed through the layers that they hold, by id.
      inner: the last call of each layer that another one holds, by id.
      left: the reason for each layer with weights that has no rule, by name.
    """

    def __init__(self) -> None:
        self.units = Units()
        self.places: dict[tuple[int, int], Place] = {}
        self.sizes: dict[int, dict[str, Edit]] = {}
        self.layers: dict[int, Layer] = {}
        self.work: list[Work] = []
        self.holders: dict[int, Layer] = {}
        self.inner: dict[int, tuple[Call, GraphCall | None]] = {}
        self.left: dict[str, str] = {}
        # The inputs of nested models in their first call.
        self.nested: dict[int, list[Channels]] = {}

    def mark(
        self,
        layer: Layer,
        variable: Variable,
        axis: int,
        labels: Labels,
        reads: bool = False,
        values: Values | None = None,
        folds: bool = False,
        name: str = "",
    ) -> None:
        """Says whose channels the entries along an axis of a weight belong to.

        A layer that is called twice joins the channels of both calls.
        """
        rank = len(variable.shape)
        key = (id(variable), axis % rank)
        self.layers[id(layer)] = layer
        before = self.places.get(key)
        if before is None:
            self.places[key] = Place(
                layer, variable, axis % rank, labels, reads, values, folds, name
            )
            return
        self.units.join(before.labels, labels, f"{layer.name} is shared")
        if before.values is not None and values is not None:
            same = before.values == values
            before.values = np.where(same, values, np.nan)

    def settled(self, found: Channels) -> Channels:
        """The same channels, joined so that labels differ along one axis only.

        What is left after a removal must be a rectangle. The axis with the most labels
        keeps them.
        """
        labels = narrowed(self.units.find(found.labels))
        axes = [axis for axis, size in enumerate(labels.shape) if size > 1]
        if len(axes) > 1:

            def distinct(axis: int) -> int:
                others = tuple(a for a in axes if a != axis)
                return len(np.unique(labels.min(axis=others)))

            best = max(axes, key=lambda axis: (distinct(axis), axis))
            for axis in axes:
                if axis != best:
                    self.units.join(labels, labels.take([0], axis), "a reshape")
            labels = narrowed(self.units.find(labels))
            return self.settled(dataclasses.replace(found, labels=labels))
        for axis in axes:
            if found.shape[axis] is None:
                self.units.freeze(labels, "an axis of unknown size")
                labels = narrowed(self.units.find(labels))
        return dataclasses.replace(found, labels=labels)


@dataclasses.dataclass
class Call:
    """A call of a layer or an operation, with `Channels` in place of tensors.

    Attributes:
      trace: what is found.
      layer: the layer or operation.
      args: positional arguments.
      kwargs: keyword arguments.
      shapes: shape of each output.
      key: of the call.
      holders: the custom layers that it is a part of, from the outermost one.
    """

    trace: Trace
    layer: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    shapes: list[tuple[int | None, ...]]
    key: int
    holders: tuple[Layer, ...] = ()

    @property
    def units(self) -> Units:
        return self.trace.units

    @property
    def name(self) -> str:
        return "/".join(str(layer.name) for layer in (*self.holders, self.layer))

    @property
    def tensors(self) -> list[Channels]:
        """All tensors among the arguments."""
        given = flat((self.args, self.kwargs))
        return [value for value in given if isinstance(value, Channels)]

    @property
    def input(self) -> Channels:
        """The first tensor."""
        return self.tensors[0]

    @property
    def shape(self) -> tuple[int | None, ...]:
        """The shape of the first output."""
        return self.shapes[0]

    def mark(self, variable: Variable, axis: int, labels: Labels) -> None:
        """`Trace.mark` for a weight of this layer that only goes along."""
        self.trace.mark(self.layer, variable, axis, labels, name=self.name)

    def read(
        self,
        variable: Variable,
        axis: int,
        labels: Labels,
        values: Values | None = None,
        folds: bool = False,
    ) -> None:
        """`Trace.mark` for a weight of this layer that reads channels."""
        # A custom layer may use the bias of a layer in another way.
        folds = folds and not self.holders
        self.trace.mark(
            self.layer, variable, axis, labels, True, values, folds, self.name
        )

    def resize(self, **sizes: Edit) -> None:
        """Says how arguments of the layer's constructor follow from what stays."""
        self.trace.layers[id(self.layer)] = self.layer
        self.trace.sizes.setdefault(id(self.layer), {}).update(sizes)

    def edit(self, **arguments: Edit) -> None:
        """Says how arguments of this call of an operation follow from what stays.

        Inside a custom layer they are a part of its code, which cannot be changed.
        """
        if not self.holders:
            self.trace.sizes.setdefault(self.key, {}).update(arguments)
        elif any(map(self._is_fixed, arguments.values())):
            why = f"{self.what} has a fixed size"
            for tensor in self.tensors:
                self.units.freeze(tensor.labels, why)

    def _is_fixed(self, edit: Edit) -> bool:
        """Whether code of a custom layer would have to change.

        A size that neither its attributes nor its code give as a number counts as
        computed from its inputs.
        """
        now = edit(lambda labels: np.ones(np.shape(labels), bool))
        none = edit(lambda labels: np.zeros(np.shape(labels), bool))
        if now == none:
            return False
        if not all(isinstance(size, int) for size in now):
            return True
        changed = {a for a, b in zip(now, none, strict=True) if a != b}
        return bool(changed & numbers_of(self.holders[-1]))

    def along(self, found: Channels, axis: int) -> tuple[Labels, Values]:
        """Labels and values along an axis; labels along another one are frozen."""
        axis %= len(found.shape)
        differs = found.axis()
        if differs is not None and differs != axis:
            self.units.freeze(found.labels, f"{self.what} mixes them with other axes")
            found = self.trace.settled(found)
        labels, values = found.along(axis)
        return self.units.find(labels), values

    def new(self, size: int) -> Labels:
        """New labels for the outputs of this layer."""
        return self.units.new(size, self.name)

    @property
    def what(self) -> str:
        """Class and name, for reasons."""
        kind = type(self.layer).__name__
        if kind in ("TFOpLambda", "SlicingOpLambda"):
            return f"{self.layer.get_config()['function']} ({self.name})"
        return f"{kind} ({self.name})"

    def give_up(self, why: str | None = None) -> list[Channels]:
        """Freezes what is read, and gives outputs that may not be removed."""
        reason = why or f"{self.what} has no rule"
        for tensor in self.tensors:
            self.units.freeze(tensor.labels, reason)
        return [fixed(shape) for shape in self.shapes]


def merged(
    call: Call, operands: Sequence[Any], compute: Callable[..., Any]
) -> Channels:
    """Channels of an elementwise operation with broadcasting: they go together.

    Args:
      call: the call.
      operands: `Channels`, and constants.
      compute: the operation itself, on arrays.
    """
    shape = call.shape
    rank = len(shape)

    def spread(array: Array) -> Array:
        return array.reshape((1,) * (rank - array.ndim) + array.shape)

    tensors = [o for o in operands if isinstance(o, Channels)]
    labels = [spread(call.units.find(t.labels)) for t in tensors]
    sizes = [(1,) * (rank - len(t.shape)) + t.shape for t in tensors]
    joined: Labels | None = None
    for index, (own, size) in enumerate(zip(labels, sizes, strict=True)):
        others = [found for i, found in enumerate(labels) if i != index]
        repeated = any(
            size[axis] == 1 and any(other.shape[axis] > 1 for other in others)
            for axis in range(1, rank)
        )
        if repeated:
            call.units.freeze(own, f"{call.what} repeats it over channels")
        elif joined is None:
            joined = own
        else:
            call.units.join(joined, own, f"{call.what} ties it to one that stays")
            joined = np.broadcast_arrays(joined, own)[0]
    constants = [_constant(o) for o in operands if not isinstance(o, Channels)]
    if joined is None:
        joined = np.full((1,) * rank, FROZEN)
    for constant in constants:
        if constant is None or any(
            a > 1 and b > 1
            for a, b in zip(spread(constant).shape, joined.shape, strict=True)
        ):
            call.units.freeze(joined, f"{call.what} has a constant for each channel")
    values = _computed(
        [
            spread(o.values) if isinstance(o, Channels) else _constant(o)
            for o in operands
        ],
        compute,
    )
    return call.trace.settled(channels(shape, call.units.find(joined), values))


def _constant(value: Any) -> Array | None:
    try:
        array = np.asarray(value, np.float64)
    except (TypeError, ValueError):
        return None
    return array


def _computed(operands: Sequence[Any], compute: Callable[..., Any]) -> Values | None:
    """Applies an elementwise operation where all operands are known."""
    if any(operand is None for operand in operands):
        return None
    arrays = np.broadcast_arrays(*operands)
    unknown = np.any([np.isnan(array) for array in arrays], axis=0)
    if unknown.all():
        return None
    safe = [np.nan_to_num(array).astype(np.float32) for array in arrays]
    try:
        result = np.asarray(compute(*safe), np.float64)
    except (AttributeError, TypeError, ValueError, tf.errors.OpError):
        # An operation that takes no floats: its result counts as no constant.
        return None
    return np.where(unknown, np.nan, result)


def mapped(call: Call, compute: Callable[[Any], Any]) -> Channels:
    """Channels of an elementwise function of the first tensor."""
    return merged(call, [call.input], compute)
