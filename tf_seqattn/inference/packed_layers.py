"""Layers that compute on the kept blocks of their kernel only.

`sa.pack` makes them from layers whose kernels have zeros in blocks. They have the same
inputs, outputs, biases, activations and dtypes. They store the kept blocks
(`block_format`) and compute with them (`block_matmul`).
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tf_seqattn.inference.block_format import Pattern, kept_blocks, pack_matrix
from tf_seqattn.inference.block_matmul import (
    multiply_blocks,
    multiply_groups,
    multiply_slices,
)
from tf_seqattn.inference.trainable_product import BlockPositions, trainable_product
from tf_seqattn.keras_api import (
    add_weight,
    keras2,
    keras3,
    keras_of,
    register_for_both,
    register_pair,
    replace_tracked,
    sublayers,
)
from tf_seqattn.kernels.einsum import split_equation

# The ways to compute a product in Keras: see `block_matmul` and `trainable_product`.
# For TFLite, slices are computed as groups (`computing_in_groups`).
FORMS = ("slices", "blocks", "training")
# Activations that TFLite computes within a product.
_FUSED = ("linear", "relu", "relu6")
# Activations of single entries, which may be computed in any layout.
_ENTRYWISE = (*_FUSED, "elu", "gelu", "sigmoid", "silu", "swish", "tanh")
# Where a tensor keeps its transpose, as Keras keeps a mask.
_TRANSPOSE = "_tf_seqattn_transpose"


def positions_of(pattern: Pattern) -> tuple[np.ndarray, np.ndarray]:
    """Block rows and block columns `(kept,)` of the kept blocks, sorted by column."""
    height, width = pattern.block_size
    empty = [
        np.broadcast_to(
            np.float32(0), (len(part.columns), len(part.rows[0]) * height, width)
        )
        for part in pattern.slices
    ]
    return kept_blocks(pattern, empty)[:2]


# Our classes are mixed into the layer class of either Keras: see `KINDS`.
_Mixin: Any = object


class PackedLayer(_Mixin):
    """A layer with a block-sparse kernel, stored as its kept blocks.

    `KINDS` has the class for each Keras.

    Args:
      pattern: a `Pattern`, or its configuration.
      form: "slices" (TFLite and plain TensorFlow), "blocks" (XLA) or "training".
      bias_shape: shape of the bias, or None if there is none.
      activation: as in Keras.
      kernel_regularizer, bias_regularizer: as in Keras. That of the kernel must be a
        sum over entries, since it sees the kept ones alone.
    """

    def __init__(
        self,
        pattern: Pattern | dict[str, Any],
        form: str = "slices",
        bias_shape: Sequence[int] | None = None,
        activation: Any = None,
        kernel_regularizer: Any = None,
        bias_regularizer: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if isinstance(pattern, dict):
            pattern = Pattern.from_config(pattern)
        if form not in FORMS:
            raise ValueError(f"`form` must be one of {FORMS}. Received: form={form!r}")
        self.pattern = pattern
        self.form = form
        self.bias_shape = None if bias_shape is None else tuple(bias_shape)
        self.activation = keras_of(self).activations.get(activation)
        regularizers = keras_of(self).regularizers
        self.kernel_regularizer = regularizers.get(kernel_regularizer)
        self.bias_regularizer = regularizers.get(bias_regularizer)
        self._computes_in_groups = False
        # What `having_equal_columns` divided each output's weights by.
        self._scales: np.ndarray | None = None

    def build(self, input_shape: Any = None) -> None:
        height, width = self.pattern.block_size
        shapes: list[tuple[int, ...]]
        if self.form == "slices":
            shapes = [
                (len(part.columns), len(part.rows[0]) * height, width)
                for part in self.pattern.slices
            ]
            if self.pattern.reads_alike:
                # One product of all columns needs them side by side.
                ((columns, rows, _),) = shapes
                shapes = [(rows, columns * width)]
        elif self.form == "training" and not self.pattern.num_kept:
            # An optimizer would miss the gradient of an empty variable.
            shapes = []
        else:
            shapes = [(self.pattern.num_kept, height, width)]
        self.kernels = [
            add_weight(
                self,
                f"{self.name}/blocks_{index}",
                shape,
                regularizer=self.kernel_regularizer,
            )
            for index, shape in enumerate(shapes)
        ]
        self.bias = None
        if self.bias_shape is not None:
            self.bias = add_weight(
                self,
                f"{self.name}/bias",
                self.bias_shape,
                "zeros",
                self.bias_regularizer,
            )
        self.built = True

    def weights_from(
        self, matrix: np.ndarray, bias: np.ndarray | None = None
    ) -> list[np.ndarray]:
        """The layer's weights for a kernel read as a matrix, for `set_weights`."""
        arrays = pack_matrix(np.asarray(matrix), self.pattern)
        if self.form == "training" and not self.pattern.num_kept:
            arrays = []
        elif self.form != "slices":
            arrays = [kept_blocks(self.pattern, arrays)[2]]
        elif self.pattern.reads_alike:
            (array,) = arrays
            arrays = [array.swapaxes(0, 1).reshape(array.shape[1], -1)]
        return arrays if bias is None else [*arrays, np.asarray(bias)]

    def matrix(self) -> np.ndarray:
        """The kernel of a layer in the form "training", as a matrix."""
        (height, width), grid_shape = self.pattern.block_size, self.pattern.grid_shape
        blocks = np.zeros((*grid_shape, height, width), np.float32)
        for kernel in self.kernels:
            blocks[positions_of(self.pattern)] = np.asarray(kernel)
        matrix = blocks.swapaxes(1, 2).reshape(grid_shape[0] * height, -1)
        return matrix[: self.pattern.matrix_shape[0], : self.pattern.matrix_shape[1]]

    def _multiply(
        self,
        rows: tf.Tensor,
        base: tf.Tensor,
        offset_of_row: Callable[[np.ndarray, np.ndarray], Any],
        read: Callable[[tf.Tensor], tf.Tensor] | None = None,
    ) -> tf.Tensor:
        """`(samples, outputs)`.

        Args:
          rows: `(n, block height)`.
          base: int32 `(samples,)`, the row of `rows` at which each sample begins.
          offset_of_row: function of block rows and the block columns that read them
            (int32 arrays that broadcast). It returns offsets in `rows`.
          read: see `multiply_groups`. By default it gathers at `base` plus the offsets.
        """
        if not self.pattern.num_kept:
            samples = tf.shape(base)[0]
            return tf.zeros((samples, self.pattern.matrix_shape[1]), rows.dtype)
        kernels = [tf.cast(kernel, rows.dtype) for kernel in self.kernels]
        if self.form == "blocks":
            block_rows, columns = positions_of(self.pattern)
            offsets = offset_of_row(block_rows, columns)
            read = tf.gather(rows, offsets[:, None] + base[None, :])
            return multiply_blocks(read, columns, kernels[0], self.pattern)
        offsets = [
            offset_of_row(
                np.array(part.rows, np.int32), np.array(part.columns, np.int32)[:, None]
            )
            for part in self.pattern.slices
        ]
        if self._in_groups:
            read = read or (lambda at: tf.gather(rows, base[:, None] + at[None]))
            return multiply_groups(
                read, offsets, kernels, self.pattern, self._finish_columns
            )
        outputs = multiply_slices(rows, base, offsets, kernels, self.pattern)
        if self._scales is not None:
            outputs *= tf.cast(self._scales, outputs.dtype)
        return outputs

    def in_order_of_outputs(self, values: Sequence[np.ndarray]) -> np.ndarray:
        """Numbers `(columns, width)` of each slice as `(outputs,)`; 1 for no column."""
        count, width = self.pattern.grid_shape[1], self.pattern.block_size[1]
        outputs = np.ones((count, width), np.float32)
        for part, value in zip(self.pattern.slices, values, strict=True):
            outputs[list(part.columns)] = value
        return outputs.ravel()[: self.pattern.matrix_shape[1]]

    @property
    def _in_groups(self) -> bool:
        # Columns that read alike need one product, without groups.
        is_sliced = self.form == "slices" and not self.pattern.reads_alike
        return self._computes_in_groups and is_sliced and self.pattern.num_kept > 0

    @property
    def _fuses_bias(self) -> bool:
        one_for_each_output = (self.pattern.matrix_shape[1],)
        return self._in_groups and self.bias_shape in (None, one_for_each_output)

    @property
    def _fuses_activation(self) -> bool:
        name = keras_of(self).activations.serialize(self.activation)
        return self._fuses_bias and name in _FUSED

    def _finish_columns(self, product: tf.Tensor, columns: Sequence[int]) -> tf.Tensor:
        """Adds the bias of some block columns, and activates, if both can be fused."""
        if self._fuses_bias and self.bias is not None:
            width, count = self.pattern.block_size[1], self.pattern.grid_shape[1]
            missing = count * width - self.pattern.matrix_shape[1]
            bias = tf.pad(tf.cast(self.bias, product.dtype), [[0, missing]])
            bias = tf.gather(tf.reshape(bias, (count, width)), list(columns))
            product = tf.nn.bias_add(product, tf.reshape(bias, (-1,)))
        return self.activation(product) if self._fuses_activation else product

    def _multiply_in_training(
        self, rows: tf.Tensor, read_rows: np.ndarray | None = None
    ) -> tf.Tensor:
        """`(samples, outputs)`.

        Args:
          rows: `(block rows, block height, samples)`.
          read_rows: the row that each kept block reads. By default it is the block's.
        """
        block_rows, columns = positions_of(self.pattern)
        if read_rows is not None:
            block_rows = read_rows
        count = self.pattern.grid_shape[1]
        largest = max(part.num_blocks for part in self.pattern.slices)
        positions = BlockPositions(
            tuple(block_rows.tolist()),
            tuple(columns.tolist()),
            (int(rows.shape[0]), count),
            largest if self.pattern.chained else None,
        )
        outputs = trainable_product(
            rows, tf.cast(self.kernels[0], rows.dtype), positions
        )
        width, wanted = self.pattern.block_size[1], self.pattern.matrix_shape[1]
        outputs = tf.reshape(outputs, (count * width, -1))
        if count * width != wanted:
            outputs = outputs[:wanted]
        if self._adds_bias_in_training and self.bias is not None:
            # The gradient of the bias is a sum over runs of memory here.
            outputs += tf.cast(self.bias, outputs.dtype)[:, None]
        if self._activates_in_training:
            outputs = self.activation(outputs)
        transposed = tf.transpose(outputs)
        # A packed layer that comes next reads this, and nothing is transposed twice.
        setattr(transposed, _TRANSPOSE, outputs)
        return transposed

    @property
    def _adds_bias_in_training(self) -> bool:
        in_training = self.form == "training" and self.pattern.num_kept > 0
        one_for_each_output = (self.pattern.matrix_shape[1],)
        return in_training and self.bias_shape in (None, one_for_each_output)

    @property
    def _activates_in_training(self) -> bool:
        name = keras_of(self).activations.serialize(self.activation)
        return self._adds_bias_in_training and name in _ENTRYWISE

    def _multiply_matrix(self, matrix: tf.Tensor) -> tf.Tensor:
        """`matrix @ kernel` for a matrix `(samples, inputs)`."""
        inputs, height = self.pattern.matrix_shape[0], self.pattern.block_size[0]
        count = self.pattern.grid_shape[0]
        if self.form == "training" and self.pattern.num_kept:
            rows = getattr(matrix, _TRANSPOSE, None)
            if rows is None:
                rows = tf.transpose(matrix)
            if inputs % height:
                rows = tf.pad(rows, [[0, -inputs % height], [0, 0]])
            samples = tf.shape(matrix)[0]
            return self._multiply_in_training(
                tf.reshape(rows, (count, height, samples))
            )
        if inputs % height:
            matrix = tf.pad(matrix, [[0, 0], [0, -inputs % height]])
        if self.form == "blocks" and self.pattern.num_kept:
            # After a transposition the inputs of a block are one long run.
            block_rows, columns = positions_of(self.pattern)
            rows = tf.transpose(tf.reshape(matrix, (-1, count, height)), (1, 0, 2))
            gathered = tf.gather(rows, block_rows)
            kernel = tf.cast(self.kernels[0], rows.dtype)
            return multiply_blocks(gathered, columns, kernel, self.pattern)
        rows = tf.reshape(matrix, (-1, height))
        base = tf.range(tf.shape(matrix)[0]) * count

        def read(at: tf.Tensor) -> tf.Tensor:
            return tf.gather(tf.reshape(matrix, (-1, count, height)), at, axis=1)

        return self._multiply(rows, base, lambda row, column: row, read)

    def _multiply_channels(self, inputs: tf.Tensor) -> tf.Tensor:
        """The product over the last axis of inputs `(..., inputs)`."""
        if inputs.shape.rank == 2:
            return self._multiply_matrix(inputs)
        outputs = self._multiply_matrix(
            tf.reshape(inputs, (-1, self.pattern.matrix_shape[0]))
        )
        sizes = [*_sizes(inputs)[:-1], self.pattern.matrix_shape[1]]
        return tf.reshape(outputs, sizes)

    def _finish(self, outputs: tf.Tensor) -> tf.Tensor:
        added = self._fuses_bias or self._adds_bias_in_training
        if self.bias is not None and not added:
            outputs = outputs + tf.cast(self.bias, outputs.dtype)
        activated = self._fuses_activation or self._activates_in_training
        return outputs if activated else self.activation(outputs)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "pattern": self.pattern.get_config(),
            "form": self.form,
            "bias_shape": self.bias_shape,
            "activation": keras_of(self).activations.serialize(self.activation),
            **{
                name: keras_of(self).regularizers.serialize(getattr(self, name))
                for name in ("kernel_regularizer", "bias_regularizer")
                if getattr(self, name) is not None
            },
        }


