"""Where the kernels of a Keras layer are, and which of their axes are inputs."""

import dataclasses
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tf_seqattn.keras_api import (
    Layer,
    arrays_of,
    classes,
    is_keras_class,
    is_variable,
    projections,
    sublayers,
    why_kernel_is_changed,
)
from tf_seqattn.kernels.blocks import BlockGrid, check_block_size
from tf_seqattn.kernels.einsum import kernel_axes
from tf_seqattn.kernels.feature_cross import dense_layers, is_feature_cross

# In place of a block size: every head of an attention layer is one block.
HEADS = "heads"
BlockSize = tuple[int | None, int | None] | str


@dataclasses.dataclass(frozen=True)
class Kernel:
    """One kernel: the layer that holds it, and how it is read as a matrix.

    Attributes:
      owner: the layer whose attribute holds the variable.
      attribute: name of that attribute.
      name: name within the pruned layer, such as "kernel" or "query/kernel".
      row_axes: axes that are contracted; empty means all but the last.
      column_axes: axes of the outputs; empty means the last.
      index: position where the attribute is a list, else None.
      head_rows: rows of the matrix that read one head of an attention layer, None
        where the kernel reads no heads.
    """

    owner: Layer
    attribute: str
    name: str
    row_axes: tuple[int, ...] = ()
    column_axes: tuple[int, ...] = ()
    index: int | None = None
    head_rows: int | None = None

    @property
    def variable(self) -> tf.Variable:
        """The kernel's variable, of any rank from 2."""
        value = self.owner.__dict__[self.attribute]
        return value if self.index is None else value[self.index]

    def replace(self, value: tf.Tensor) -> Callable[[], None]:
        """Puts `value` in the variable's place; returns a function that undoes it.

        The instance dictionary is written directly: Keras would stop tracking the
        variable if the attribute were assigned.
        """
        attributes = self.owner.__dict__
        before = attributes[self.attribute]
        if self.index is None:
            attributes[self.attribute] = value
        else:
            replaced = list(before)
            replaced[self.index] = value
            attributes[self.attribute] = replaced

        def restore() -> None:
            attributes[self.attribute] = before

        return restore

    def is_divided(self, block_size: BlockSize) -> bool:
        """Whether `block_size` cuts the kernel: "heads" only where it reads heads."""
        return not is_heads(block_size) or self.head_rows is not None

    def grid(self, block_size: BlockSize) -> BlockGrid:
        """The kernel's `BlockGrid` for blocks of `block_size`, which may be "heads"."""
        # `BlockGrid` replaces None by the size of the matrix.
        sizes: Any = (self.head_rows, None) if is_heads(block_size) else block_size
        return BlockGrid(
            tuple(self.variable.shape), sizes, self.row_axes, self.column_axes
        )


def check_plain(layer: Layer) -> None:
    """Raises a ValueError if a layer does not compute with its plain kernel.

    LoRA and quantization cause that, both in Keras 3.
    """
    reason = why_kernel_is_changed(layer)
    if reason:
        raise ValueError(
            f"Layer {layer.name!r} ({type(layer).__name__}) {reason}, so it cannot be "
            "pruned. Prune and strip the layer before that."
        )


def is_heads(block_size: object) -> bool:
    """Whether a block size stands for whole heads."""
    return isinstance(block_size, str) and block_size == HEADS


def check_block_size_or_heads(block_size: BlockSize) -> BlockSize:
    """Returns what `check_block_size` does, or "heads" as it is.

    Raises:
      ValueError: for anything else.
    """
    if is_heads(block_size):
        return block_size
    if isinstance(block_size, str):
        raise ValueError(
            "`block_size` must be two positive integers, such as (16, 16), or "
            f'"{HEADS}". Received: block_size={block_size!r}'
        )
    return check_block_size(block_size)


