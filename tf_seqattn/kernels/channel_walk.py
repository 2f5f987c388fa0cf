"""Walks over the graph of a model with `Channels` in place of tensors."""

import dataclasses
from typing import Any

import tensorflow as tf

from tf_seqattn.keras_api import (
    LAYERS,
    PACKAGE,
    GraphCall,
    Layer,
    Model,
    calls_forgotten,
    flat,
    graph_calls,
    graph_ends,
    is_graph_model,
    is_operation,
    is_symbolic,
    known_value,
    map_structure,
)
from tf_seqattn.kernels.channel_cost import work_of
from tf_seqattn.kernels.channel_labels import Channels, channels, fixed
from tf_seqattn.kernels.channel_operations import rule_of_operation
from tf_seqattn.kernels.channel_rules import rule_of
from tf_seqattn.kernels.channel_trace import Call, Trace, Work
from tf_seqattn.kernels.inner_calls import (
    InnerCalls,
    borrowed_weights,
    call_of,
    concrete,
    own_weights,
)


def has_graph(layer: Any) -> bool:
    """Whether a layer or operation is a model with a graph that can be walked."""
    return hasattr(layer, "_nodes_by_depth") or is_graph_model(layer)


def trace_channels(model: Model) -> Trace:
    """Finds the channels of a model that go together.

    Args:
      model: a built model. One without a graph is followed like a custom layer.

    Raises:
      ValueError: for a subclassed model that was never called.
    """
    trace = Trace()
    with calls_forgotten(model):
        for found in _walked(trace, model):
            trace.units.freeze(found.labels, "an output of the model")
    return trace


def _walked(trace: Trace, model: Model) -> list[Channels]:
    """The channels of the outputs of a model."""
    if has_graph(model):
        inputs, _ = graph_ends(model)
        given = [fixed(tensor.shape) for tensor in flat(inputs)]
        return _walk(trace, graph_calls(model), *graph_ends(model), given)
    raw = call_of(model)
    if raw is None:
        raise ValueError(
            f"Model {model.name!r} has no graph and was never called, so the shapes of "
            "its inputs are not known. Call it once on a batch, `model(batch)`."
        )
    args = map_structure(lambda tensor: fixed(tensor.shape), raw.args)
    return _followed(Call(trace, model, args, {}, [], 0), raw)


def _walk(
    trace: Trace,
    calls: list[GraphCall],
    inputs: Any,
    outputs: Any,
    given: list[Channels],
    holders: tuple[Layer, ...] = (),
) -> list[Channels]:
    """The channels of the outputs of a graph, flat, for those of its inputs."""
    known = dict(zip(map(id, flat(inputs)), given, strict=True))

    def lookup(value: Any) -> Any:
        value = known_value(value)
        if not is_symbolic(value):
            return value
        found = known[id(value)]
        labels = trace.units.find(found.labels)
        return channels(found.shape, labels, found.values)

    for call in calls:
        shapes = [tuple(output.shape) for output in call.outputs]
        replaced = Call(
            trace,
            call.operation,
            map_structure(lookup, call.args),
            map_structure(lookup, call.kwargs),
            shapes,
            call.key,
            holders,
        )
        for output, found in zip(call.outputs, _results(replaced, call), strict=True):
            known[id(output)] = found
    results = map(lookup, filter(is_symbolic, flat(outputs)))
    # A shape, say, is a number already.
    return [r if isinstance(r, Channels) else fixed(r.shape) for r in results]


def _results(call: Call, raw: GraphCall) -> list[Channels]:
    if isinstance(call.layer, LAYERS) and has_graph(call.layer):
        return _nested(call)
    while hasattr(call.layer, "computes_like"):
        # A wrapper of ours: the weights are those of the layer that it holds.
        call = dataclasses.replace(call, layer=call.layer.computes_like)
    call.trace.work += work_of(call)
    rule = rule_of(call.layer) or rule_of_operation(call.layer)
    if rule is None and isinstance(call.layer, LAYERS) and not is_operation(call.layer):
        return _followed(call, raw)
    if rule is None or not call.tensors:
        return call.give_up()
    if call.holders:
        call.trace.inner[id(call.layer)] = call, raw
    found = rule(call)
    return list(found) if isinstance(found, (list, tuple)) else [found]


