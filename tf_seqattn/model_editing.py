"""Replacing the layers of a model: pruning, stripping and packing share this."""

from collections.abc import Callable, Iterator
from typing import Any

from tf_seqattn.keras_api import (
    LAYERS,
    METRICS,
    Layer,
    Model,
    is_keras3,
    is_keras_class,
    keras_of,
    open_to_change,
    replace_in_graph,
    replace_tracked,
    uncompile,
)

Replace = Callable[[Layer], Layer]


def copy_layer(layer: Layer) -> Layer | None:
    """A new layer of the same configuration, or None if there can be no copy.

    There is no copy without a configuration, if Keras refuses to read it, as for a
    `Lambda` with a Python function, or if the layer fails to give it. Nor is there one
    of a layer that `adapt` fills, such as a `Normalization` or a `StringLookup`: what
    it learned is neither in its configuration nor in its weights alone. The caller
    shares the layer itself then.
    """
    if hasattr(layer, "adapt"):
        return None
    try:
        return layer.__class__.from_config(layer.get_config())
    except (NotImplementedError, TypeError, AttributeError):
        return None
    except ValueError:
        if layer.weights:
            raise
        return None


def clone(model: Model, replace: Replace) -> Model:
    """A graph model rebuilt with `replace(layer)` for each layer, sharing weights."""

    def replace_layer(layer: Layer) -> Layer:
        # Keras 3 also calls this for operations that are not layers.
        return replace(layer) if isinstance(layer, LAYERS) else layer

    library = keras_of(model)
    options = {}
    if is_keras3(model) and not isinstance(model, library.Sequential):
        options["call_function"] = _call_as_recorded
    copy = library.models.clone_model(model, clone_function=replace_layer, **options)
    kind = type(model)
    if type(copy) is not kind and not is_keras_class(kind):
        raise ValueError(
            f"Model {model.name!r} is functional, but its class {kind.__name__} has "
            "its own constructor, so it cannot be rebuilt around wrapped layers. "
            "Let the class take (inputs, outputs, name), or prune the layers before "
            "the model is made from them."
        )
    # Keras builds a Sequential with several inputs in its first call, which the
    # original has had.
    if not copy.built and model.built and all(layer.built for layer in copy.layers):
        copy.built = True
    # Keras 3 compiles the copy as well.
    uncompile(copy)
    return copy


def _call_as_recorded(layer: Layer, *args: Any, **kwargs: Any) -> Any:
    """Calls a layer with the arguments that Keras 3 recorded for the replaced one.

    Keras records `mask=None` for a layer that takes a mask. The other may not take one.
    """
    takes = getattr(layer, "call_signature_parameters", kwargs)
    given = {k: v for k, v in kwargs.items() if v is not None or k in takes}
    return layer(*args, **given)


_PRIVATE_IN_KERAS2 = ("_self_", "_inbound", "_outbound", "_keras", "_obj_reference")
_PRIVATE_IN_KERAS3 = frozenset(
    "_layers _metrics _operations _operations_by_depth _nodes _nodes_by_depth "
    "_inbound_nodes _outbound_nodes _tracker _functional _tracked".split()
)


def _is_private(owner: Layer, attribute: str) -> bool:
    if is_keras3(owner):
        return attribute in _PRIVATE_IN_KERAS3 or attribute.startswith("_self_un")
    return attribute.startswith(_PRIVATE_IN_KERAS2)


def replace_sublayers(owner: Layer, replace: Replace) -> None:
    """Replaces, in place, the layers held by the attributes of `owner`.

    Lists, tuples and dictionaries of layers are replaced as a whole, since Keras
    cannot save a tracked list that was changed in the middle.
    """

    def replace_one(layer: Layer) -> Layer:
        replaced = replace(layer)
        if replaced is not layer:
            replace_tracked(owner, layer, replaced)
        return replaced

    with open_to_change(owner):
        for attribute, value in list(owner.__dict__.items()):
            if _is_private(owner, attribute):
                continue
            replaced = _replaced(value, replace_one)
            if replaced is not value:
                setattr(owner, attribute, replaced)
        replace_in_graph(owner, replace_one)


def held_pairs(layer: Layer, copy: Layer) -> Iterator[tuple[Layer, Layer]]:
    """The layers that attributes of a layer hold, each with that of a copy.

    Raises:
      ValueError: if the copy does not hold the same.
    """
    for attribute, value in layer.__dict__.items():
        if not _is_private(layer, attribute):
            yield from _pairs(value, copy.__dict__.get(attribute), layer)


def _pairs(value: Any, other: Any, owner: Layer) -> Iterator[tuple[Layer, Layer]]:
    if isinstance(value, METRICS):
        return
    if isinstance(value, LAYERS):
        if type(value) is not type(other):
            raise ValueError(
                f"A copy of layer {owner.name!r} from its configuration lacks the "
                f"layer {value.name!r} that it holds. Let get_config() describe all "
                "layers inside, or give the class a method `channel_rule`."
            )
        yield value, other
    elif isinstance(value, dict):
        named = other if isinstance(other, dict) else {}
        for key, item in value.items():
            yield from _pairs(item, named.get(key), owner)
    elif isinstance(value, (list, tuple)):
        others = list(other) if isinstance(other, (list, tuple)) else []
        others += [None] * (len(value) - len(others))
        for item, found in zip(value, others, strict=False):
            yield from _pairs(item, found, owner)


def set_layer(owner: Layer, attribute: str, layer: Layer) -> None:
    """Replaces the layer that an attribute of `owner` holds."""
    with open_to_change(owner):
        replace_tracked(owner, getattr(owner, attribute), layer)
        setattr(owner, attribute, layer)


def _replaced(value: Any, replace: Replace) -> Any:
    """`value` with every layer in it replaced; the same object if none changed."""
    if isinstance(value, METRICS):
        return value
    if isinstance(value, LAYERS):
        return replace(value)
    if isinstance(value, dict):
        items = {key: _replaced(item, replace) for key, item in value.items()}
        changed = any(items[key] is not value[key] for key in items)
        return items if changed else value
    if isinstance(value, (list, tuple)):
        sequence = [_replaced(item, replace) for item in value]
        changed = any(new is not old for new, old in zip(sequence, value, strict=True))
        if not changed:
            return value
        return sequence if isinstance(value, list) else tuple(sequence)
    return value
