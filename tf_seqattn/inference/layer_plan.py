"""Decides which layers of a model are packed, and why the others stay dense."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from tf_seqattn.inference.batch_norm import fold
from tf_seqattn.inference.block_format import (
    Pattern,
    find_pattern,
)
from tf_seqattn.inference.cost import Cost, bytes_of_entry
from tf_seqattn.inference.packed_layers import (
    KINDS,
    PackedConv,
    PackedDense,
    PackedEinsumDense,
    PackedSeparableConv,
)
from tf_seqattn.keras_api import (
    LAYERS,
    classes,
    is_keras_class,
    keras_of,
    output_shape,
    stored,
    why_kernel_is_changed,
)
from tf_seqattn.kernels.blocks import BlockGrid, to_matrix
from tf_seqattn.kernels.einsum import is_one_product, kernel_axes, split_equation
from tf_seqattn.kernels.zero_blocks import block_support, find_block_size

# The faster form of a packed product, for each runtime.
FORM_OF_RUNTIME = {"tflite": "slices", "xla": "blocks", "training": "training"}
_SEPARABLE = classes("SeparableConv1D", "SeparableConv2D")
# So many gathered bytes of one slice stay in the cache until they are multiplied.
_CACHE_BYTES = 2**20
# If all slices gather more than that, they are chained. A link costs time, too.
_CHAINED_BYTES = 2**22


@dataclasses.dataclass
class LayerPlan:
    """The decision of `sa.pack` about one kernel.

    Attributes:
      name: name of the layer, and of the projection in `MultiHeadAttention`.
      kernel_shape: shape of the kernel.
      block_size: (rows, columns) of the blocks found, or None.
      density: share of the kernel's entries that are stored when it is packed.
      layout: "packed" or "dense".
      reason: why it stays dense; empty if it is packed.
      predicted: expected speed-up of the product by the cost model, or None.
      measured: measured speed-up of the whole layer, or None.
      pattern: the positions of the kept blocks, or None.
      samples: number of rows of the product, for which the speed-up holds.
      window: positions in the window of a convolution.
      precision: precision of the product, for which the speed-up holds: "float32",
        "float16" or "dynamic" (of the weights only), or "int8".
      num_threads: number of threads, for which the speed-up holds.
    """

    name: str
    kernel_shape: tuple[int, ...]
    block_size: tuple[int, int] | None = None
    density: float = 1.0
    layout: str = "dense"
    reason: str = ""
    predicted: float | None = None
    measured: float | None = None
    pattern: Pattern | None = dataclasses.field(default=None, repr=False)
    samples: int = 1
    window: int = 1
    precision: str = "float32"
    num_threads: int = 1


def product_kernel(layer: Any) -> Any:
    """The variable that is packed, or None if the layer is not built yet."""
    name = "pointwise_kernel" if isinstance(layer, _SEPARABLE) else "kernel"
    return getattr(layer, name, None)


def kernel_matrix(layer: Any) -> np.ndarray:
    """The kernel of a Dense, convolution or EinsumDense layer, inputs by outputs."""
    return to_matrix(stored(product_kernel(layer)), kernel_grid(layer)).numpy()


def kernel_grid(layer: Any) -> BlockGrid:
    """How the kernel of a layer is read as a matrix."""
    is_einsum = isinstance(layer, classes("EinsumDense"))
    axes = kernel_axes(layer.equation) if is_einsum else {}
    return BlockGrid(tuple(product_kernel(layer).shape), (1, 1), **axes)


def is_packable_kind(layer: Any) -> bool:
    """Whether layers of this class can be packed at all."""
    kinds = classes("Dense", "EinsumDense", "Conv1D", "Conv2D", "Conv3D") + _SEPARABLE
    others = classes(
        "Conv2DTranspose",
        "Conv3DTranspose",
        "Conv1DTranspose",
        "DepthwiseConv1D",
        "DepthwiseConv2D",
    )
    return isinstance(layer, kinds) and not isinstance(layer, others)


def _is_convolution(layer: Any) -> bool:
    return hasattr(layer, "kernel_size")


def _why_not(layer: Any) -> str:
    """Why a layer of a packable class cannot be packed; empty if it can be."""
    if product_kernel(layer) is None:
        return "not built"
    if 0 in tuple(product_kernel(layer).shape):
        return "it has no entries"
    if why_kernel_is_changed(layer):
        return f"it {why_kernel_is_changed(layer)}"
    overridden = type(layer).call is not _base(layer).call
    if overridden:
        return f"class {type(layer).__name__} has a `call` of its own"
    if _is_convolution(layer) and layer.data_format != "channels_last":
        return "channels come first"
    if isinstance(layer, _SEPARABLE) and max(layer.strides) > 1 < max(
        layer.dilation_rate
    ):
        return "its depthwise product is strided and dilated"
    if isinstance(layer, classes("EinsumDense")):
        if not is_one_product(layer.equation):
            return f"equation {layer.equation!r} is not one matrix product"
    return ""


def _why_not_trained(layer: Any) -> str:
    """Why training on kept blocks would differ from training with a mask."""
    names = ("kernel_constraint", "pointwise_constraint", "bias_constraint")
    for name in (*names, "depthwise_constraint"):
        if getattr(layer, name, None) is not None:
            return f"it has a {name}"
    if getattr(layer, "depthwise_regularizer", None) is not None:
        return "it has a depthwise_regularizer"
    regularizer = _regularizer(layer)
    sums = ("L1", "L2", "L1L2")
    if regularizer is not None and type(regularizer).__name__ not in sums:
        return f"its regularizer {type(regularizer).__name__} is no sum over entries"
    return ""


def _regularizer(layer: Any) -> Any:
    name = "pointwise" if isinstance(layer, _SEPARABLE) else "kernel"
    return getattr(layer, f"{name}_regularizer", None)


def _base(layer: Any) -> Any:
    """The Keras class whose `call` the class of `layer` starts from."""
    for kind in type(layer).__mro__:
        if is_keras_class(kind) and "call" in kind.__dict__:
            return kind
    return LAYERS[0]


def row_divisor(layer: Any) -> int:
    """A number that the rows of a block must divide, or 0."""
    if not _is_convolution(layer):
        return 0
    *window, channels, _ = product_kernel(layer).shape
    if math.prod(window) == 1 and getattr(layer, "groups", 1) == 1:
        return 0
    return channels


def num_samples(layer: Any, batch_size: int) -> int:
    """Number of rows of the matrix product of a layer, for one batch.

    Unknown sizes of the outputs count as 1.
    """
    try:
        shape = output_shape(layer)
    except (AttributeError, RuntimeError, ValueError):
        return batch_size
    if isinstance(layer, classes("EinsumDense")):
        read, _, written = split_equation(layer.equation, len(shape))
        sizes = tuple(s for s, at in zip(shape, written, strict=True) if at in read)
    else:
        sizes = shape[:-1]
    return batch_size * math.prod(size or 1 for size in sizes[1:])


def plan_kernel(
    layer: Any,
    name: str,
    block_size: Sequence[int | None] | None,
    batch_size: int,
    samples: int | None,
    precision: str = "float32",
    num_threads: int = 1,
    trainable: bool = False,
) -> LayerPlan:
    """Plans one layer that holds one kernel.

    Args:
      layer: a Dense, convolution or EinsumDense layer.
      name: its name in the report.
      block_size: (rows, columns), or None to find it in the zeros.
      batch_size: samples in one call.
      samples: number of rows of the matrix product, or None to derive it.
      precision: see `LayerPlan`.
      num_threads: number of threads of the runtime.
      trainable: whether the layer is to train on.

    Returns:
      A `LayerPlan` with the layout that the cost model prefers.
    """
    kernel = product_kernel(layer)
    shape = () if kernel is None else tuple(kernel.shape)
    why_not = _why_not(layer) or (_why_not_trained(layer) if trainable else "")
    plan = LayerPlan(name, shape, reason=why_not)
    if plan.reason:
        return plan
    matrix = kernel_matrix(layer)
    plan.samples = samples or num_samples(layer, batch_size)
    divisor = row_divisor(layer)
    if block_size is None:
        plan.block_size = find_block_size(matrix, divisor)
        if plan.block_size is None:
            plan.reason = (
                "no zeros" if np.all(matrix != 0) else "its zeros form no blocks"
            )
            return plan
    else:
        rows, columns = (
            size or whole for size, whole in zip(block_size, matrix.shape, strict=True)
        )
        plan.block_size = (math.gcd(rows, divisor), columns)
    plan.precision, plan.num_threads = precision, num_threads
    support = block_support(matrix, plan.block_size)
    return plan_support(layer, plan, support, trainable)


def plan_support(
    layer: Any, plan: LayerPlan, support: np.ndarray, trainable: bool = False
) -> LayerPlan:
    """Completes the plan of a layer whose kept blocks are known.

    Args:
      layer: a Dense, convolution or EinsumDense layer.
      plan: has the block size, the samples, the precision and the threads.
      support: bool `(block rows, block columns)`, true for the blocks kept.
      trainable: whether the layer is to train on.

    Returns:
      `plan`, with the layout that the cost model prefers.
    """
    plan.reason = _why_not(layer)
    if plan.reason:
        return plan
    assert plan.block_size is not None
    divisor = row_divisor(layer)
    matrix_shape = kernel_grid(layer).matrix_shape
    height, width = plan.block_size
    if divisor and divisor % height:
        # A block of a packed convolution lies within one position of the window.
        whole, height = height, math.gcd(height, divisor)
        plan.block_size = (height, width)
        support = support.repeat(whole // height, 0)[: matrix_shape[0] // height]
    groups = getattr(layer, "groups", 1)
    if groups > 1 and (matrix_shape[1] // groups) % width:
        plan.reason = f"blocks of {plan.block_size} cross its {groups} groups"
        return plan
    row_bytes = plan.samples * height * bytes_of_entry(plan.precision)
    is_large = support.sum() * row_bytes > _CHAINED_BYTES
    # In training a larger part, which fills two cores, pays for what leaves the cache.
    cache = (2 if trainable else 1) * _CACHE_BYTES
    plan.window = matrix_shape[0] // divisor if divisor else 1
    cost = Cost(
        plan.samples, "training" if trainable else plan.precision, plan.num_threads
    )
    plan.pattern = find_pattern(
        support,
        matrix_shape,
        plan.block_size,
        cost_of_slice=cost.slice_in_blocks(plan.block_size),
        max_blocks=max(1, cache // row_bytes) if is_large else None,
    )
    plan.density = plan.pattern.num_stored * height * width / math.prod(matrix_shape)
    plan.predicted = cost.speedup(plan.pattern, plan.window)
    if plan.predicted > 1:
        plan.layout = "packed"
    else:
        plan.reason = "dense is expected to be faster"
    return plan


def _counterpart(layer: Any) -> tuple[type, dict[str, Any]]:
    """The packed class for a layer, and the arguments that only this class takes."""
    if isinstance(layer, classes("EinsumDense")):
        shape = tuple(layer.kernel.shape)
        return PackedEinsumDense, {"equation": layer.equation, "kernel_shape": shape}
    if not _is_convolution(layer):
        return PackedDense, {}
    names = ("kernel_size", "strides", "dilation_rate", "padding")
    config = {name: getattr(layer, name) for name in names}
    if isinstance(layer, _SEPARABLE):
        config["depth_multiplier"] = layer.depth_multiplier
        return PackedSeparableConv, config
    return PackedConv, {**config, "groups": layer.groups}


def packed_counterpart(
    layer: Any, plan: LayerPlan, form: str, bias_shape: tuple[int, ...] | None
) -> Any:
    """The packed counterpart of a layer, not built.

    Args:
      layer: a Dense, convolution or EinsumDense layer.
      plan: its `LayerPlan`.
      form: see `packed_layers.FORMS`.
      bias_shape: shape of its bias, or None.
    """
    is_alike = plan.pattern is not None and plan.pattern.reads_alike
    if is_alike and form != "training":
        # One product of all columns is faster than blocks, with any compiler.
        form = "slices"
    kind, own_config = _counterpart(layer)
    if form == "training":
        regularizers = keras_of(layer).regularizers
        own_config |= {
            "kernel_regularizer": regularizers.serialize(_regularizer(layer)),
            "bias_regularizer": regularizers.serialize(layer.bias_regularizer),
            "activity_regularizer": layer.activity_regularizer,
        }
    return KINDS[kind][keras_of(layer)](
        name=layer.name,
        dtype=layer.get_config()["dtype"],
        trainable=layer.trainable,
        pattern=plan.pattern,
        form=form,
        activation=layer.activation,
        bias_shape=bias_shape,
        **own_config,
    )


def packed_layer(
    layer: Any, plan: LayerPlan, form: str, norm: Any = None
) -> tuple[Any, list[np.ndarray]]:
    """The packed counterpart of a layer, not built, and its weights.

    Args:
      layer: a Dense, convolution or EinsumDense layer.
      plan: its `LayerPlan`.
      form: see `packed_layers.FORMS`.
      norm: a `BatchNormalization` after it, which is folded into it.
    """
    matrix, bias = kernel_matrix(layer), getattr(layer, "bias", None)
    bias_shape = None if bias is None else tuple(bias.shape)
    bias = None if bias is None else bias.numpy()
    if norm is not None:
        matrix, bias = fold(matrix, bias, norm)
        bias_shape = bias.shape
    packed = packed_counterpart(layer, plan, form, bias_shape)
    weights = packed.weights_from(matrix, bias)
    if isinstance(layer, _SEPARABLE):
        weights = [layer.depthwise_kernel.numpy(), *weights]
    return packed, weights
