"""Removes channels between two layers that are constant, or that nothing reads.

If all blocks of an output column are pruned, the channel is the activation of its bias,
whatever the input. It is folded into the bias of the layer that reads it. If all blocks
of an input row are pruned, nothing reads the channel. In both cases both layers lose
it. This needs a layer that is the only reader of the other: a residual connection needs
all channels.
"""

import dataclasses
import math
from collections.abc import Sequence, Set
from typing import Any

import numpy as np

from tf_seqattn.keras_api import (
    classes,
    input_shape,
    layers_after,
    layers_before,
    output_layers,
)
from tf_seqattn.kernels.zero_blocks import find_block_size

_PRODUCTS = classes("Dense", "Conv1D", "Conv2D", "Conv3D")
# Layers that treat each channel separately, and keep a constant channel constant.
_ELEMENTWISE = classes("Activation", "ReLU", "LeakyReLU", "ELU", "Dropout")
_POOLING = classes(
    *(
        f"{kind}Pooling{rank}D"
        for kind in ("Max", "Average", "GlobalMax", "GlobalAverage")
        for rank in (1, 2, 3)
    )
)
_PADDING = classes("ZeroPadding1D", "ZeroPadding2D", "ZeroPadding3D")
_NORMALIZATION = classes("BatchNormalization")
# Softmax is missing: it makes channels depend on each other.
_ELEMENTWISE_ACTIVATIONS = frozenset(
    "linear relu relu6 elu selu gelu tanh sigmoid hard_sigmoid swish silu softplus "
    "softsign exponential mish leaky_relu".split()
)


@dataclasses.dataclass
class _Chain:
    """A layer, its only reader, and the layers between them."""

    producer: Any
    between: list[Any]
    consumer: Any

    @property
    def pads(self) -> bool:
        """Whether the channels are padded with zeros before they are read."""
        padding = getattr(self.consumer, "padding", "valid")
        return padding != "valid" or any(isinstance(b, _PADDING) for b in self.between)


def _is_product(layer: Any) -> bool:
    """Whether the last two axes of the kernel are channels in and channels out."""
    return (
        type(layer) in _PRODUCTS
        and getattr(layer, "groups", 1) == 1
        and getattr(layer, "data_format", "channels_last") == "channels_last"
    )


def _activation_name(layer: Any) -> str:
    return getattr(layer.activation, "__name__", "")


def _keeps_channels_apart(layer: Any) -> bool:
    if type(layer) in _NORMALIZATION:
        return list(np.atleast_1d(layer.axis)) in ([-1], [len(input_shape(layer)) - 1])
    if type(layer) in classes("Activation"):
        return _activation_name(layer) in _ELEMENTWISE_ACTIVATIONS
    if type(layer) in classes("Dropout"):
        return layer.noise_shape is None
    if type(layer) in (*_POOLING, *_PADDING):
        return layer.data_format == "channels_last"
    return type(layer) in _ELEMENTWISE


def _only_reader(layer: Any, model: Any, shared: Set[int]) -> Any:
    """The only layer of `model` that reads `layer`, or None."""
    readers = layers_after(model, layer)
    if len(layers_before(model, layer)) != 1 or len(readers) != 1:
        return None
    if any(layer is output for output in output_layers(model)):
        return None
    reader = readers[0]
    if id(layer) in shared or id(reader) in shared:
        return None
    read = layers_before(model, reader)
    single = len(read) == 1 and len(read[0]) == 1
    return reader if single and reader in model.layers else None


def _chains(model: Any, shared: Set[int]) -> list[_Chain]:
    """All chains of a graph model, in the order of computation."""
    chains = []
    for producer in model.layers:
        if not _is_product(producer) or (
            _activation_name(producer) not in _ELEMENTWISE_ACTIVATIONS
        ):
            continue
        between, reader = [], _only_reader(producer, model, shared)
        while reader is not None and _keeps_channels_apart(reader):
            between.append(reader)
            reader = _only_reader(reader, model, shared)
        if reader is not None and _is_product(reader):
            chains.append(_Chain(producer, between, reader))
    return chains


class _Weights:
    """Working copy of the weights of a Dense layer or convolution."""

    def __init__(self, layer: Any) -> None:
        self.kernel = layer.kernel.numpy()
        self.bias = (
            layer.bias.numpy()
            if layer.use_bias
            else np.zeros(self.kernel.shape[-1], self.kernel.dtype)
        )

    def writes(self) -> np.ndarray:
        """Which output channels depend on the input."""
        return self.kernel.any(axis=tuple(range(self.kernel.ndim - 1)))

    def reads(self) -> np.ndarray:
        """Which input channels the layer depends on."""
        leading = tuple(range(self.kernel.ndim - 2))
        return self.kernel.any(axis=(*leading, self.kernel.ndim - 1))


def _constants(chain: _Chain, weights: _Weights) -> np.ndarray:
    """The value of each channel if the producer sums to 0, float `(channels,)`."""
    values = chain.producer.activation(weights.bias[None])
    for layer in chain.between:
        if type(layer) in _NORMALIZATION:
            norm = type(layer).from_config({**layer.get_config(), "axis": -1})
            norm.build(values.shape)
            norm.set_weights(layer.get_weights())
            values = norm(values, training=False)
        elif type(layer) in _ELEMENTWISE:
            values = type(layer).from_config(layer.get_config())(values)
    return np.asarray(values[0], weights.kernel.dtype)


