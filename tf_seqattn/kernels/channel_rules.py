"""How each layer of Keras treats the channels that it reads: one rule a kind.

A rule takes a `Call`, marks the weights of the layer and returns the `Channels` of its
outputs. A custom layer has a rule of its own in a method `channel_rule(call)`.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tf_seqattn.keras_api import Layer, classes, flat, projections, stored
from tf_seqattn.kernels.channel_labels import (
    Channels,
    Labels,
    Values,
    alike,
    at_axis,
    channels,
    fixed,
    known,
)
from tf_seqattn.kernels.channel_trace import Alive, Call, Edit, count, mapped, merged
from tf_seqattn.kernels.einsum import kernel_axes

Rule = Callable[[Call], Any]


@functools.cache
def is_elementwise(function: Any) -> bool:
    """Whether an activation maps each entry by itself, as softmax does not.

    Example:

    >>> is_elementwise(keras.activations.gelu), is_elementwise(tf.nn.softmax)
    (True, False)
    """
    before = np.linspace(-2, 2, 16, dtype="float32").reshape(1, 16)
    after = before + np.eye(1, 16, dtype="float32")
    try:
        first, second = (
            np.asarray(function(tf.constant(given))) for given in (before, after)
        )
    except (TypeError, ValueError):
        return False
    return first.shape == before.shape and bool((first == second)[:, 1:].all())


def channel_axis(layer: Layer, rank: int) -> int:
    """The axis of the channels of a layer's input of some rank."""
    if getattr(layer, "data_format", "channels_last") == "channels_first":
        return 1
    return rank - 1


def activated(call: Call, found: Channels) -> Channels:
    """Channels after the activation of the layer."""
    function = getattr(call.layer, "activation", None)
    if function is None:
        return found
    name = getattr(function, "__name__", getattr(function, "name", ""))
    if not is_elementwise(function):
        call.units.freeze(found.labels, f"activation {name!r} of {call.name}")
        return channels(found.shape, call.units.find(found.labels))
    return merged(call, [found], function)


def _bias(layer: Layer) -> Any:
    return layer.bias if getattr(layer, "use_bias", True) else None


def constant_outputs(
    kernel: np.ndarray, bias: np.ndarray | None, values: Values, pads: bool
) -> Values:
    """The outputs of a product that do not depend on the input.

    Args:
      kernel: (..., inputs, outputs).
      bias: (outputs,), or None.
      values: (inputs,), the constant of each input, or NaN.
      pads: whether the input is padded with zeros.

    Returns:
      (outputs,): a constant, or NaN for an output that depends on the input.
    """
    varies = np.isnan(values)
    if pads:
        varies |= values != 0
    leading = tuple(range(kernel.ndim - 2))
    reads: npt.NDArray[np.bool_] = np.any(kernel, axis=leading)
    depends = reads[varies].any(axis=0)
    summed = kernel.sum(axis=leading, dtype=np.float64)
    constant = np.where(varies, 0.0, values) @ summed
    if bias is not None:
        constant = constant + bias
    return np.where(depends, np.nan, constant)


def _dense(call: Call) -> Channels:
    layer = call.layer
    labels, values = call.along(call.input, -1)
    call.read(layer.kernel, 0, labels, values, folds=True)
    return _written(call, layer.kernel, values, pads=False, size="units")


def _written(
    call: Call, kernel: Any, values: Values, pads: bool, size: str
) -> Channels:
    """Channels of what a kernel (..., inputs, outputs) computes."""
    layer, bias = call.layer, _bias(call.layer)
    new = call.new(kernel.shape[-1])
    call.mark(kernel, -1, new)
    if bias is not None:
        call.mark(bias, 0, new)
    call.resize(**{size: count(new)})
    constants = constant_outputs(
        np.asarray(stored(kernel)),
        None if bias is None else np.asarray(stored(bias)),
        values,
        pads,
    )
    axis = channel_axis(layer, len(call.shape))
    return activated(call, at_axis(call.shape, axis, new, constants))


