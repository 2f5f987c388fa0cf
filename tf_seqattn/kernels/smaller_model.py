"""Builds a model again without some of its channels."""

from typing import Any

import numpy as np

from tf_seqattn.keras_api import (
    LAYERS,
    GraphCall,
    Layer,
    Model,
    build_attention,
    build_config,
    build_like,
    calls_forgotten,
    flat,
    graph_calls,
    graph_ends,
    is_graph_model,
    is_keras3,
    is_symbolic,
    keras_of,
    map_structure,
    stored,
    symbolic_input,
    uncompile,
)
from tf_seqattn.kernels.channel_labels import Channels, Labels
from tf_seqattn.kernels.channel_trace import Call, Edit, Trace
from tf_seqattn.kernels.channel_walk import has_graph
from tf_seqattn.kernels.inner_calls import own_weights
from tf_seqattn.model_editing import copy_layer, held_pairs, replace_sublayers

Mask = np.ndarray[Any, np.dtype[np.bool_]]


def _no_config() -> dict[str, Any]:
    raise NotImplementedError(
        "The configuration of a custom layer that was shrunk does not know the sizes "
        "of the layers inside. Save its weights, a SavedModel or a TFLite file."
    )


def smaller_model(model: Model, trace: Trace, live: Mask) -> Model:
    """Returns a model of the same kind, with the channels that are live.

    A Sequential or functional model is made anew. A subclassed model is changed in
    place, and so is a custom layer that has no configuration.

    Constants that the removed channels carried are moved into the biases of their
    readers, where `Place.folds` says so.

    Args:
      model: the model that was traced.
      trace: what the walk over its graph found.
      live: bool array over the labels, by the label that stands for each class.
    """
    building = _Building(trace, live)
    if has_graph(model):
        # The graph of the new model consists of calls, also of the layers it shares.
        smaller = building.model(model)
        building.set_weights()
        return smaller
    with calls_forgotten(model):
        smaller = building.in_place(model)
        building.set_weights()
    return smaller


