"""Removing the pruning: a plain model with zeros in the pruned blocks."""

from collections.abc import Callable
from typing import Any

import numpy as np

from tf_seqattn import tfmot_api
from tf_seqattn.keras_api import (
    MODELS,
    Layer,
    Model,
    build_like,
    check_layer,
    is_graph_model,
    submodules,
    uncompile,
)
from tf_seqattn.model_editing import clone, copy_layer, replace_sublayers
from tf_seqattn.sparsity.channel_layer import ChannelLayer
from tf_seqattn.sparsity.progress import shortfall
from tf_seqattn.sparsity.pruning_warning import warn
from tf_seqattn.sparsity.wrapper import PrunableLayer, pruned_layers


def _folded_weights(wrapper: PrunableLayer | ChannelLayer) -> list[np.ndarray]:
    """The weights of the wrapped layer, with `W * A * mask` for its kernels."""
    if isinstance(wrapper, ChannelLayer):
        return wrapper.folded_weights()
    effective = {
        id(pruned.kernel.variable): wrapper.effective_kernel(pruned)
        for pruned in wrapper.pruned_kernels
    }
    return [
        effective[id(w)].numpy() if id(w) in effective else w.numpy()
        for w in wrapper.layer.weights
    ]


def _fold(wrapper: PrunableLayer | ChannelLayer) -> Layer:
    """Stores `W * A * mask` in the wrapped layer itself, and returns that layer."""
    if wrapper.built:
        wrapper.layer.set_weights(_folded_weights(wrapper))
    return wrapper.layer


class _Stripping:
    """One call of `strip_pruning`: every layer is copied or folded once."""

    def __init__(self) -> None:
        self.weights: list[tuple[Layer, Layer, Callable[[], list[np.ndarray]]]] = []
        self._done: dict[tuple[Any, int], tuple[Layer, Layer]] = {}

    def _once(self, function: Callable[[Layer], Layer], layer: Layer) -> Layer:
        key = (function, id(layer))
        if key not in self._done:
            # The layer is kept beside its successor so that its id stays taken.
            self._done[key] = (layer, function(layer))
        return self._done[key][1]

    def copied(self, layer: Layer) -> Layer:
        """Returns a plain layer for a new graph; `set_weights` fills the copies."""
        return self._once(self._copy, layer)

    def folded(self, layer: Layer) -> Layer:
        """Returns the layer itself, stripped in place."""
        return self._once(self._fold, layer)

    def _fold(self, layer: Layer) -> Layer:
        if isinstance(layer, (PrunableLayer, ChannelLayer)):
            return _fold(layer)
        if pruned_layers(layer):
            if is_graph_model(layer):
                return self._copy(layer)
            replace_sublayers(layer, self.folded)
        return layer

    def _copy(self, layer: Layer) -> Layer:
        if isinstance(layer, (PrunableLayer, ChannelLayer)):
            copy = copy_layer(layer.layer)
            if copy is None:
                return self.folded(layer)
            if not hasattr(copy, "_batch_input_shape") and hasattr(
                layer, "_batch_input_shape"
            ):
                copy._batch_input_shape = layer._batch_input_shape
            if layer.built:
                self.weights.append((copy, layer.layer, lambda: _folded_weights(layer)))
            return copy
        if is_graph_model(layer):
            return clone(layer, self.copied)
        if pruned_layers(layer):
            return self.folded(layer)
        copy = copy_layer(layer)
        if copy is None:
            return layer
        if layer.built:
            self.weights.append((copy, layer, layer.get_weights))
        return copy

    def set_weights(self) -> None:
        """Gives the copies their weights, once the new graph has built them."""
        for layer, original, read in self.weights:
            build_like(layer, original)
            # Read only now, so that only one layer at a time is in memory twice.
            weights = _joined(read(), [tuple(w.shape) for w in layer.weights])
            if layer.built or not weights:
                layer.set_weights(weights)
            else:
                raise ValueError(
                    f"Layer {layer.name!r} could not be rebuilt from its configuration "
                    "while stripping. Build the model with an input shape first."
                )


def _joined(parts: list[np.ndarray], shapes: list[tuple[int, ...]]) -> list[np.ndarray]:
    """Joins tables of which each parameter server holds some rows."""
    if len(parts) <= len(shapes):
        return parts
    waiting = iter(parts)
    weights = []
    for shape in shapes:
        part = next(waiting)
        rows = [part]
        while sum(map(len, rows)) < shape[0]:
            rows.append(next(waiting))
        weights.append(np.concatenate(rows) if len(rows) > 1 else part)
    return weights


def strip_pruning(model: Model) -> Any:
    """Removes the pruning: returns a plain model with zeros in the pruned blocks.

    `W * A * mask` is folded into the kernels. For a Sequential or functional model the
    result is a new model, and the pruned one can continue training. A subclassed model
    is changed in place, and so are layers inside a custom layer or without
    `get_config`: the same object is returned, and there is no pruned model any more.

    Args:
      model: a pruned model of any kind, a `PrunableLayer`, or a list of layers.

    Returns:
      The plain model, layer or list, not compiled.

    Warns:
      PruningWarning: if a kernel is not at the target of its schedule, because training
        ended before the schedule did.

    Raises:
      ValueError: for anything but layers and models of Keras, or if tfmot pruned it.

    Example:

    >>> from tf_seqattn.sparsity import Magnitude, MinimumBlocks, OneShotSchedule, prune
    >>> layer = keras.layers.Dense(4, input_shape=(4,))
    >>> pruned = prune(
    ...     keras.Sequential([layer]),
    ...     OneShotSchedule(0.5, prune_step=0),
    ...     block_size=(2, 2),
    ...     importance=Magnitude(),
    ...     pruning_policy=MinimumBlocks((2, 2), min_blocks=1),
    ... )
    >>> int(tf.math.count_nonzero(strip_pruning(pruned).layers[0].kernel))
    8
    """
    items = model if isinstance(model, (list, tuple)) else [model]
    for item in items:
        check_layer(item, "model")
    _warn_of_shortfall([layer for item in items for layer in pruned_layers(item)])
    stripping = _Stripping()
    if isinstance(model, (list, tuple)):
        return [stripping.folded(layer) for layer in model]
    for layer in submodules(model):
        if tfmot_api.is_wrapper(layer):
            raise ValueError(
                f"Layer {layer.name!r} was pruned by tfmot: strip it with "
                "tfmot.sparsity.keras.strip_pruning."
            )
    if is_graph_model(model):
        stripped = stripping.copied(model)
    else:
        if isinstance(model, MODELS):
            uncompile(model)
        stripped = stripping.folded(model)
    stripping.set_weights()
    return stripped


def _warn_of_shortfall(layers: list[PrunableLayer]) -> None:
    """Warns, once for all layers, if they are stripped before they are pruned."""
    lacking = shortfall(layers)
    if lacking is not None:
        warn(f"The model is stripped too early: {lacking}. {lacking.remedy}")