def _fold_constants(chain: _Chain, producer: _Weights, consumer: _Weights) -> None:
    """Moves constant channels into the consumer's bias, which then ignores them."""
    dead = ~producer.writes() & consumer.reads()
    if not dead.any():
        return
    constants = _constants(chain, producer)
    if chain.pads:
        # At the border the consumer reads the zeros of the padding instead.
        dead &= constants == 0
    leading = tuple(range(consumer.kernel.ndim - 2))
    summed = consumer.kernel.sum(axis=leading, dtype=np.float64)
    consumer.bias = (consumer.bias + constants[dead] @ summed[dead]).astype(
        consumer.bias.dtype
    )
    consumer.kernel[..., dead, :] = 0


def _whole_blocks(
    chain: _Chain, block_size: Sequence[int | None] | None, removable: np.ndarray
) -> np.ndarray:
    """`removable` in whole blocks of both layers, so that both keep their grids."""
    if block_size is None:
        columns = _block_size(chain.producer, chain.producer.kernel.shape[-2])[1]
        rows = _block_size(chain.consumer, chain.consumer.kernel.shape[-2])[0]
    else:
        # A block that spans a whole axis fits an axis of any length.
        rows, columns = (size or 1 for size in block_size)
    step = math.lcm(rows, columns)
    firsts = np.arange(0, len(removable), step)
    whole = np.repeat(np.logical_and.reduceat(removable, firsts), step)
    whole = whole[: len(removable)]
    if whole.all():
        # Keras has no layer without channels.
        whole[:step] = False
    return whole


def _block_size(layer: Any, divisor: int) -> tuple[int, int]:
    kernel = layer.kernel.numpy()
    if kernel.ndim == 2 or math.prod(kernel.shape[:-2]) == 1:
        divisor = 0
    return find_block_size(kernel.reshape(-1, kernel.shape[-1]), divisor) or (1, 1)


def _resized(
    layer: Any, config: dict[str, Any], weights: list[np.ndarray], channels: int
) -> Any:
    """A built layer of the same class for another number of channels."""
    resized = type(layer).from_config({**layer.get_config(), **config})
    resized.build((*input_shape(layer)[:-1], channels))
    resized.set_weights(weights)
    return resized


def without_constant_channels(
    model: Any,
    block_size: Sequence[int | None] | None = None,
    shared: Set[int] = frozenset(),
) -> dict[int, Any]:
    """Smaller layers in place of those that write or read needless channels.

    Args:
      model: a Sequential or functional model, built, without pruning.
      block_size: (rows, columns) of the blocks of its kernels. By default they are
        found in the zeros. Channels are removed by whole blocks.
      shared: ids of layers that other graphs use too. They do not change.

    Returns:
      For the id of each layer that gets smaller, a built layer with weights that
      replaces it in inference. Replace all of them together.

    Example:

    >>> model = keras.Sequential(
    ...     [keras.layers.Dense(4, input_shape=(3,)), keras.layers.Dense(2)]
    ... )
    >>> kernel = np.ones((3, 4)) * [1, 0, 1, 0]
    >>> model.layers[0].set_weights([kernel, np.ones(4)])
    >>> smaller = without_constant_channels(model, block_size=(1, 1))
    >>> smaller[id(model.layers[1])].kernel.shape
    TensorShape([2, 2])
    """
    chains = _chains(model, shared)
    ends = {id(e): e for c in chains for e in (c.producer, c.consumer)}
    weights = {key: _Weights(layer) for key, layer in ends.items()}
    for chain in chains:
        _fold_constants(chain, weights[id(chain.producer)], weights[id(chain.consumer)])
    kept_in: dict[int, np.ndarray] = {}
    kept_out: dict[int, np.ndarray] = {}
    for chain in reversed(chains):
        producer, consumer = chain.producer, chain.consumer
        unread = ~weights[id(consumer)].reads()
        gone = _whole_blocks(chain, block_size, unread) if unread.any() else unread
        if gone.any():
            weights[id(producer)].kernel[..., gone] = 0
            kept_out[id(producer)] = kept_in[id(consumer)] = ~gone
            for layer in chain.between:
                if type(layer) in _NORMALIZATION:
                    kept_out[id(layer)] = ~gone
                    ends[id(layer)] = layer
    smaller = {}
    for key, layer in ends.items():
        if key not in kept_in and key not in kept_out:
            continue
        if type(layer) in _NORMALIZATION:
            values = [value[kept_out[key]] for value in layer.get_weights()]
            smaller[key] = _resized(layer, {}, values, int(kept_out[key].sum()))
            continue
        kernel, bias = weights[key].kernel, weights[key].bias
        if key in kept_in:
            kernel = kernel[..., kept_in[key], :]
        if key in kept_out:
            kernel, bias = kernel[..., kept_out[key]], bias[kept_out[key]]
        size = "units" if isinstance(layer, classes("Dense")) else "filters"
        use_bias = layer.use_bias or bool(bias.any())
        config = {size: kernel.shape[-1], "use_bias": use_bias}
        values = [kernel, bias] if use_bias else [kernel]
        smaller[key] = _resized(layer, config, values, kernel.shape[-2])
    return smaller
