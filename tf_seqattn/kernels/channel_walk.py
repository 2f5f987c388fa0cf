"""Walks over the graph of a model with `Channels` in place of tensors."""

import dataclasses
from typing import Any

from tf_seqattn.keras_api import (
    LAYERS,
    Model,
    flat,
    graph_calls,
    graph_ends,
    is_graph_model,
    is_symbolic,
    map_structure,
)
from tf_seqattn.kernels.channel_cost import work_of
from tf_seqattn.kernels.channel_labels import Channels, channels, fixed
from tf_seqattn.kernels.channel_operations import rule_of_operation
from tf_seqattn.kernels.channel_rules import rule_of
from tf_seqattn.kernels.channel_trace import Call, Trace


def has_graph(layer: Any) -> bool:
    """Whether a layer or operation is a model with a graph that can be walked."""
    return hasattr(layer, "_nodes_by_depth") or is_graph_model(layer)


def trace_channels(model: Model) -> Trace:
    """Finds the channels of a model that go together.

    Args:
      model: a built functional or Sequential model.
    """
    trace = Trace()
    inputs, _ = graph_ends(model)
    given = [fixed(tensor.shape) for tensor in flat(inputs)]
    for found in _walk(trace, model, given):
        trace.units.freeze(found.labels, "an output of the model")
    return trace


def _walk(trace: Trace, model: Model, given: list[Channels]) -> list[Channels]:
    """The channels of the outputs of a graph model, flat, for those of its inputs."""
    inputs, outputs = graph_ends(model)
    known = dict(zip(map(id, flat(inputs)), given, strict=True))

    def lookup(value: Any) -> Any:
        if not is_symbolic(value):
            return value
        found = known[id(value)]
        labels = trace.units.find(found.labels)
        return channels(found.shape, labels, found.values)

    for call in graph_calls(model):
        shapes = [tuple(output.shape) for output in call.outputs]
        replaced = Call(
            trace,
            call.operation,
            map_structure(lookup, call.args),
            map_structure(lookup, call.kwargs),
            shapes,
            call.key,
        )
        for output, found in zip(call.outputs, _results(replaced), strict=True):
            known[id(output)] = found
    return [lookup(output) for output in flat(outputs)]


def _results(call: Call) -> list[Channels]:
    if isinstance(call.layer, LAYERS) and has_graph(call.layer):
        return _walk(call.trace, call.layer, _as_before(call))
    while hasattr(call.layer, "computes_like"):
        # A wrapper of ours: the weights are those of the layer that it holds.
        call = dataclasses.replace(call, layer=call.layer.computes_like)
    call.trace.work += work_of(call)
    rule = rule_of(call.layer) or rule_of_operation(call.layer)
    if rule is None or not call.tensors:
        return call.give_up()
    found = rule(call)
    return list(found) if isinstance(found, (list, tuple)) else [found]


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
