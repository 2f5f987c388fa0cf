"""The one module that knows which Keras an object belongs to.

So far pruning serves Keras 2 (`tf_keras`, which tfmot and TFRS use); an object of
Keras 3 gets an error that says so.
"""

import sys

import tf_keras as keras

PACKAGE = "tf_seqattn"

register = keras.utils.register_keras_serializable(PACKAGE)


def is_keras3(value) -> bool:
    """Whether `value` is a layer or model of Keras 3."""
    keras3 = sys.modules.get("keras")
    layer = getattr(getattr(keras3, "layers", None), "Layer", None)
    return layer is not None and isinstance(value, layer) and not is_keras2(value)


def is_keras2(value) -> bool:
    """Whether `value` is a layer or model of Keras 2."""
    return isinstance(value, keras.layers.Layer)


def check_layer(value, argument: str):
    """Raises a clear error unless `value` is a layer or model of Keras 2.

    Args:
      value: what a user passed.
      argument: name of the argument, for the message.

    Raises:
      ValueError: for an object of Keras 3, a class instead of an instance, or
        anything else.
    """
    if is_keras2(value):
        return
    if is_keras3(value):
        raise ValueError(
            f"`{argument}` is an object of Keras 3 ({type(value).__module__}."
            f"{type(value).__name__}), which tf_seqattn does not prune yet. Build the "
            "model with Keras 2: `import tf_keras as keras`."
        )
    hint = " Pass an instance, not the class." if isinstance(value, type) else ""
    raise ValueError(
        f"`{argument}` must be a layer or model of Keras 2 (tf_keras).{hint} "
        f"Received: {argument}={value!r} of type {type(value).__name__}"
    )


def is_graph_model(model) -> bool:
    """Whether `model` is Sequential or functional: a graph that can be cloned."""
    if not isinstance(model, keras.Model):
        return False
    return isinstance(model, keras.Sequential) or model._is_graph_network


def sublayers(layer) -> list:
    """All layers below `layer`, itself first, each once."""
    return list(layer._flatten_layers())
