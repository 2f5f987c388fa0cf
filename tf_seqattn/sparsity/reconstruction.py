"""Repairs a model whose channels were pruned without training (OBSPA)."""

import logging
from collections.abc import Iterable
from typing import Any

import numpy as np
import tensorflow as tf

from tf_seqattn.keras_api import (
    Layer,
    Model,
    classes,
    graph_calls,
    is_graph_model,
    keras_of,
    stored,
    sublayers,
)
from tf_seqattn.kernels.channel_rules import is_elementwise
from tf_seqattn.kernels.least_squares import Moments, reconstructed
from tf_seqattn.sparsity.channel_layer import ChannelLayer
from tf_seqattn.sparsity.stripping import strip_pruning

logger = logging.getLogger("tf_seqattn")

_DENSE = classes("Dense")
_CONVOLUTION = classes("Conv2D")
_NORMALIZATION = classes("BatchNormalization")
# What passes on the distribution of each channel, or maps it.
_AVERAGES = classes("Dropout", "GlobalAveragePooling2D", "GlobalAveragePooling1D")
_BETWEEN = (*classes("Activation", "ReLU", "LeakyReLU", "ELU"), *_AVERAGES)
_SUMS = classes("Add")
# Rows of inputs that are looked at in a batch: positions of a feature map are alike.
_ROWS_OF_A_BATCH = 20_000
# Quantiles of the normal distribution, for the mean of an activation.
_QUANTILES = 999


def reconstruct(model: Model, data: Iterable[Any] | None = None) -> Any:
    """Makes up for pruned channels without training: the step of OBSPA.

    Layer by layer, in the order of computation, the weights that read the channels that
    stay are changed so that the outputs of the layer are as close as possible to what
    they were with all channels: ridge regression on the inputs of the layer, with the
    bias from their means. Batch normalizations get the statistics of the data anew.
    Without data, the statistics of batch normalizations say the mean of each channel,
    and the bias takes what the removed ones gave on average.

    Dense and Conv2D layers (one group) are repaired. Others that read pruned channels
    stay as `sa.strip_pruning` gives them, and the log names them.

    Args:
      model: a Sequential or functional model whose channels are pruned. For a trained
        model: `sa.prune(model, sa.OneShotSchedule(share, prune_step=0),
        block_size="channels", importance=sa.Magnitude())`.
      data: batches of inputs, such as a list of arrays or a `tf.data.Dataset` of
        inputs (no labels). A few hundred samples do. They are read several times.

    Returns:
      A plain model like that of `sa.strip_pruning`, to be given to `sa.shrink`.

    Raises:
      ValueError: if no channels are pruned, or if there are no data and no batch
        normalizations before any layer that reads pruned channels.

    Example:

    >>> model = keras.Sequential(
    ...     [keras.layers.Dense(8, input_shape=(4,)), keras.layers.Dense(2)]
    ... )
    >>> schedule = sa.OneShotSchedule(0.5, prune_step=0)
    >>> pruned = sa.prune(
    ...     model, schedule, block_size="channels", importance=sa.Magnitude()
    ... )
    >>> images = np.random.default_rng(0).normal(size=(64, 4))
    >>> def error(other):
    ...     return float(np.mean((other(images) - model(images)) ** 2))
    >>> repaired = sa.reconstruct(pruned, [images])
    >>> error(repaired) < error(sa.strip_pruning(pruned))
    True
    """
    wrappers = [m for m in sublayers(model) if isinstance(m, ChannelLayer)]
    if not wrappers or not is_graph_model(model):
        raise ValueError(
            "`model` must be a Sequential or functional model whose channels are "
            'pruned: sa.prune(model, schedule, block_size="channels"). Received: '
            f"{model.name!r}"
        )
    plain = strip_pruning(model)
    repair = _Repair(model, plain, len(wrappers))
    if data is None:
        repair.from_statistics()
    else:
        repair.from_data(list(data))
    return plain