def _plain(
    owner: Layer,
    attribute: str = "kernel",
    prefix: str = "",
    row_axes: tuple[int, ...] = (),
    column_axes: tuple[int, ...] = (),
) -> list[Kernel]:
    check_plain(owner)
    name = prefix + attribute
    # In Keras 3 many kernels are properties, of an attribute with an underscore.
    if attribute not in owner.__dict__ and f"_{attribute}" in owner.__dict__:
        attribute = f"_{attribute}"
    return [Kernel(owner, attribute, name, row_axes, column_axes)]


def _einsum_dense(layer: Layer, prefix: str = "") -> list[Kernel]:
    axes = kernel_axes(layer.equation)
    return _plain(
        layer,
        prefix=prefix,
        row_axes=axes["row_axes"],
        column_axes=axes["column_axes"],
    )


def _transposed_convolution(layer: Layer, prefix: str = "") -> list[Kernel]:
    # Stored as (spatial..., outputs, inputs).
    rank = layer.rank
    return _plain(
        layer,
        prefix=prefix,
        row_axes=(*range(rank), rank + 1),
        column_axes=(rank,),
    )


def _locally_connected(layer: Layer, prefix: str = "") -> list[Kernel]:
    if layer.implementation == 3:
        return []  # Only the entries that are used, as a vector.
    rank = layer.kernel.shape.rank
    # One matrix for each position, or all of them as one: inputs, then outputs.
    rows = rank - 1 if layer.implementation == 1 else rank // 2
    axes = tuple(range(rank))
    return _plain(layer, prefix=prefix, row_axes=axes[:rows], column_axes=axes[rows:])


def _attention(layer: Layer, prefix: str = "") -> list[Kernel]:
    parts = projections(layer)
    if not parts:
        raise ValueError(
            f"Layer {layer.name!r} ({type(layer).__name__}) is not built, so its "
            "kernels have no shapes yet. Call it once on a query and a value."
        )
    found = []
    for name, projection in parts.items():
        found += _einsum_dense(projection, prefix=f"{prefix}{name}/")
    # The output reads (head, size of a head).
    output = found[-1]
    size = int(output.variable.shape[output.row_axes[-1]])
    return [*found[:-1], dataclasses.replace(output, head_rows=size)]


def _cell(cell: Layer, prefix: str = "") -> list[Kernel]:
    return _plain(cell, prefix=prefix) + _plain(
        cell, attribute="recurrent_kernel", prefix=prefix
    )


def _recurrent(layer: Layer, prefix: str = "") -> list[Kernel]:
    cells = getattr(layer.cell, "cells", None)
    if cells is None:
        return find_kernels(layer.cell, prefix)
    return [
        kernel
        for index, cell in enumerate(cells)
        for kernel in find_kernels(cell, f"{prefix}cell_{index}/")
    ]


def _bidirectional(layer: Layer, prefix: str = "") -> list[Kernel]:
    return find_kernels(layer.forward_layer, f"{prefix}forward/") + find_kernels(
        layer.backward_layer, f"{prefix}backward/"
    )


def _feature_cross(layer: Layer, prefix: str = "") -> list[Kernel]:
    return [
        kernel
        for name, dense in dense_layers(layer).items()
        for kernel in _plain(dense, prefix=f"{prefix}{name}/")
    ]


