"""Removing channels that do not count: a smaller model with the same outputs."""

from typing import Any

from tf_seqattn.keras_api import Model, check_layer
from tf_seqattn.kernels.channel_groups import channel_groups
from tf_seqattn.kernels.live_channels import live_channels
from tf_seqattn.kernels.smaller_model import smaller_model
from tf_seqattn.sparsity.stripping import strip_pruning
from tf_seqattn.sparsity.wrapper import pruned_layers


def shrink(model: Model) -> Any:
    """Removes the channels that change no output, whoever made them so.

    A channel goes with all channels that are coupled to it (`sa.channel_groups`) if
    every weight that reads it is zero, or if it is a constant that its readers can do
    without: 0, or one that the bias of the reader takes (Dense and convolutions without
    padding). The result computes the same outputs in inference, up to rounding. It is
    an ordinary model of the same kind: train it, prune its blocks, quantize or export
    it. Its weights are copies.

    A custom layer keeps its class, around smaller layers. Its configuration does not
    know their sizes: save the weights, a SavedModel or a TFLite file of such a model.

    Args:
      model: a built model, of any tool. If it is still pruned by tf_seqattn, it is
        stripped first. A functional model whose class has a constructor of its own
        becomes a plain functional model. A subclassed model is changed in place, and so
        is a custom layer without a configuration.

    Returns:
      The smaller model, not compiled; the same object for a subclassed model.

    Raises:
      ValueError: for anything but a model of Keras, or one that is not built.

    Example:

    >>> model = keras.Sequential(
    ...     [keras.layers.Dense(4, input_shape=(3,)), keras.layers.Dense(2)]
    ... )
    >>> kernel, bias = model.layers[1].get_weights()
    >>> kernel[1:3] = 0  # Nothing reads two of the four.
    >>> model.layers[1].set_weights([kernel, bias])
    >>> [weight.shape for weight in shrink(model).get_weights()]
    [(3, 2), (2,), (2, 2), (2,)]
    """
    check_layer(model, "model")
    if pruned_layers(model):
        model = strip_pruning(model)
    groups = channel_groups(model)
    return smaller_model(model, groups.trace, live_channels(groups))