def _pads(layer: Layer) -> bool:
    return getattr(layer, "padding", "valid") not in ("valid", ("valid",))


def _convolution(call: Call) -> Channels:
    layer = call.layer
    if getattr(layer, "groups", 1) > 1:
        return _grouped(call)
    axis = channel_axis(layer, len(call.input.shape))
    labels, values = call.along(call.input, axis)
    pads = _pads(layer)
    call.read(layer.kernel, -2, labels, values, folds=not pads)
    return _written(call, layer.kernel, values, pads, "filters")


def _grouped(call: Call) -> Channels:
    """A group, with all its inputs and outputs, is one unit."""
    layer, groups = call.layer, call.layer.groups
    axis = channel_axis(layer, len(call.input.shape))
    labels, values = call.along(call.input, axis)
    inputs = labels.reshape(groups, -1)
    call.units.join(inputs, inputs[:, :1], call.what)
    outputs = np.repeat(call.units.find(inputs[:, 0]), layer.filters // groups)
    call.mark(layer.kernel, -1, outputs)
    bias = _bias(layer)
    if bias is not None:
        call.mark(bias, 0, outputs)
    call.resize(filters=count(outputs), groups=count(inputs[:, 0]))
    kernel = np.asarray(stored(layer.kernel))
    zero = ~kernel.any(axis=tuple(range(kernel.ndim - 1)))
    silent = (values == 0).reshape(groups, -1).all(axis=1)
    zero |= np.repeat(silent, layer.filters // groups)
    shift = 0.0 if bias is None else np.asarray(stored(bias))
    constants = np.where(zero, shift, np.nan)
    return activated(call, at_axis(call.shape, axis, outputs, constants))


def _depthwise_outputs(
    call: Call, kernel: Any, labels: Labels, values: Values
) -> tuple[Labels, Values]:
    """Labels and constants behind a depthwise kernel (..., inputs, multiplier)."""
    call.mark(kernel, -2, labels)
    array = np.asarray(stored(kernel))
    leading = tuple(range(array.ndim - 2))
    multiplier = array.shape[-1]
    constant = values[:, None] * array.sum(axis=leading, dtype=np.float64)
    if _pads(call.layer):
        constant = np.where(values[:, None] == 0, constant, np.nan)
    constant = np.where(array.any(axis=leading), constant, 0.0)
    return np.repeat(labels, multiplier), constant.reshape(-1)


def _depthwise(call: Call) -> Channels:
    layer = call.layer
    axis = channel_axis(layer, len(call.input.shape))
    labels, values = call.along(call.input, axis)
    kernel = getattr(layer, "depthwise_kernel", None)
    kernel = layer.kernel if kernel is None else kernel
    labels, values = _depthwise_outputs(call, kernel, labels, values)
    bias = _bias(layer)
    if bias is not None:
        call.mark(bias, 0, labels)
        values = values + np.asarray(stored(bias))
    return activated(call, at_axis(call.shape, axis, labels, values))


def _separable(call: Call) -> Channels:
    layer = call.layer
    axis = channel_axis(layer, len(call.input.shape))
    labels, values = call.along(call.input, axis)
    labels, values = _depthwise_outputs(call, layer.depthwise_kernel, labels, values)
    call.read(layer.pointwise_kernel, -2, labels, values)
    return _written(call, layer.pointwise_kernel, values, False, "filters")


def _transposed_convolution(call: Call) -> Channels:
    layer = call.layer
    axis = channel_axis(layer, len(call.input.shape))
    labels, values = call.along(call.input, axis)
    # Stored as (spatial..., outputs, inputs).
    call.read(layer.kernel, -1, labels, values)
    new = call.new(layer.kernel.shape[-2])
    call.mark(layer.kernel, -2, new)
    bias = _bias(layer)
    if bias is not None:
        call.mark(bias, 0, new)
    call.resize(filters=count(new))
    kernel = np.moveaxis(np.asarray(stored(layer.kernel)), -1, -2)
    constants = constant_outputs(
        kernel, None if bias is None else np.asarray(stored(bias)), values, True
    )
    return activated(call, at_axis(call.shape, axis, new, constants))


def _einsum_dense(call: Call) -> Any:
    layer = call.layer
    inputs, rest = layer.equation.replace(" ", "").split(",")
    kernel, outputs = rest.split("->")
    axes = kernel_axes(layer.equation)
    dots = "." in layer.equation
    varying = call.input.axis()
    rows, columns = axes["row_axes"], axes["column_axes"]
    if dots or len(rows) + len(columns) != len(kernel):
        return call.give_up()
    if varying is not None:
        letter = inputs[varying]
        if letter not in kernel:
            return call.give_up(f"{call.what} does not contract the channels")
        labels, values = call.along(call.input, varying)
        call.read(layer.kernel, kernel.index(letter), labels, values)
    # The first axis of the outputs that the kernel makes has units: heads, say.
    letter = min((kernel[axis] for axis in columns), key=outputs.index)
    axis = outputs.index(letter)
    new = call.new(layer.kernel.shape[kernel.index(letter)])
    call.mark(layer.kernel, kernel.index(letter), new)
    zero = ~np.asarray(stored(layer.kernel)).any(
        axis=tuple(a for a in range(len(kernel)) if kernel[a] != letter)
    )
    if layer.bias is not None:
        if letter in layer.bias_axes:
            # A bias has the axes of the outputs from the first one that it names.
            first = min(map(outputs.index, layer.bias_axes))
            call.mark(layer.bias, axis - first, new)
        zero &= False
    shape = tuple(layer.get_config()["output_shape"])

    def size(alive: Alive) -> tuple[int | None, ...]:
        left = int(alive(new).sum())
        return (*shape[: axis - 1], left, *shape[axis:])

    call.resize(output_shape=size)
    constants = np.where(zero, 0.0, np.nan)
    return activated(call, at_axis(call.shape, axis, new, constants))


def _frozen_outputs(call: Call) -> list[Channels]:
    return [fixed(shape) for shape in call.shapes]


def _embedding(call: Call) -> Channels:
    table = call.layer.embeddings
    new = call.new(table.shape[-1])
    call.mark(table, -1, new)
    call.resize(output_dim=count(new))
    zero = ~np.asarray(stored(table)).any(axis=0)
    return at_axis(call.shape, -1, new, np.where(zero, 0.0, np.nan))


# Normalizations.


def _batch_normalization(call: Call) -> Any:
    layer = call.layer
    axes = np.atleast_1d(layer.axis)
    if len(axes) != 1:
        return call.give_up()
    axis = int(axes[0]) % len(call.shape)
    labels, values = call.along(call.input, axis)
    for weight in layer.weights:
        call.mark(weight, 0, labels)
    variance = np.asarray(stored(layer.moving_variance), np.float64)
    scale = 1.0 / np.sqrt(variance + layer.epsilon)
    if layer.scale:
        scale = scale * np.asarray(stored(layer.gamma))
    values = np.where(scale == 0, 0.0, values)
    shifted = (values - np.asarray(stored(layer.moving_mean))) * scale
    if layer.center:
        shifted = shifted + np.asarray(stored(layer.beta))
    return at_axis(call.shape, axis, labels, shifted)


def _statistics(call: Call) -> Any:
    """A normalization over the channels: its statistics would change."""
    layer, varies = call.layer, call.input.axis()
    axes = [int(a) % len(call.shape) for a in np.atleast_1d(getattr(layer, "axis", -1))]
    if varies is None or varies in axes or layer.weights:
        call.units.freeze(
            call.input.labels, f"the statistics of {call.what} would change"
        )
        return _frozen_outputs(call)
    return channels(call.shape, call.input.labels)


def _group_normalization(call: Call) -> Any:
    layer = call.layer
    axis = int(layer.axis) % len(call.shape)
    labels, _ = call.along(call.input, axis)
    groups = len(labels) if layer.groups == -1 else layer.groups
    parts = labels.reshape(groups, -1)
    call.units.join(parts, parts[:, :1], call.what)
    labels = call.units.find(labels)
    for weight in layer.weights:
        call.mark(weight, 0, labels)
    call.resize(groups=count(parts[:, 0]))
    return at_axis(call.shape, axis, labels)


def _prelu(call: Call) -> Any:
    alpha, varies = call.layer.alpha, call.input.axis()
    if varies is not None:
        if alpha.shape[varies - 1] == 1:
            return channels(call.shape, call.input.labels)
        call.mark(alpha, varies - 1, call.along(call.input, varies)[0])
    elif call.input.labels.any() and max(alpha.shape) > 1:
        return call.give_up()
    zero = np.where(call.input.values == 0, 0.0, np.nan)
    return channels(call.shape, call.input.labels, zero)


def _scaled(call: Call) -> Any:
    """A layer that multiplies by one vector of weights along the channels."""
    labels, values = call.along(call.input, -1)
    for weight in call.layer.weights:
        call.mark(weight, -1, labels)
    (gamma,) = call.layer.weights
    values = np.where(np.asarray(stored(gamma)).reshape(-1) == 0, 0.0, values)
    zero = np.where(values == 0, 0.0, np.nan)
    call.resize(projection_dim=count(labels))
    return at_axis(call.shape, -1, labels, zero)


# Layers without weights.


def _same(call: Call) -> Channels:
    return channels(call.shape, call.input.labels, call.input.values)


def _resampled(call: Call) -> Any:
    """Each channel on its own, over positions: pooling, cropping, upsampling."""
    axis = channel_axis(call.layer, len(call.input.shape))
    labels, values = call.along(call.input, axis)
    out = len(call.shape) - 1 if len(call.shape) != len(call.input.shape) else axis
    return at_axis(call.shape, out, labels, values)


def _zero_padded(call: Call) -> Any:
    axis = channel_axis(call.layer, len(call.input.shape))
    labels, values = call.along(call.input, axis)
    return at_axis(call.shape, axis, labels, np.where(values == 0, 0.0, np.nan))


def _activation(call: Call) -> Channels:
    return activated(call, _same(call))


def _elementwise(call: Call) -> Channels:
    return mapped(call, call.layer)


def _rescaling(call: Call) -> Any:
    if np.size(call.layer.scale) + np.size(call.layer.offset) > 2:
        return call.give_up(f"{call.what} has a constant for each channel")
    return mapped(call, lambda x: x * call.layer.scale + call.layer.offset)


def softmax_over(call: Call, axis: Any) -> Any:
    """A softmax over an axis or several: that of the channels makes them depend."""
    varies = call.input.axis()
    axes = [int(a) % len(call.shape) for a in np.atleast_1d(axis)]
    if varies is not None and varies not in axes:
        return channels(call.shape, call.input.labels)
    return call.give_up(f"{call.what} goes over the channels")


def _softmax(call: Call) -> Any:
    return softmax_over(call, call.layer.axis)


def _merge(compute: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Rule:
    def rule(call: Call) -> Channels:
        found = merged(call, call.tensors, lambda *arrays: _reduced(compute, arrays))
        if compute is np.multiply:
            found = zero_if_any(call, found, call.tensors)
        return found

    return rule


def zero_if_any(call: Call, found: Channels, operands: list[Any]) -> Channels:
    """A product is 0 if one factor is, whatever the others are."""
    rank = len(call.shape)
    factors = [o for o in operands if isinstance(o, Channels)]
    zeros = [
        (o.values == 0).reshape((1,) * (rank - o.values.ndim) + o.values.shape)
        for o in factors
    ]
    silent = np.any(np.broadcast_arrays(*zeros), axis=0)
    return channels(found.shape, found.labels, np.where(silent, 0.0, found.values))


def _reduced(compute: Any, arrays: Any) -> Any:
    result = arrays[0]
    for array in arrays[1:]:
        result = compute(result, array)
    return result


def _average(call: Call) -> Channels:
    return merged(call, call.tensors, lambda *arrays: sum(arrays) / len(arrays))


def _subtract(call: Call) -> Channels:
    return merged(call, call.tensors, np.subtract)


def concatenated(call: Call, tensors: list[Channels], axis: int) -> Any:
    """Channels of tensors put one behind the other."""
    axis %= len(call.shape)
    if call.shape[axis] is None:
        return merged(call, tensors, lambda *arrays: arrays[0])

    def joined(arrays: list[np.ndarray]) -> np.ndarray:
        sizes = np.max([a.shape for a in arrays], axis=0)
        whole = []
        for array, tensor in zip(arrays, tensors, strict=True):
            sizes[axis] = tensor.shape[axis] or 1
            whole.append(np.broadcast_to(array, tuple(sizes)))
        return np.concatenate(whole, axis)

    labels = joined([call.units.find(t.labels) for t in tensors])
    values = joined([t.values for t in tensors])
    return call.trace.settled(channels(call.shape, labels, values))


def _concatenate(call: Call) -> Any:
    return concatenated(call, call.tensors, call.layer.axis)


def reshaped(call: Call) -> Channels:
    """Channels in another shape: elements keep their order."""
    shape = known(call.shape)
    if math.prod(shape) != math.prod(known(call.input.shape)):
        # Sizes that are not known; the labels must not depend on them.
        if call.input.axis() is None:
            return alike(call.shape, int(call.input.labels.flat[0]))
        return call.give_up(f"{call.what} has sizes that are not known")[0]
    moved = call.input.moved(lambda array: array.reshape(shape), call.shape)
    return call.trace.settled(moved)


def new_shape(found: Channels, given: tuple[int | None, ...]) -> Edit:
    """The target of a reshape, for the channels that stay.

    Args:
      found: the channels in the new shape.
      given: the target as it is; -1 and None stay, and the batch may be missing.
    """
    axis, offset = found.axis(), len(found.shape) - len(given)

    def edit(alive: Alive) -> tuple[int | None, ...]:
        target = list(given)
        if axis is not None and target[axis - offset] not in (-1, None):
            target[axis - offset] = int(alive(found.along(axis)[0]).sum())
        return tuple(target)

    return edit


def _flatten(call: Call) -> Channels:
    """Flatten puts channels that are first behind all other axes."""
    given = call.input
    rank = len(given.shape)
    if call.layer.data_format == "channels_first" and rank > 1:
        order = (0, *range(2, rank), 1)
        shape = tuple(given.shape[axis] for axis in order)
        moved = given.moved(lambda array: array.transpose(order), shape)
        call = dataclasses.replace(call, args=(moved,), kwargs={})
    return reshaped(call)


def _reshape(call: Call) -> Channels:
    found = reshaped(call)
    target = tuple(call.layer.get_config()["target_shape"])
    call.resize(target_shape=new_shape(found, target))
    return found


def transposed(call: Call, order: tuple[int, ...]) -> Channels:
    """Channels of a tensor whose axes have another order."""
    labels, values = call.input.labels, call.input.values
    return channels(call.shape, labels.transpose(order), values.transpose(order))


def _time_distributed(call: Call) -> Any:
    """The layer inside, on one step: steps are like another batch."""
    layer, given = call.layer.layer, call.input
    # A wrapper of ours: the weights are those of the layer that it holds.
    layer = getattr(layer, "computes_like", layer)
    rule = rule_of(layer)
    if rule is None or given.axis() == 1 or len(call.shapes) > 1:
        return call.give_up()

    def one(shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return (shape[0], *shape[2:])

    def step(array: np.ndarray) -> np.ndarray:
        return array.take(0, axis=1)

    inside = channels(one(given.shape), step(given.labels), step(given.values))
    call.trace.holders[id(call.layer)] = call.layer
    holders = (*call.holders, call.layer)
    shapes = [one(call.shape)]
    inner = Call(call.trace, layer, (inside,), {}, shapes, call.key, holders)
    call.trace.inner[id(layer)] = inner, None
    found = rule(inner)
    (found,) = found if isinstance(found, (list, tuple)) else [found]
    labels, values = (np.expand_dims(a, 1) for a in (found.labels, found.values))
    return channels(call.shape, labels, values)


def _permute(call: Call) -> Channels:
    return transposed(call, (0, *call.layer.dims))


def _repeat_vector(call: Call) -> Channels:
    labels, values = call.along(call.input, -1)
    return at_axis(call.shape, -1, labels, values)


# Attention.


def _projection(
    call: Call, dense: Layer, read: tuple[int, Labels, Values | None], heads: Labels
) -> None:
    """Marks a projection of inputs (inputs, heads, size) to heads."""
    axis, labels, values = read
    weights = dense.weights
    call.read(weights[0], axis, labels, values)
    call.mark(weights[0], 1, heads)
    if len(weights) > 1:
        call.mark(weights[1], 0, heads)


def _sized_shape(call: Call, tensor: Channels) -> Edit:
    """The shape of a tensor whose last axis holds the channels that stay."""
    labels = call.along(tensor, -1)[0]
    return lambda alive: (*tensor.shape[:-1], int(alive(labels).sum()))


def _attention_inputs(call: Call) -> dict[str, Channels]:
    names = ("query", "value", "key")
    given = dict(zip(names, call.args, strict=False))
    given |= {name: call.kwargs[name] for name in names if name in call.kwargs}
    given = {n: v for n, v in given.items() if isinstance(v, Channels)}
    given.setdefault("key", given["value"])
    return given


def _attention(call: Call) -> Any:
    layer, parts = call.layer, projections(call.layer)
    inputs = _attention_inputs(call)
    config = layer.get_config()
    output = parts["output"].weights[0]
    several = isinstance(config.get("output_shape"), (list, tuple)) and (
        len(config["output_shape"]) > 1
    )
    attends_once = several or len(output.shape) == 3
    if not attends_once or any(len(i.shape) != 3 for i in inputs.values()):
        return call.give_up(f"{call.what} attends over several axes")
    grouped = "num_query_heads" in config
    for name in config.keys() & {"query_shape", "key_shape", "value_shape"}:
        # What an attention of Keras 2 was built from.
        tensor = inputs[name.removesuffix("_shape")]
        call.resize(**{name: _sized_shape(call, tensor)})
    few = config["num_key_value_heads"] if grouped else config["num_heads"]
    many = config["num_query_heads"] if grouped else few
    heads = call.new(few)
    queries = np.repeat(heads, many // few)
    for name, tensor in inputs.items():
        labels, values = call.along(tensor, -1)
        read = (0, labels, values)
        _projection(call, parts[name], read, queries if name == "query" else heads)
    gate = getattr(layer, "_gate_dense", None)
    if gate is not None and gate.built:
        labels, values = call.along(inputs["query"], -1)
        _projection(call, gate, (0, labels, values), queries)
    if len(call.shapes) > 1:
        call.units.freeze(heads, f"the scores of {call.name} are read")
    value = [np.asarray(stored(w)) for w in parts["value"].weights]
    silent = ~value[0].any(axis=(0, 2))
    if len(value) > 1:
        silent &= ~value[1].any(axis=1)
    zero = np.repeat(np.where(silent, 0.0, np.nan), many // few)
    kernel, *bias = parts["output"].weights
    call.read(kernel, 0, queries, zero)
    if several:
        call.resize(num_heads=count(heads))
        return [fixed(shape) for shape in call.shapes]
    new = call.new(kernel.shape[-1])
    call.mark(kernel, -1, new)
    for weight in bias:
        call.mark(weight, 0, new)
    if grouped:
        # Its output has the size of the query.
        call.units.join(new, call.along(inputs["query"], -1)[0], call.what)
        call.resize(num_query_heads=count(queries), num_key_value_heads=count(heads))
    else:
        call.resize(num_heads=count(heads))
        if config["output_shape"] is None:
            # Its output has the size of the query.
            call.units.join(new, call.along(inputs["query"], -1)[0], call.what)
        else:
            call.resize(output_shape=lambda alive: (int(alive(new).sum()),))
    new = call.units.find(new)
    outputs = [at_axis(call.shape, -1, new)]
    return outputs + [fixed(shape) for shape in call.shapes[1:]]


# Recurrent layers.

_GATES = {"LSTM": 4, "GRU": 3, "SimpleRNN": 1}


def _mark_cell(
    call: Call, cell: Any, labels: Labels, values: Values, gates: int
) -> Labels:
    new = call.new(cell.units)
    outputs = np.tile(new, gates)
    call.read(cell.kernel, 0, labels, values)
    call.mark(cell.kernel, 1, outputs)
    call.read(cell.recurrent_kernel, 0, new)
    call.mark(cell.recurrent_kernel, 1, outputs)
    if cell.use_bias:
        call.mark(cell.bias, -1, outputs)
    return new


def _gates(layer: Layer) -> int | None:
    cell = type(getattr(layer, "cell", None)).__name__.removesuffix("Cell")
    return _GATES.get(cell)


def _without_mask(call: Call) -> list[Channels]:
    """The tensors that a recurrent layer reads: Keras 3 passes the mask as well."""
    named = {name: value for name, value in call.kwargs.items() if name != "mask"}
    given = flat((call.args, named))
    return [value for value in given if isinstance(value, Channels)]


def _recurrent(call: Call) -> Any:
    layer, gates = call.layer, _gates(call.layer)
    if gates is None:
        return call.give_up()
    labels, values = call.along(call.input, -1)
    new = _mark_cell(call, layer.cell, labels, values, gates)
    for state in _without_mask(call)[1:]:
        if len(state.shape) == 2:
            call.units.join(call.along(state, -1)[0], new, call.what)
    if "cell" in layer.get_config():
        call.resize(cell=_inner_units(layer, "cell", new))
    else:
        call.resize(units=count(new))
    _check_cell_activations(call, layer.cell, new)
    return [at_axis(shape, len(shape) - 1, new) for shape in call.shapes]


def _check_cell_activations(call: Call, cell: Any, labels: Labels) -> None:
    for function in (cell.activation, getattr(cell, "recurrent_activation", None)):
        if function is not None and not is_elementwise(function):
            name = getattr(function, "__name__", function)
            call.units.freeze(labels, f"activation {name!r} of {call.name}")


def _bidirectional(call: Call) -> Any:
    layer = call.layer
    parts = (layer.forward_layer, layer.backward_layer)
    gates = [_gates(part) for part in parts]
    if None in gates or len(call.shapes) > 1 or len(_without_mask(call)) > 1:
        return call.give_up()
    labels, values = call.along(call.input, -1)
    new = [
        _mark_cell(call, part.cell, labels, values, g or 1)
        for part, g in zip(parts, gates, strict=True)
    ]
    # Both directions are made from one configuration.
    call.units.join(new[0], new[1], call.what)
    for part, own in zip(parts, new, strict=True):
        _check_cell_activations(call, part.cell, own)
    call.resize(layer=_inner_units(layer, "layer", new[0]))
    if layer.get_config().get("backward_layer"):
        call.resize(backward_layer=_inner_units(layer, "backward_layer", new[0]))
    found = np.concatenate(new) if layer.merge_mode == "concat" else new[0]
    return at_axis(call.shape, -1, found)


def _inner_units(layer: Layer, key: str, labels: Labels) -> Edit:
    def edit(alive: Alive) -> Any:
        config = dict(layer.get_config()[key])
        config["config"] = {**config["config"], "units": int(alive(labels).sum())}
        # What the layer was built from.
        config.pop("build_config", None)
        return config

    return edit


_RULES: list[tuple[tuple[Any, ...], Rule]] = [
    (classes("DepthwiseConv1D", "DepthwiseConv2D"), _depthwise),
    (classes("SeparableConv1D", "SeparableConv2D"), _separable),
    (
        classes("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose"),
        _transposed_convolution,
    ),
    (classes("Conv1D", "Conv2D", "Conv3D"), _convolution),
    (classes("Dense"), _dense),
    (classes("EinsumDense"), _einsum_dense),
    (classes("Embedding"), _embedding),
    (classes("BatchNormalization", "SyncBatchNormalization"), _batch_normalization),
    (
        classes("LayerNormalization", "RMSNormalization", "UnitNormalization"),
        _statistics,
    ),
    (classes("GroupNormalization"), _group_normalization),
    (classes("PReLU"), _prelu),
    (
        classes(
            "Dropout",
            "SpatialDropout1D",
            "SpatialDropout2D",
            "SpatialDropout3D",
            "GaussianNoise",
            "GaussianDropout",
            "AlphaDropout",
            "ActivityRegularization",
            "Identity",
        ),
        _same,
    ),
    (
        classes(
            *(
                f"{kind}{rank}D"
                for kind in (
                    "MaxPooling",
                    "AveragePooling",
                    "GlobalMaxPooling",
                    "GlobalAveragePooling",
                    "Cropping",
                    "UpSampling",
                )
                for rank in (1, 2, 3)
            )
        ),
        _resampled,
    ),
    (classes("ZeroPadding1D", "ZeroPadding2D", "ZeroPadding3D"), _zero_padded),
    (classes("Activation"), _activation),
    (classes("ReLU", "LeakyReLU", "ELU"), _elementwise),
    (classes("Softmax"), _softmax),
    (classes("Rescaling"), _rescaling),
    (classes("Add"), _merge(np.add)),
    (classes("Multiply"), _merge(np.multiply)),
    (classes("Maximum"), _merge(np.maximum)),
    (classes("Minimum"), _merge(np.minimum)),
    (classes("Average"), _average),
    (classes("Subtract"), _subtract),
    (classes("Concatenate"), _concatenate),
    (classes("Reshape"), _reshape),
    (classes("Flatten"), _flatten),
    (classes("Permute"), _permute),
    (classes("RepeatVector"), _repeat_vector),
    (classes("MultiHeadAttention", "GroupQueryAttention"), _attention),
    (classes("TimeDistributed"), _time_distributed),
    (classes("Bidirectional"), _bidirectional),
    (classes("LSTM", "GRU", "SimpleRNN", "RNN"), _recurrent),
]


def _custom_scale(call: Call) -> Any:
    """InceptionResNetV2's `x + scale * y`."""
    scale = call.layer.scale
    return merged(call, call.tensors, lambda x, y: x + scale * y)


# Layers of Keras's own models that no public name reaches.
_NAMED: dict[str, Rule] = {
    "LayerScale": _scaled,
    "CustomScaleLayer": _custom_scale,
    "StochasticDepth": _same,
    "DropPath": _same,
}


def rule_of(layer: Any) -> Rule | None:
    """The rule of a layer: its own, or that of its class; None if there is none."""
    own = getattr(layer, "channel_rule", None)
    if own is not None:
        return own
    # A subclass may compute something else.
    kind = type(layer)
    for kinds, rule in _RULES:
        if kind in kinds:
            return rule
    if kind.__module__.partition(".")[0] in ("keras", "tf_keras"):
        return _NAMED.get(kind.__name__)
    return None
