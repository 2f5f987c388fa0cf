"""Putting other layers into a model: what pruning, stripping and packing share."""

from tf_seqattn.keras_api import keras


def copy_layer(layer):
    """A new layer of the same configuration, or None where it has none."""
    try:
        return layer.__class__.from_config(layer.get_config())
    except (NotImplementedError, TypeError):
        return None


def clone(model, replace):
    """A graph model rebuilt with `replace(layer)` for each layer, sharing weights."""
    copy = keras.models.clone_model(model, clone_function=replace)
    kind = type(model)
    if type(copy) is not kind and not kind.__module__.startswith("tf_keras."):
        raise ValueError(
            f"Model {model.name!r} is functional but of class {kind.__name__} with "
            "a constructor of its own, so it cannot be rebuilt around wrapped layers. "
            "Let the class take (inputs, outputs, name), or prune the layers before "
            "the model is made from them."
        )
    # Keras builds a Sequential of several inputs when it is first called, and this one
    # has been.
    if not copy.built and model.built and all(layer.built for layer in copy.layers):
        copy.built = True
    return copy


_PRIVATE = ("_self_", "_inbound", "_outbound", "_keras", "_obj_reference")


def replace_sublayers(owner, replace):
    """Replaces, in place, the layers held by the attributes of `owner`.

    Lists, tuples and dictionaries of layers are replaced as a whole, since Keras
    cannot save a tracked list that was changed in the middle.
    """
    for attribute, value in list(owner.__dict__.items()):
        if attribute.startswith(_PRIVATE):
            continue
        replaced = _replaced(value, replace)
        if replaced is not value:
            setattr(owner, attribute, replaced)


def _replaced(value, replace):
    """`value` with every layer in it replaced; the same object if none changed."""
    if isinstance(value, keras.metrics.Metric):
        return value
    if isinstance(value, keras.layers.Layer):
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


def forget_compilation(model):
    """Undoes `compile`: the optimizer knows another list of variables."""
    model.train_function = None
    model.test_function = None
    model.predict_function = None
    if model._is_compiled:
        model.optimizer = None
        model._is_compiled = False