def _sizes(tensor: tf.Tensor) -> list[Any]:
    """Sizes of a tensor: an int if it is known, a scalar tensor otherwise."""
    dynamic = tf.shape(tensor)
    return [
        dynamic[axis] if size is None else size
        for axis, size in enumerate(tensor.shape)
    ]


class PackedDense(PackedLayer):
    """`Dense` on inputs `(..., inputs)`, from kept blocks."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return self._finish(self._multiply_channels(tf.convert_to_tensor(inputs)))

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        return (*tuple(input_shape)[:-1], self.pattern.matrix_shape[1])


class PackedEinsumDense(PackedLayer):
    """`EinsumDense` from kept blocks.

    Args:
      equation: equation of the `EinsumDense`. Every label of the kernel is contracted
        or appears in the outputs only.
      kernel_shape: shape of its kernel.
    """

    def __init__(
        self, equation: str, kernel_shape: Sequence[int], **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.equation = equation
        self.kernel_shape = tuple(kernel_shape)

    @property
    def _fuses_bias(self) -> bool:
        read, rest = self.equation.split(",")
        # A bias of the last axis alone is one of the outputs only if they are last.
        return super()._fuses_bias and rest[-1] not in read

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        inputs = tf.convert_to_tensor(inputs)
        read, kernel, written = split_equation(self.equation, inputs.shape.rank)
        size = dict(zip(kernel, self.kernel_shape, strict=True))
        contracted = [label for label in kernel if label in read]
        made = [label for label in kernel if label not in read]
        kept = [label for label in read if label not in contracted]
        order = [read.index(label) for label in kept + contracted]
        if order != sorted(order):
            inputs = tf.transpose(inputs, order)
        sizes = _sizes(inputs)[: len(kept)]
        matrix = tf.reshape(inputs, (-1, self.pattern.matrix_shape[0]))
        outputs = self._multiply_matrix(matrix)
        outputs = tf.reshape(outputs, [*sizes, *(size[label] for label in made)])
        order = [(kept + made).index(label) for label in written]
        if order != sorted(order):
            outputs = tf.transpose(outputs, order)
        return self._finish(outputs)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "equation": self.equation,
            "kernel_shape": self.kernel_shape,
        }


def _same_padding(
    size: Any, kernel: int, stride: int, dilation: int
) -> tuple[Any, Any]:
    """(before, after) of TensorFlow's "SAME" padding, for an int or a tensor."""
    outputs = -(-size // stride)
    missing = (outputs - 1) * stride + (kernel - 1) * dilation + 1 - size
    missing = max(missing, 0) if isinstance(missing, int) else tf.maximum(missing, 0)
    return missing // 2, missing - missing // 2


class PackedConv(PackedLayer):
    """A convolution of any rank, channels last, from kept blocks.

    The rows of a block are channels of one position of the window. So a product reads
    whole runs of channels, and windows are not unfolded.

    Args:
      kernel_size, strides, dilation_rate: tuples, one entry per spatial axis.
      padding: "valid", "same" or "causal".
      groups: as in Keras.
    """

    def __init__(
        self,
        kernel_size: Sequence[int],
        strides: Sequence[int],
        dilation_rate: Sequence[int],
        padding: str = "valid",
        groups: int = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.kernel_size = tuple(kernel_size)
        self.strides = tuple(strides)
        self.dilation_rate = tuple(dilation_rate)
        self.padding = padding
        self.groups = groups

    def _paddings(self, sizes: list[Any]) -> list[tuple[Any, Any]]:
        """(before, after) for each spatial axis."""
        windows = zip(
            sizes, self.kernel_size, self.strides, self.dilation_rate, strict=True
        )
        if self.padding == "same":
            return [_same_padding(*window) for window in windows]
        if self.padding == "causal":
            return [(dilation * (kernel - 1), 0) for _, kernel, _, dilation in windows]
        return [(0, 0) for _ in windows]

    def _convolve_in_training(
        self, inputs: tf.Tensor, sizes: list[Any], per_position: int
    ) -> tf.Tensor:
        """The product from inputs that are padded, `(batch, *sizes, channels)`.

        The windows are unfolded, channels first, by slices, whose gradients are slices
        too. So the product is that of a matrix.
        """
        height, rank = self.pattern.block_size[0], len(sizes)
        channels_first = tf.transpose(inputs, (rank + 1, *range(rank + 1)))
        positions = []
        for at in np.ndindex(self.kernel_size):
            part = channels_first
            for axis, place in enumerate(at):
                start = place * self.dilation_rate[axis]
                window = self.dilation_rate[axis] * (self.kernel_size[axis] - 1)
                stop = start + sizes[axis] - window
                step = self.strides[axis]
                index = (slice(None),) * (axis + 2)
                part = part[(*index, slice(start, stop, step))]
            positions.append(part)
        batch, *outs = _sizes(positions[0])[1:]
        samples = batch * math.prod(outs)
        unfolded = tf.concat(
            [tf.reshape(p, (per_position, height, samples)) for p in positions], 0
        )
        block_rows, columns = positions_of(self.pattern)
        per_group = per_position // self.groups
        position, within = np.divmod(block_rows, per_group)
        group = columns // (self.pattern.grid_shape[1] // self.groups)
        read_rows = position * per_position + group * per_group + within
        outputs = self._multiply_in_training(unfolded, read_rows)
        return tf.reshape(outputs, (batch, *outs, self.pattern.matrix_shape[1]))

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        batch, *sizes, _ = _sizes(inputs)
        paddings = self._paddings(sizes)
        height = self.pattern.block_size[0]
        channels = inputs.shape[-1]
        extra = -channels % height
        if extra or self.padding != "valid":
            inputs = tf.pad(inputs, [(0, 0), *paddings, (0, extra)])
        sizes = [
            size + sum(around) for size, around in zip(sizes, paddings, strict=True)
        ]
        per_position = (channels + extra) // height
        if self.form == "training" and self.pattern.num_kept:
            return self._finish(self._convolve_in_training(inputs, sizes, per_position))
        # How far apart neighbours along each spatial axis are, in block rows.
        apart = [
            math.prod(sizes[axis + 1 :]) * per_position for axis in range(len(sizes))
        ]
        base = tf.range(batch) * (math.prod(sizes) * per_position)
        outs = []
        windows = zip(
            sizes, self.kernel_size, self.strides, self.dilation_rate, strict=True
        )
        for (size, kernel, stride, dilation), step in zip(windows, apart, strict=True):
            out = (size - dilation * (kernel - 1) - 1) // stride + 1
            base = base[..., None] + tf.range(out) * (stride * step)
            outs.append(out)
        per_group = per_position // self.groups
        columns_per_group = self.pattern.grid_shape[1] // self.groups

        def offset_of_row(row: np.ndarray, column: np.ndarray) -> tf.Tensor:
            position, within = np.divmod(row, per_group)
            at = np.unravel_index(position, self.kernel_size)
            offset = within + column // columns_per_group * per_group
            for place, dilation, step in zip(
                at, self.dilation_rate, apart, strict=True
            ):
                offset = offset + place.astype(np.int32) * (dilation * step)
            return tf.cast(offset, tf.int32)

        outputs = self._multiply(
            tf.reshape(inputs, (-1, height)),
            tf.reshape(base, (-1,)),
            offset_of_row,
        )
        outputs = tf.reshape(outputs, (batch, *outs, self.pattern.matrix_shape[1]))
        return self._finish(outputs)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "kernel_size": self.kernel_size,
            "strides": self.strides,
            "dilation_rate": self.dilation_rate,
            "padding": self.padding,
            "groups": self.groups,
        }


class PackedSeparableConv(PackedConv):
    """`SeparableConv1D` or 2D, channels last: the pointwise kernel by its kept blocks.

    The depthwise kernel stays dense. It contracts no channels, and it is small.

    Args:
      depth_multiplier: as in Keras.
    """

    def __init__(self, depth_multiplier: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.depth_multiplier = depth_multiplier

    def build(self, input_shape: Any = None) -> None:
        channels = self.pattern.matrix_shape[0] // self.depth_multiplier
        shape = (*self.kernel_size, channels, self.depth_multiplier)
        self.depthwise_kernel = add_weight(self, f"{self.name}/depthwise_kernel", shape)
        super().build(input_shape)

    def _convolve_depthwise(self, inputs: tf.Tensor) -> tf.Tensor:
        kernel = tf.cast(self.depthwise_kernel, inputs.dtype)
        padding, strides = self.padding, self.strides
        dilations = self.dilation_rate
        if padding == "causal":
            paddings = self._paddings(_sizes(inputs)[1:-1])
            inputs = tf.pad(inputs, [(0, 0), *paddings, (0, 0)])
            padding = "valid"
        is_1d = len(self.kernel_size) == 1
        if is_1d:
            # TensorFlow has it in two dimensions only, and needs equal strides.
            inputs, kernel = tf.expand_dims(inputs, 1), tf.expand_dims(kernel, 0)
            strides, dilations = strides * 2, (1, *dilations)
        outputs = tf.nn.depthwise_conv2d(
            inputs, kernel, (1, *strides, 1), padding.upper(), dilations=dilations
        )
        return tf.squeeze(outputs, 1) if is_1d else outputs

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        depthwise = self._convolve_depthwise(tf.convert_to_tensor(inputs))
        return self._finish(self._multiply_channels(depthwise))

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "depth_multiplier": self.depth_multiplier}


class PackedMultiHeadAttention(_Mixin):
    """`MultiHeadAttention` with projections that compute from kept blocks.

    Args:
      packed: configuration of a `PackedEinsumDense` by the name of its projection.
      **kwargs: arguments of `MultiHeadAttention`.
    """

    def __init__(self, packed: dict[str, dict[str, Any]], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.packed = packed

    def _pack_projections(self) -> None:
        for name, config in self.packed.items():
            attribute = f"_{name}_dense"
            projection = KINDS[PackedEinsumDense][keras_of(self)].from_config(config)
            projection.build()
            replace_tracked(self, getattr(self, attribute), projection)
            setattr(self, attribute, projection)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "packed": self.packed}


class _PackedAttention2(PackedMultiHeadAttention, keras2.layers.MultiHeadAttention):
    def _build_from_signature(self, *args: Any, **kwargs: Any) -> None:
        super()._build_from_signature(*args, **kwargs)
        self._pack_projections()


class _PackedAttention3(PackedMultiHeadAttention, keras3.layers.MultiHeadAttention):
    def build(self, query_shape: Any, value_shape: Any, key_shape: Any = None) -> None:
        super().build(query_shape, value_shape, key_shape)
        self._pack_projections()


# For each class, the class of each Keras that layers are instances of.
KINDS: dict[type, dict[Any, Any]] = {
    PackedDense: register_for_both(PackedDense),
    PackedEinsumDense: register_for_both(PackedEinsumDense),
    PackedConv: register_for_both(PackedConv),
    PackedSeparableConv: register_for_both(PackedSeparableConv),
    PackedMultiHeadAttention: register_pair(
        {keras2: _PackedAttention2, keras3: _PackedAttention3}
    ),
}


@contextlib.contextmanager
def computing_in_groups(model: Any) -> Iterator[None]:
    """Context in which packed layers are traced as TFLite runs them fastest.

    Their slices become grouped convolutions, which TensorFlow cannot run on CPU.
    """
    packed = [layer for layer in sublayers(model) if isinstance(layer, PackedLayer)]
    for layer in packed:
        layer._computes_in_groups = True
    try:
        yield
    finally:
        for layer in packed:
            layer._computes_in_groups = False


@contextlib.contextmanager
def having_equal_columns(model: Any) -> Iterator[None]:
    """Context in which batched products are of columns with equal largest weights.

    Each output's weights are divided by the largest of them, and the output is
    multiplied by it. TFLite gives a batched product one 8-bit scale for all its
    weights, and so small columns would lose theirs. What is computed stays the same,
    and the weights are put back at the end.
    """
    changed = []
    try:
        for layer in sublayers(model):
            if not isinstance(layer, PackedLayer) or layer.form != "slices":
                continue
            # Columns that read alike are one product, with a scale for each.
            if layer.pattern.reads_alike or not layer.pattern.num_kept:
                continue
            weights = layer.get_weights()
            changed.append((layer, weights))
            count = len(layer.kernels)
            kernels, others = weights[:count], weights[count:]
            scales = [_largest_of_columns(kernel) for kernel in kernels]
            layer._scales = layer.in_order_of_outputs(scales)
            scaled = [k / s[:, None] for k, s in zip(kernels, scales, strict=True)]
            layer.set_weights([*scaled, *others])
        yield
    finally:
        for layer, weights in changed:
            layer._scales = None
            layer.set_weights(weights)


def _largest_of_columns(kernel: np.ndarray) -> np.ndarray:
    """Largest absolute weight, or 1, of each column of blocks `(n, inputs, width)`."""
    largest = np.abs(kernel).max(axis=1)
    return np.where(largest > 0, largest, 1)