def _nested(call: Call) -> list[Channels]:
    """The channels of the outputs of a graph model that is a layer of another one."""
    model = call.layer
    ends = graph_ends(model)
    batches = [tensor.shape[0] for tensor in flat(ends[0])]
    given = list(map(_with_batch, _as_before(call), batches))
    found = _walk(call.trace, graph_calls(model), *ends, given, call.holders)
    pairs = list(zip(found, call.shapes, strict=True))
    if all(len(output.shape) == len(shape) for output, shape in pairs):
        return [_with_batch(output, shape[0]) for output, shape in pairs]
    # Keras 2 makes the graph of a Sequential anew for each rank of its inputs.
    why = f"{call.what} has a graph for inputs of another rank"
    for output in found:
        call.units.freeze(output.labels, why)
    return call.give_up(why)


def _with_batch(found: Channels, batch: int | None) -> Channels:
    """The same channels: a model inside another one may know the batch, or not."""
    return dataclasses.replace(found, shape=(batch, *found.shape[1:]))


def _as_before(call: Call) -> list[Channels]:
    """The inputs of a nested model, which must be as in an earlier call of it."""
    before = call.trace.nested.setdefault(id(call.layer), call.tensors)
    if before is call.tensors:
        return before
    for old, new in zip(before, call.tensors, strict=True):
        if old.shape == new.shape:
            call.units.join(old.labels, new.labels, f"{call.what} is shared")
        else:
            call.give_up(f"{call.what} is called with inputs of other shapes")
    return call.tensors


def _followed(call: Call, raw: GraphCall) -> list[Channels]:
    """The channels behind a layer without a rule, by what it calls inside."""
    trace, layer = call.trace, call.layer
    if type(layer).__module__.partition(".")[0] == PACKAGE:
        return _left(call, f"{call.what} has no rule")
    if borrowed_weights(layer):
        return _left(call, f"{call.what} holds a weight of a layer inside")
    inner = InnerCalls(layer, raw.args, raw.kwargs)
    if inner.why:
        return _left(call, f"{call.what} cannot be followed ({inner.why})")
    if any(len(weight.shape) > 1 for weight in own_weights(layer)):
        trace.left[call.name] = f"{call.what} has weights of its own"
    symbols = {}

    def pair(value: Any, found: Any) -> None:
        if is_symbolic(value):
            symbols[id(value)] = found

    for value, found in zip(
        flat((raw.args, raw.kwargs)), flat((call.args, call.kwargs)), strict=True
    ):
        pair(value, found)
    given = [
        channels(concrete(found.shape, inner.length), found.labels, found.values)
        for found in (symbols[key] for key in inner.inputs)
    ]
    # A model that is followed as a whole is no layer in another one.
    holders = (*call.holders, layer)
    trace.holders[id(layer)] = layer
    before = len(trace.work)
    found = iter(
        _walk(
            trace,
            inner.calls,
            list(inner.inputs.values()),
            inner.outputs,
            given,
            holders,
        )
    )
    # An axis of unknown size counts once.
    unknown = max((tensor.shape[1:].count(None) for tensor in call.tensors), default=0)
    times = inner.length**unknown
    trace.work[before:] = [
        Work(work.variable, max(1, work.times // times)) for work in trace.work[before:]
    ]
    outputs = [
        next(found) if is_symbolic(output) else fixed(tf.shape(output).numpy().tolist())
        for output in inner.outputs
        if output is not None
    ]
    if not call.shapes:
        return outputs
    return [
        trace.settled(channels(shape, output.labels, output.values))
        for shape, output in zip(call.shapes, outputs, strict=True)
    ]


def _left(call: Call, why: str) -> list[Channels]:
    """Gives up on a layer, and says why if it has weights."""
    if call.layer.weights:
        call.trace.left[call.name] = why
    return call.give_up(why)