class _Repair:
    """One call of `reconstruct`."""

    def __init__(self, pruned: Model, plain: Model, num_wrappers: int) -> None:
        self._plain = plain
        self._wrappers = {
            layer.layer.name: layer
            for layer in pruned.layers
            if isinstance(layer, ChannelLayer)
        }
        self._reads = {
            name
            for name, wrapper in self._wrappers.items()
            if any(found.reads for found in wrapper.slices)
        }
        calls = graph_calls(plain)
        called = [call.operation for call in calls]
        self._all = calls
        # Layers that are called twice have two kinds of inputs.
        self._calls = [c for c in calls if called.count(c.operation) == 1]
        self._before = {
            id(output): call for call in self._calls for output in call.outputs
        }
        # Counted before the strip, which empties custom layers in place.
        inside = len(self._wrappers) < num_wrappers
        self._left = {"layers inside other layers"} if inside else set()

    def _repairable(self, layer: Layer) -> bool:
        if layer.name not in self._reads:
            return False
        if type(layer) in _DENSE:
            return True
        plain = getattr(layer, "groups", 1) == 1
        last = getattr(layer, "data_format", "channels_last") == "channels_last"
        return type(layer) in _CONVOLUTION and plain and last

    def _finish(self, repaired: set[str]) -> None:
        self._left |= self._reads - repaired
        if self._left:
            logger.warning(
                "sa.reconstruct left %d layers as they are: %s",
                len(self._left),
                ", ".join(sorted(self._left)),
            )

    def _source(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """The kernel before channels were removed, and which inputs stay."""
        wrapper = self._wrappers[name]
        kernel = np.array(stored(wrapper.layer.kernel))
        kept = np.ones(kernel.shape[-2], bool)
        for found in wrapper.slices:
            if found.reads:
                kept &= wrapper.kept_entries(found)
                group = wrapper.groups[found.group]
                (pruned,) = group.pruned_kernels
                values = group.importance_multipliers(pruned)
                if values is not None:
                    scale = np.append(np.asarray(values)[:, 0], 1.0)
                    kernel = kernel * scale[found.positions][:, None]
        return kernel, kept

    def _store(self, layer: Layer, kernel: np.ndarray, shift: np.ndarray) -> None:
        """Gives a layer a kernel and a change of its bias.

        A batch normalization behind it takes the change if there is no bias. Without
        either there is nothing that could.
        """
        layer.kernel.assign(kernel.reshape(layer.kernel.shape).astype("float32"))
        taker = self._mean_of(layer)
        if taker is not None:
            sign = 1 if layer.use_bias else -1
            taker.assign((np.asarray(stored(taker)) + sign * shift).astype("float32"))

    def _mean_of(self, layer: Layer) -> Any:
        """The weight that shifts what a layer computes, or None."""
        if layer.use_bias:
            return layer.bias
        reading = [
            (call.operation, len(value.shape))
            for call in self._all
            for value in call.inputs
            if self._is_of(value, layer)
        ]
        if len(reading) != 1 or type(reading[0][0]) not in _NORMALIZATION:
            return None
        ((norm, rank),) = reading
        is_last = np.atleast_1d(norm.axis).tolist() in ([-1], [rank - 1])
        return norm.moving_mean if is_last else None

    def _is_of(self, tensor: Any, layer: Layer) -> bool:
        call = self._before.get(id(tensor))
        return call is not None and call.operation is layer

    # With data.

    def from_data(self, batches: list[Any]) -> None:
        """Repairs every layer from the inputs that it gets after those before it."""
        if not batches:
            raise ValueError("`data` is empty: give at least one batch of inputs.")
        repaired = set()
        for call in self._calls:
            layer: Any = call.operation
            if type(layer) in _NORMALIZATION:
                self._measure(layer, call, batches)
            elif self._repairable(layer):
                kernel, kept = self._source(layer.name)
                rows = kernel.reshape(-1, kernel.shape[-1])
                window = len(rows) // len(kept)
                moments = Moments(len(rows))
                for inputs in self._inputs(call, batches):
                    moments.add(_windows(layer, inputs))
                new, shift = reconstructed(
                    rows, moments.mean, moments.covariance, np.tile(kept, window)
                )
                self._store(layer, new, shift)
                repaired.add(layer.name)
        self._finish(repaired)

    def _inputs(self, call: Any, batches: list[Any]) -> Iterable[np.ndarray]:
        """What a layer reads in the model as it is now."""
        library = keras_of(self._plain)
        (tensor,) = call.inputs
        until = library.Model(self._plain.inputs, tensor)
        for batch in batches:
            yield np.asarray(until(batch, training=False))

    def _measure(self, layer: Layer, call: Any, batches: list[Any]) -> None:
        """Gives a batch normalization the statistics of the data."""
        (axis,) = np.atleast_1d(layer.axis)
        found = [np.moveaxis(x, axis, -1) for x in self._inputs(call, batches)]
        rows = np.concatenate([x.reshape(-1, x.shape[-1]) for x in found])
        rows = rows.astype(np.float64)
        layer.moving_mean.assign(rows.mean(axis=0).astype("float32"))
        layer.moving_variance.assign(rows.var(axis=0).astype("float32"))

    # Without data.

    def from_statistics(self) -> None:
        """Moves into each bias what the removed channels gave on average."""
        repaired = set()
        for call in self._calls:
            layer = call.operation
            if not self._repairable(layer):
                continue
            (tensor,) = call.inputs
            moments = self._moments(tensor)
            if moments is None or self._mean_of(layer) is None:
                continue
            means = moments[0]
            kernel, kept = self._source(layer.name)
            given = kernel.reshape(-1, *kernel.shape[-2:]).sum(axis=0)
            shift = (means * ~kept) @ given
            kernel[..., ~kept, :] = 0
            self._store(layer, kernel, shift)
            repaired.add(layer.name)
        if not repaired:
            raise ValueError(
                "Without `data` there must be batch normalizations before the layers "
                "that read pruned channels, and a bias or another one behind them. "
                "Pass `data`, a list of batches of inputs."
            )
        self._finish(repaired)

    def _moments(self, tensor: Any) -> tuple[np.ndarray, np.ndarray] | None:
        """Mean and variance of each channel of a tensor, as batch norms know them.

        Channels count as independent and normal before an activation.
        """
        call = self._before.get(id(tensor))
        if call is None:
            return None
        layer: Any = call.operation
        if type(layer) in _NORMALIZATION:
            size = layer.moving_mean.shape[0]
            mean = np.asarray(stored(layer.beta)) if layer.center else np.zeros(size)
            scale = np.asarray(stored(layer.gamma)) if layer.scale else np.ones(size)
            return mean, scale**2
        found = [self._moments(source) for source in call.inputs]
        known = [moments for moments in found if moments is not None]
        if len(known) < len(found) or not known:
            return None
        if type(layer) in _SUMS:
            mean, variance = np.sum(known, axis=0)
            return mean, variance
        function = getattr(layer, "activation", None)
        is_plain = function is None or is_elementwise(function)
        if type(layer) not in _BETWEEN or not is_plain:
            return None
        if type(layer) in _AVERAGES:
            return known[0]
        return _activated_moments(layer, *known[0])


def _activated_moments(
    function: Any, mean: np.ndarray, variance: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance behind an activation of normal inputs, by quantiles."""
    levels = (np.arange(_QUANTILES) + 0.5) / _QUANTILES
    quantiles = np.sqrt(2) * tf.math.erfinv(2 * levels - 1).numpy()
    values = mean + quantiles[:, None] * np.sqrt(variance)
    values = np.asarray(function(tf.constant(values, tf.float32)))
    return values.mean(axis=0), values.var(axis=0)


def _windows(layer: Layer, inputs: np.ndarray) -> np.ndarray:
    """The rows that a layer multiplies: `(n, d)`, in the order of its kernel."""
    if type(layer) in _CONVOLUTION:
        inputs = tf.image.extract_patches(
            inputs,
            (1, *layer.kernel_size, 1),
            (1, *layer.strides, 1),
            (1, *layer.dilation_rate, 1),
            layer.padding.upper(),
        ).numpy()
    rows = inputs.reshape(-1, inputs.shape[-1])
    return rows[:: max(1, len(rows) // _ROWS_OF_A_BATCH)]