_DEPTHWISE = classes("DepthwiseConv1D", "DepthwiseConv2D")
_ATTENTION = classes("MultiHeadAttention", "GroupQueryAttention")
# First match wins: subclasses stand before their bases.
_FINDERS: list[tuple[tuple[Any, ...], Callable[..., list[Kernel]]]] = [
    (
        _DEPTHWISE,
        lambda layer, prefix="": [],
    ),
    (
        classes("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose"),
        _transposed_convolution,
    ),
    (
        classes("SeparableConv1D", "SeparableConv2D"),
        lambda layer, prefix="": _plain(layer, "pointwise_kernel", prefix),
    ),
    (
        classes("Dense", "Conv1D", "Conv2D", "Conv3D"),
        lambda layer, prefix="": _plain(layer, "kernel", prefix),
    ),
    (classes("EinsumDense"), _einsum_dense),
    (classes("LocallyConnected1D", "LocallyConnected2D"), _locally_connected),
    (_ATTENTION, _attention),
    (
        classes("LSTMCell", "GRUCell", "SimpleRNNCell"),
        _cell,
    ),
    (classes("Bidirectional"), _bidirectional),
    (
        classes("TimeDistributed"),
        lambda layer, prefix="": find_kernels(layer.layer, prefix),
    ),
    (classes("RNN"), _recurrent),
    (
        classes("Embedding"),
        lambda layer, prefix="": _plain(layer, "embeddings", prefix),
    ),
]


def _find_declared(layer: Layer, prefix: str = "") -> list[Kernel]:
    """Kernels that a custom layer names by `get_prunable_weights()`."""
    places: dict[int, tuple[Layer, str, int | None]] = {}
    for owner in sublayers(layer):
        for attribute, value in owner.__dict__.items():
            if is_variable(value):
                places.setdefault(id(value), (owner, attribute, None))
            # Keras' own lists of weights are private; a user's list is not.
            elif isinstance(value, (list, tuple)) and not attribute.startswith("_"):
                for position, item in enumerate(value):
                    places.setdefault(id(item), (owner, attribute, position))
    found = []
    for weight in layer.get_prunable_weights():
        if id(weight) not in places:
            raise ValueError(
                f"`get_prunable_weights()` of layer {layer.name!r} "
                f"({type(layer).__name__}) returns {getattr(weight, 'name', weight)!r},"
                " which is not an attribute of the layer or of a layer below it. Return"
                " the variables themselves, as in `return [self.kernel]`."
            )
        owner, attribute, index = places[id(weight)]
        name = attribute if owner is layer else f"{owner.name}/{attribute}"
        if index is not None:
            name = f"{name}_{index}"
        found.append(Kernel(owner, attribute, prefix + name, index=index))
    return found


def _finder(layer: Layer) -> Callable[..., list[Kernel]] | None:
    """What finds the kernels of a layer of a known class; None for another one."""
    for kinds, find in _FINDERS:
        if isinstance(layer, kinds):
            return find
    return _feature_cross if is_feature_cross(layer) else None


def is_supported(layer: Layer) -> bool:
    """Whether a layer's kernels can be found (it may still have none)."""
    return hasattr(layer, "get_prunable_weights") or _finder(layer) is not None


def find_kernels(layer: Layer, prefix: str = "") -> list[Kernel]:
    """Finds the kernels of a built layer.

    Args:
      layer: a built layer. `get_prunable_weights()`, tfmot's way for custom layers to
        name their kernels, takes precedence over what is known about its class.
      prefix: put before every kernel's name.

    Returns:
      A list of `Kernel`, empty where the layer has none. Kernels of rank 1 that a
      custom layer declares are left out: they cannot be cut into blocks.

    Raises:
      ValueError: if the class of the layer is unknown and it declares no weights, or
        if the layer has LoRA enabled or is quantized.

    Example:

    >>> layer = keras.layers.Dense(3)
    >>> layer.build((None, 2))
    >>> [kernel.name for kernel in find_kernels(layer)]
    ['kernel']
    """
    if hasattr(layer, "get_prunable_weights"):
        return [k for k in _find_declared(layer, prefix) if k.variable.shape.rank > 1]
    find = _finder(layer)
    if find is not None:
        return find(layer, prefix)
    raise ValueError(
        f"tf_seqattn does not know the kernels of layer {layer.name!r} of class "
        f"{type(layer).__name__}. Give the class a method `get_prunable_weights()` "
        "that returns the variables to prune, or leave the layer unwrapped."
    )


