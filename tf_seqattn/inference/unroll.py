"""Recurrent layers step by step, for runtimes without lists of tensors.

TFLite's built-in operators have no list of tensors of unknown size, which a loop over
the steps fills where the batch size is open. Unrolled, the loop is as many copies of
one step, and its weights are stored once.
"""

from tf_seqattn.keras_api import is_graph_model, keras, sublayers
from tf_seqattn.model_editing import clone


def _is_loop(layer) -> bool:
    return isinstance(layer, (keras.layers.RNN, keras.layers.Bidirectional))


def _unrolled_config(layer) -> dict:
    config = layer.get_config()
    if isinstance(layer, keras.layers.RNN):
        return {**config, "unroll": True}
    inner = {
        key: {**config[key], "config": {**config[key]["config"], "unroll": True}}
        for key in ("layer", "backward_layer")
        if key in config
    }
    return {**config, **inner}


def unrolled(model):
    """Returns a model whose recurrent layers are unrolled; itself if it has none.

    Only a Sequential or functional model is rebuilt, and only layers whose number of
    steps is known and that keep no state are unrolled. All others are shared.

    Args:
      model: a Keras 2 model, built, without pruning.

    Example:

    >>> model = keras.Sequential([keras.layers.LSTM(2, input_shape=(5, 3))])
    >>> unrolled(model).layers[0].unroll
    True
    """
    if not is_graph_model(model) or not any(map(_is_loop, sublayers(model))):
        return model
    copies: list[tuple] = []

    def replace(layer):
        if isinstance(layer, keras.layers.InputLayer):
            return layer.__class__.from_config(layer.get_config())
        if is_graph_model(layer):
            return clone(layer, replace)
        shape = getattr(layer, "input_shape", None)
        known = isinstance(shape, tuple) and shape[1] is not None
        if not _is_loop(layer) or not known or getattr(layer, "stateful", False):
            return layer
        copy = type(layer).from_config(_unrolled_config(layer))
        copies.append((copy, layer))
        return copy

    model = clone(model, replace)
    for copy, layer in copies:
        copy.set_weights(layer.get_weights())
    return model
