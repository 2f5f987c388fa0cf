"""Multiply-adds of a model: before channels are removed, and after."""

import dataclasses
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from tf_seqattn.keras_api import arrays_of, classes, projections
from tf_seqattn.kernels.channel_labels import fixed, known
from tf_seqattn.kernels.channel_rules import channel_axis
from tf_seqattn.kernels.channel_trace import Call, Trace, Work
from tf_seqattn.kernels.einsum import kernel_axes

_CONVOLUTIONS = classes(
    *(
        f"{kind}{rank}D"
        for kind in ("Conv", "DepthwiseConv", "SeparableConv")
        for rank in (1, 2, 3)
    )
)
_TRANSPOSED = classes("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose")
_RECURRENT = classes("LSTM", "GRU", "SimpleRNN", "RNN", "Bidirectional")
_ATTENTION = classes("MultiHeadAttention", "GroupQueryAttention")


def _positions(shape: tuple[int | None, ...], axis: int) -> int:
    sizes = known(shape)
    return math.prod(sizes[1:]) // sizes[axis]


def _weights(layer: Any) -> list[Any]:
    return arrays_of(layer) if hasattr(layer, "weights") else []


def _is_bias(weight: Any) -> bool:
    """Whether a weight is added: a GRU has two rows of biases."""
    return str(weight.name).rpartition("/")[2].startswith("bias")


def work_of(call: Call) -> list[Work]:
    """How often a call multiplies by each kernel of its layer, for one sample.

    An axis of unknown size counts as 1. Additions of biases, normalizations and the
    scores of attention are left out.
    """
    layer = call.layer
    if type(layer) in classes("TimeDistributed"):
        steps = call.shape[1] or 1
        shape = (call.shape[0], *call.shape[2:])
        inside = (call.input.shape[0], *call.input.shape[2:])
        one = dataclasses.replace(
            call, layer=layer.layer, args=(fixed(inside),), kwargs={}, shapes=[shape]
        )
        return [Work(w.variable, steps * w.times) for w in work_of(one)]
    kernels = [w for w in _weights(layer) if len(w.shape) > 1 and not _is_bias(w)]
    if not kernels:
        return []
    kind = type(layer)
    if kind in _ATTENTION:
        return _attention_work(call)
    if kind in _TRANSPOSED or kind in _RECURRENT:
        shape = call.input.shape
        times = _positions(shape, channel_axis(layer, len(shape)))
    elif kind in _CONVOLUTIONS:
        times = _positions(call.shape, channel_axis(layer, len(call.shape)))
    elif kind in classes("Dense"):
        times = _positions(call.shape, -1)
    elif kind in classes("EinsumDense"):
        columns = kernel_axes(layer.equation)["column_axes"]
        outputs = math.prod(kernels[0].shape[axis] for axis in columns)
        times = math.prod(known(call.shape)[1:]) // outputs
    else:
        return []
    return [Work(kernel, times) for kernel in kernels]


def _attention_work(call: Call) -> list[Work]:
    found = []
    tensors = call.tensors
    for name, dense in projections(call.layer).items():
        reads_values = name in ("key", "value")
        source = tensors[min(1, len(tensors) - 1)] if reads_values else tensors[0]
        found.append(Work(dense.weights[0], _positions(source.shape, -1)))
    return found


def multiply_adds(trace: Trace, live: npt.NDArray[np.bool_] | None = None) -> int:
    """Multiply-adds of a model for one sample.

    Args:
      trace: what the walk over its graph found.
      live: bool array over the labels, True for channels that stay; all by default.
    """
    return sum(
        work.times * entries_left(trace, work.variable, live) for work in trace.work
    )


def entries_left(
    trace: Trace, variable: Any, live: npt.NDArray[np.bool_] | None
) -> int:
    """Number of entries of a weight, for the channels that are live."""
    sizes = list(variable.shape)
    if live is not None:
        for axis in range(len(sizes)):
            place = trace.places.get((id(variable), axis))
            if place is not None:
                sizes[axis] = int(live[trace.units.find(place.labels)].sum())
    return math.prod(int(size) for size in sizes)