class _Building:
    """One call of `smaller_model`: every layer is made once."""

    def __init__(self, trace: Trace, live: Mask) -> None:
        self._trace = trace
        self._live = live
        self._done: dict[int, tuple[Any, Any]] = {}
        # What followed layers hold, with what replaces it.
        self._parts: list[tuple[Any, Any]] = []
        self._biases = self._folded_constants()

    def alive(self, labels: Labels) -> Mask:
        return self._live[self._trace.units.find(labels)]

    def _folded_constants(self) -> dict[int, np.ndarray]:
        """What to add to the bias of each layer, by the id of the layer."""
        found = {}
        for place in self._trace.places.values():
            if not (place.folds and place.values is not None):
                continue
            gone = ~self.alive(place.labels) & ~np.isnan(place.values)
            gone &= np.nan_to_num(place.values) != 0
            if not gone.any():
                continue
            kernel = np.moveaxis(np.asarray(stored(place.variable)), place.axis, -2)
            summed = kernel.sum(axis=tuple(range(kernel.ndim - 2)), dtype=np.float64)
            found[id(place.layer)] = place.values[gone] @ summed[gone]
        return found

    def _edits(self, key: int) -> dict[str, Any]:
        edits: dict[str, Edit] = self._trace.sizes.get(key, {})
        return {name: edit(self.alive) for name, edit in edits.items()}

    # Layers.

    def _layer(self, layer: Layer) -> Layer:
        if id(layer) not in self._done:
            if id(layer) in self._trace.holders:
                copy = self._holder(layer)
            else:
                copy = self._copy(layer)
            self._done[id(layer)] = (layer, copy)
        return self._done[id(layer)][1]

    def _copy(self, layer: Layer) -> Layer:
        config = self._edits(id(layer))
        if id(layer) in self._biases:
            config["use_bias"] = True
        if config:
            return type(layer).from_config({**layer.get_config(), **config})
        copy = copy_layer(layer)
        return layer if copy is None else copy

    def _holder(self, layer: Layer) -> Layer:
        """A copy of a layer that was followed, around smaller layers."""
        copy = copy_layer(layer)
        if copy is None:
            return self._with_smaller_parts(layer, layer)
        if not copy.built and layer.built and layer.get_build_config():
            # It may make the layers that it holds only now.
            copy.build_from_config(build_config(layer))
        return self._with_smaller_parts(layer, copy)

    def _with_smaller_parts(self, layer: Layer, copy: Layer) -> Layer:
        held = {id(new): old for old, new in held_pairs(layer, copy)}
        differs = False

        def replace(new: Layer) -> Layer:
            nonlocal differs
            old = held[id(new)]
            if id(old) not in self._done:
                self._done[id(old)] = (old, self._part(old, new))
                self._parts.append(self._done[id(old)])
            smaller = self._done[id(old)][1]
            differs |= smaller is not new or "get_config" in vars(smaller)
            return smaller

        replace_sublayers(copy, replace)
        if differs:
            copy.__dict__["get_config"] = _no_config
        # Built by the layers inside: it must not make them again, and may read less.
        copy.built = True
        copy.input_spec = None
        return copy

    def _part(self, old: Layer, new: Layer) -> Layer:
        """What replaces a layer that a copy holds."""
        if id(old) in self._trace.holders:
            return self._with_smaller_parts(old, new)
        if id(old) in self._trace.nested:
            return self.model(old)
        config = self._edits(id(old))
        changed = any(
            not self.alive(place.labels).all()
            for place in self._trace.places.values()
            if place.layer is old
        )
        if not changed:
            return new
        smaller = type(old).from_config({**old.get_config(), **config})
        self._build(smaller, *self._trace.inner[id(old)])
        return smaller

    def _build(self, layer: Layer, call: Call, raw: GraphCall | None) -> None:
        """Builds a layer for the channels that stay, as in a call of another one."""
        if raw is None:
            layer.build(self._shape_left(call.input))
            return
        tensors = iter(flat((call.args, call.kwargs)))
        library = keras_of(layer)

        def symbolic(value: Any) -> Any:
            found = next(tensors)
            if not is_symbolic(value):
                return value
            return symbolic_input(library, self._shape_left(found), value.dtype)

        args, kwargs = map_structure(symbolic, (raw.args, raw.kwargs))
        layer(*args, **{k: v for k, v in kwargs.items() if v is not None})

    def _shape_left(self, found: Channels) -> tuple[int | None, ...]:
        """The shape of a tensor of the smaller model."""
        axis, shape = found.axis(), list(found.shape)
        if axis is not None:
            shape[axis] = int(self.alive(found.along(axis)[0]).sum())
        return tuple(shape)

    def _input_shape(self, tensor: Any, found: Channels) -> tuple[int | None, ...]:
        """The shape of an input of a model inside another one, which knows more."""
        own, left = list(tensor.shape), self._shape_left(found)
        if len(own) == len(left):
            return (own[0], *left[1:])
        # Keras 2 makes the graph of a Sequential anew for each rank of its inputs.
        axis = found.axis()
        if axis is not None:
            own[axis - len(left)] = left[axis]
        return tuple(own)

    def in_place(self, model: Model) -> Model:
        """A subclassed model, with smaller layers in the places of its own."""
        uncompile(model)
        self._with_smaller_parts(model, model)
        return model

    def _weights(self, layer: Layer) -> list[np.ndarray]:
        """The weights of the layer that replaces `layer`."""
        places = self._trace.places
        values = []
        for variable in layer.weights:
            value = np.asarray(stored(variable))
            if id(layer) in self._biases and variable is getattr(layer, "bias", None):
                value = (value + self._biases[id(layer)]).astype(value.dtype)
            values.append(self._cut(value, variable))
        if id(layer) in self._biases and not layer.use_bias:
            bias = self._biases[id(layer)].astype(values[0].dtype)
            written = places[(id(layer.kernel), len(layer.kernel.shape) - 1)]
            values.insert(1, bias[self.alive(written.labels)])
        return values

    def _cut(self, value: np.ndarray, variable: Any) -> np.ndarray:
        for axis in range(value.ndim):
            place = self._trace.places.get((id(variable), axis))
            if place is not None:
                value = np.compress(self.alive(place.labels), value, axis)
        return value

    def set_weights(self) -> None:
        """Gives the new layers their weights, once the graph has built them."""
        parts = {id(layer) for layer, _ in self._parts}
        for layer, copy in self._done.values():
            if copy is layer or isinstance(copy, _models(layer)):
                continue
            if id(layer) in self._trace.holders:
                self._set_own_weights(layer, copy)
                continue
            if id(layer) not in parts:
                build_like(copy, layer)
            build_attention(copy)
            if layer.weights:
                copy.set_weights(self._weights(layer))

    def _set_own_weights(self, layer: Layer, copy: Layer) -> None:
        for old, new in zip(own_weights(layer), own_weights(copy), strict=True):
            new.assign(self._cut(np.asarray(stored(old)), old))

    # Graphs.

    def model(self, model: Model) -> Model:
        """A graph model, made again."""
        inputs, outputs = graph_ends(model)
        own = flat(inputs)
        nested = self._trace.nested.get(id(model))
        shapes = [tuple(t.shape) for t in own]
        if nested is not None:
            shapes = list(map(self._input_shape, own, nested))
        known = {
            id(tensor): _new_input(tensor, shape)
            for tensor, shape in zip(own, shapes, strict=True)
        }
        library = keras_of(model)
        if isinstance(model, library.Sequential):
            (new,) = known.values()
            layers = [self._replaced(call.operation) for call in graph_calls(model)]
            return library.Sequential([new, *layers], name=model.name)

        def lookup(value: Any) -> Any:
            return known[id(value)] if is_symbolic(value) else value

        for call in graph_calls(model):
            args = map_structure(lookup, call.args)
            kwargs = map_structure(lookup, call.kwargs)
            results = flat(self._called(call, args, kwargs))
            for tensor, result in zip(call.outputs, results, strict=True):
                known[id(tensor)] = result
        kind = type(model) if is_graph_model(model) else library.Model
        return kind(
            map_structure(lookup, inputs),
            map_structure(lookup, outputs),
            name=model.name,
        )

    def _replaced(self, layer: Any) -> Any:
        """The layer or model that replaces one that is called."""
        if not has_graph(layer):
            return self._layer(layer)
        if id(layer) not in self._done:
            self._done[id(layer)] = (layer, self.model(layer))
        return self._done[id(layer)][1]

    def _called(self, call: Any, args: Any, kwargs: Any) -> Any:
        layer = call.operation
        edits = self._edits(call.key)
        if not isinstance(layer, LAYERS):
            own = {name: value for name, value in edits.items() if hasattr(layer, name)}
            args, kwargs = _edited(
                args, kwargs, {k: edits[k] for k in edits.keys() - own}
            )
            if own:
                layer = type(layer).from_config({**layer.get_config(), **own})
            return layer(*args, **kwargs)
        args, kwargs = _edited(args, kwargs, edits)
        replaced = self._replaced(layer)
        if is_keras3(layer):
            # Keras records `mask=None` for every layer that takes a mask.
            kwargs = {k: v for k, v in kwargs.items() if v is not None}
        return replaced(*args, **kwargs)


def _models(layer: Layer) -> Any:
    return keras_of(layer).Model


def _new_input(tensor: Any, shape: tuple[int | None, ...]) -> Any:
    """A symbolic input like `tensor`, of another shape."""
    layer = tensor._keras_history[0]
    config = layer.get_config()
    key = "batch_shape" if "batch_shape" in config else "batch_input_shape"
    return type(layer).from_config({**config, key: shape}).output


def _edited(
    args: tuple[Any, ...], kwargs: dict[str, Any], edits: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a call of an operation, with those that change."""
    for name, value in edits.items():
        if name in kwargs:
            kwargs = {**kwargs, name: value}
        else:
            # The first one is the tensor, in all operations that change.
            args = (args[0], value, *args[2:])
    return args, kwargs