def find_entries(layer: Layer) -> list[Kernel]:
    """Finds the kernels of a built layer whose single entries can be pruned.

    These are the kernels of `find_kernels` and those of depthwise convolutions. An
    output of a depthwise convolution reads one channel, so there are no blocks to
    remove. Its inputs are the entries of the window.

    Args:
      layer: a built layer.

    Raises:
      ValueError: as `find_kernels`.

    Example:

    >>> layer = keras.layers.DepthwiseConv2D(3)
    >>> layer.build((None, 8, 8, 4))
    >>> [kernel.grid((1, 1)).matrix_shape for kernel in find_entries(layer)]
    [(9, 4)]
    """
    if not isinstance(layer, _DEPTHWISE) or hasattr(layer, "get_prunable_weights"):
        return find_kernels(layer)
    window = tuple(range(len(layer.kernel_size)))
    outputs = (len(window), len(window) + 1)
    name = "kernel" if hasattr(layer, "kernel") else "depthwise_kernel"
    return _plain(layer, name, row_axes=window, column_axes=outputs)


def entries_side_by_side(kernel: Kernel, grid: BlockGrid) -> int:
    """Rows of a matrix of entries that lie at one place: the channels of a convolution.

    Args:
      kernel: of `find_entries`.
      grid: its grid.

    Returns:
      A divisor of the number of rows. All rows, the entries of the window, for a
      depthwise convolution.

    Example:

    >>> layer = keras.layers.Conv2D(8, 3)
    >>> layer.build((None, 6, 6, 5))
    >>> [kernel] = find_entries(layer)
    >>> entries_side_by_side(kernel, kernel.grid((1, 1)))
    5
    """
    if isinstance(kernel.owner, _DEPTHWISE):
        return grid.matrix_shape[0]
    return grid.kernel_shape[grid.row_axes[-1]]


def holds_no_kernel(layer: Layer) -> bool:
    """Whether a built-in layer of Keras, such as MaxPooling2D, has nothing to prune.

    Args:
      layer: any layer. A custom layer may hold a kernel under any name, so it counts as
        one that holds some.

    Example:

    >>> holds_no_kernel(keras.layers.MaxPooling2D())
    True
    >>> holds_no_kernel(keras.layers.Dense(8))
    False
    """
    return (
        is_keras_class(type(layer))
        and not is_supported(layer)
        and not isinstance(layer, classes("Wrapper"))
        and len(sublayers(layer)) == 1
        and all(len(weight.shape) < 2 for weight in arrays_of(layer))
    )


def divided_kernels(layer: Layer, block_size: BlockSize) -> list[Kernel]:
    """The kernels of a built layer that are cut into blocks of `block_size`.

    Args:
      layer: a built layer.
      block_size: (rows, columns) for all that `find_kernels` finds. "heads" cuts only
        the output projection of an attention layer, into the rows that read one head.
        Without these rows nothing reads the head.

    Raises:
      ValueError: as `find_kernels`.

    Example:

    >>> layer = keras.layers.MultiHeadAttention(num_heads=4, key_dim=8)
    >>> x = tf.ones((1, 5, 32))
    >>> _ = layer(x, x)
    >>> [k.name for k in divided_kernels(layer, "heads")]
    ['output/kernel']
    >>> divided_kernels(layer, "heads")[0].grid("heads").shape
    (4, 1)
    """
    return [k for k in find_kernels(layer) if k.is_divided(block_size)]


def why_not_divided(layer: Layer, block_size: BlockSize | None) -> str | None:
    """Why a layer, built or not, has no blocks of `block_size`; None if it has some.

    Example:

    >>> why_not_divided(keras.layers.Dense(8), "heads")
    'Dense has no attention heads'
    """
    if not is_heads(block_size):
        return None
    if any(isinstance(found, _ATTENTION) for found in sublayers(layer)):
        return None
    return f"{type(layer).__name__} has no attention heads"
