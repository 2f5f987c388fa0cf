"""How operations between layers treat channels: Keras 3's, and TensorFlow's in Keras 2.

An operation of Keras 3 has its arguments as attributes; one of TensorFlow, which
Keras 2 keeps in a layer, has them in its call.
"""

import dataclasses
import string
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tf_seqattn.keras_api import is_variable, map_structure, stored
from tf_seqattn.kernels.channel_labels import (
    FROZEN,
    Channels,
    alike,
    at_axis,
    channels,
    known,
)
from tf_seqattn.kernels.channel_rules import (
    Rule,
    concatenated,
    new_shape,
    reshaped,
    softmax_over,
    transposed,
    zero_if_any,
)
from tf_seqattn.kernels.channel_trace import Alive, Call, merged

# The names that `operation_name` returns, in both Keras versions.
_ELEMENTWISE = frozenset(
    "add subtract multiply divide true_divide truediv maximum minimum power pow "
    "squared_difference sub mul neg relu relu6 sigmoid silu swish tanh gelu elu selu "
    "softplus softsign hard_swish hard_sigmoid hard_silu leaky_relu exp log log1p "
    "expm1 sqrt rsqrt square abs absolute negative sin cos erf reciprocal clip "
    "clip_by_value cast identity stop_gradient floor round sign mish celu hard_tanh "
    "log_sigmoid where where_v2 greater greater_equal less less_equal equal not_equal "
    "gt ge lt le eq ne".split()
)
_PRODUCTS = frozenset({"multiply", "mul"})
_REDUCTIONS = frozenset(
    "mean max min sum reduce_mean reduce_max reduce_min reduce_sum".split()
)


def operation_name(operation: Any) -> str:
    """The name of an operation, such as "add", whichever Keras it comes from."""
    kind = type(operation).__name__
    if kind in ("TFOpLambda", "SlicingOpLambda"):
        path = operation.get_config()["function"]
        return path.rpartition(".")[2].strip("_")
    snake = "".join(f"_{c.lower()}" if c.isupper() else c for c in kind).strip("_")
    others = {"get_item": "getitem", "concatenate": "concat", "re_l_u": "relu"}
    return others.get(snake, snake)


def _is_tensorflow(call: Call) -> bool:
    return type(call.layer).__name__ in ("TFOpLambda", "SlicingOpLambda")


def _argument(call: Call, position: int, *names: str, default: Any = None) -> Any:
    """An argument of the operation: of its call, or an attribute of it."""
    for name in names:
        if name in call.kwargs:
            return call.kwargs[name]
        if not _is_tensorflow(call) and hasattr(call.layer, name):
            return getattr(call.layer, name)
    if len(call.args) > position:
        return call.args[position]
    return default


def _compute(call: Call) -> Any:
    """The operation on arrays, in the places of its tensors."""
    operation = call.layer.function if _is_tensorflow(call) else call.layer
    operands = [*call.args, *call.kwargs.values()]

    def run(*arrays: Any) -> Any:
        # An operator of Keras 2 asks its first operand for TensorFlow's dtype.
        values = map(tf.convert_to_tensor, arrays)
        filled = [next(values) if _is_operand(o) else o for o in operands]
        args = filled[: len(call.args)]
        return operation(
            *args, **dict(zip(call.kwargs, filled[len(args) :], strict=True))
        )

    return run


def _is_operand(value: Any) -> bool:
    return isinstance(value, (Channels, float, int, np.ndarray)) and not isinstance(
        value, bool
    )


def _elementwise(call: Call) -> Any:
    args = map_structure(_as_array, call.args)
    kwargs = map_structure(_as_array, call.kwargs)
    call = dataclasses.replace(call, args=args, kwargs=kwargs)
    operands = [o for o in (*call.args, *call.kwargs.values()) if _is_operand(o)]
    found = merged(call, operands, _compute(call))
    if operation_name(call.layer) in _PRODUCTS:
        found = zero_if_any(call, found, operands)
    return found


def _as_array(value: Any) -> Any:
    """The value of a variable or an eager tensor; anything else as it is."""
    if is_variable(value):
        return np.asarray(stored(value))
    return np.asarray(value) if isinstance(value, tf.Tensor) else value


def _reshape(call: Call) -> Any:
    found = reshaped(call)
    target = _argument(call, 1, "newshape", "shape")
    if any(isinstance(size, Channels) or not _is_int(size) for size in target):
        return call.give_up(f"{call.what} computes its sizes")
    edit = new_shape(found, tuple(target))
    name = "shape" if _is_tensorflow(call) else "newshape"
    call.edit(**{name: edit})
    return found


def _is_int(value: Any) -> bool:
    return value is None or isinstance(value, (int, np.integer))


def _transpose(call: Call) -> Any:
    order = _argument(call, 1, "axes", "perm")
    order = tuple(reversed(range(len(call.shape)))) if order is None else tuple(order)
    return transposed(call, order)


def _concatenate(call: Call) -> Any:
    axis = _argument(call, 1, "axis", default=-1)
    return concatenated(call, call.tensors, int(axis))


def _reduce(call: Call) -> Any:
    axes = _argument(call, 1, "axis")
    rank, varies = len(call.input.shape), call.input.axis()
    every = range(rank) if axes is None else np.atleast_1d(axes)
    reduced = {int(a) % rank for a in every}
    if varies is None:
        return alike(call.shape, int(call.input.labels.flat[0]))
    if varies in reduced:
        return call.give_up(f"{call.what} goes over the channels")
    labels, values = call.along(call.input, varies)
    keeps = len(call.shape) == rank
    axis = varies if keeps else varies - sum(a < varies for a in reduced)
    if "sum" in operation_name(call.layer):
        values = np.where(values == 0, 0.0, np.nan)
    return at_axis(call.shape, axis, labels, values)


def _getitem(call: Call) -> Any:
    key = _argument(call, 1, "key", "slice_spec")
    items = tuple(key) if isinstance(key, (list, tuple)) else (key,)
    plain = [_plain_item(item) for item in items]
    if any(item is NotImplemented for item in plain):
        return call.give_up(f"{call.what} computes its index")
    varies = call.input.axis()
    shape, source = call.shape, known(call.input.shape)
    sizes = call.input.shape
    if any(
        size is None and item not in (slice(None), Ellipsis, None)
        for size, item in zip(sizes[1:], _per_axis(plain, len(sizes))[1:], strict=True)
    ):
        # A position on an axis of unknown size: labels do not differ there.
        if varies is None:
            return alike(shape, int(call.input.labels.flat[0]))
        return _getitem_elsewhere(call, plain, varies)
    index = tuple(plain)
    per_axis = _per_axis(plain, len(sizes))
    moved = call.input.moved(
        lambda array: array[_with_whole_batch(index)].reshape(known(shape)), shape
    )
    if varies is not None and isinstance(per_axis[varies], slice):
        before = call.input.along(varies)[0]
        cut = per_axis[varies]
        start, stop, step = cut.indices(source[varies])
        if step != 1:
            return call.give_up(f"{call.what} reads them with a step of {step}")
        if (start, stop) != (0, source[varies]):
            place = _place_of(plain, varies, len(sizes))

            def edit(alive: Alive) -> Any:
                stays = alive(before)
                first, last = int(stays[:start].sum()), int(stays[:stop].sum())
                changed = list(items)
                changed[place] = slice(first, last)
                return tuple(changed)

            call.edit(**{"slice_spec" if _is_tensorflow(call) else "key": edit})
    elif varies is not None and isinstance(per_axis[varies], int):
        return call.give_up(f"{call.what} takes one channel")
    return call.trace.settled(moved)


def _getitem_elsewhere(call: Call, plain: list[Any], varies: int) -> Any:
    per_axis = _per_axis(plain, len(call.input.shape))
    if per_axis[varies] != slice(None):
        return call.give_up()
    axis = varies - sum(isinstance(item, int) for item in per_axis[:varies])
    labels, values = call.along(call.input, varies)
    return at_axis(call.shape, axis, labels, values)


def _with_whole_batch(index: tuple[Any, ...]) -> tuple[Any, ...]:
    first = slice(None) if isinstance(index[0], slice) else index[0]
    return (first, *index[1:])


def _plain_item(item: Any) -> Any:
    """An item of an index in Python's own form, or NotImplemented."""
    if isinstance(item, dict) and {"start", "stop", "step"} <= item.keys():
        item = slice(item["start"], item["stop"], item["step"])
    if isinstance(item, slice):
        parts = (item.start, item.stop, item.step)
        return item if all(_is_int(part) for part in parts) else NotImplemented
    if item is None or item is Ellipsis or isinstance(item, (int, np.integer)):
        return item
    return NotImplemented


def _per_axis(plain: list[Any], rank: int) -> list[Any]:
    """The item for each axis of the tensor that is indexed."""
    taken = [item for item in plain if item is not None]
    missing = rank - len(taken) + (Ellipsis in taken)
    whole = [slice(None)] * missing
    if Ellipsis in taken:
        at = taken.index(Ellipsis)
        return taken[:at] + whole + taken[at + 1 :]
    return taken + whole


def _place_of(plain: list[Any], axis: int, rank: int) -> int:
    """The position in an index of the item for an axis."""
    missing = rank - sum(item is not None and item is not Ellipsis for item in plain)
    at = 0
    for place, item in enumerate(plain):
        if item is None:
            continue
        width = missing if item is Ellipsis else 1
        if at <= axis < at + width:
            return place
        at += width
    raise ValueError(f"no item of an index stands for axis {axis}")


def _split(call: Call) -> Any:
    axis = int(_argument(call, 2, "axis", default=0)) % len(call.input.shape)
    size = call.input.shape[axis]
    if size is None:
        return call.give_up(f"{call.what} splits an axis of unknown size")
    lengths = [int(shape[axis] or 0) for shape in call.shapes]
    ends = np.cumsum(lengths)
    cuts = ends[:-1]

    def parts(array: Any) -> list[Any]:
        if array.shape[axis] == 1:
            return [array] * len(lengths)
        return np.split(array, cuts, axis)

    labels, values = parts(call.units.find(call.input.labels)), parts(call.input.values)
    if call.input.axis() == axis:
        before = call.input.along(axis)[0]
        starts = [0, *cuts]

        def counts(alive: Alive) -> list[int]:
            stays = alive(before)
            return [int(stays[a:b].sum()) for a, b in zip(starts, ends, strict=True)]

        if call.holders:
            call.units.freeze(before, f"{call.what} has fixed sizes")
        elif _is_tensorflow(call):
            call.edit(num_or_size_splits=counts)
        else:
            call.edit(
                indices_or_sections=lambda alive: np.cumsum(counts(alive))[:-1].tolist()
            )
    return [
        call.trace.settled(channels(shape, own, value))
        for shape, own, value in zip(call.shapes, labels, values, strict=True)
    ]


def _moveaxis(call: Call) -> Any:
    rank = len(call.shape)
    given = _argument(call, 1, "source"), _argument(call, 2, "destination")
    source, destination = ([int(a) % rank for a in np.atleast_1d(g)] for g in given)
    order = [axis for axis in range(rank) if axis not in source]
    for at, axis in sorted(zip(destination, source, strict=True)):
        order.insert(at, axis)
    return transposed(call, tuple(order))


def _swapaxes(call: Call) -> Any:
    order = list(range(len(call.shape)))
    first, second = _argument(call, 1, "axis1"), _argument(call, 2, "axis2")
    order[first], order[second] = order[second], order[first]
    return transposed(call, tuple(order))


def _moved_within(call: Call) -> Any:
    """An operation that moves entries along axes that are not those of the channels."""
    rank, varies = len(call.shape), call.input.axis()
    position = 2 if operation_name(call.layer) == "roll" else 1
    axes = _argument(call, position, "axis")
    if varies is None:
        return alike(call.shape, int(call.input.labels.flat[0]))
    if axes is None or varies in {int(a) % rank for a in np.atleast_1d(axes)}:
        return call.give_up(f"{call.what} moves them")
    labels, values = call.along(call.input, varies)
    return at_axis(call.shape, varies, labels, values)


def _stack(call: Call) -> Any:
    axis = int(_argument(call, 1, "axis", default=0)) % len(call.shape)

    def grown(tensor: Channels) -> Channels:
        shape = (*tensor.shape[:axis], 1, *tensor.shape[axis:])
        labels, values = (
            np.expand_dims(a, axis) for a in (tensor.labels, tensor.values)
        )
        return channels(shape, labels, values)

    return concatenated(call, [grown(tensor) for tensor in call.tensors], axis)


def _repeat(call: Call) -> Any:
    times, axis = _argument(call, 1, "repeats"), _argument(call, 2, "axis")
    if axis is None or np.ndim(times) > 0 or isinstance(times, Channels):
        return call.give_up(f"{call.what} repeats them by different numbers")
    axis = int(axis) % len(call.shape)

    def repeated(array: np.ndarray) -> np.ndarray:
        return array if array.shape[axis] == 1 else np.repeat(array, int(times), axis)

    labels, values = repeated(call.input.labels), repeated(call.input.values)
    return channels(call.shape, labels, values)


def _pad(call: Call) -> Any:
    widths = np.asarray(_argument(call, 1, "pad_width", "paddings"))
    varies = call.input.axis()
    whole = np.broadcast_to(widths, (len(call.shape), 2))
    if varies is not None and whole[varies].any():
        return call.give_up(f"{call.what} adds channels")
    zero = np.where(call.input.values == 0, 0.0, np.nan)
    if _argument(call, 3, "constant_values"):
        zero = np.full_like(zero, np.nan)
    return channels(call.shape, call.input.labels, zero)


def _einsum(call: Call) -> Any:
    equation = str(_argument(call, 0, "subscripts", "equation")).replace(" ", "")
    operands = [o for o in call.args if not isinstance(o, str)]
    return _product(call, equation, operands)


_OPERANDS = ("a", "b", "x1", "x2", "name")


def _matmul(call: Call) -> Any:
    first, second = (_argument(call, 0, "x1", "a"), _argument(call, 1, "x2", "b"))
    ranks = [len(operand.shape) for operand in (first, second)]
    # Transposed or adjoint, say.
    named = [v for n, v in call.kwargs.items() if n not in _OPERANDS]
    if ranks[0] < 2 or ranks[0] != ranks[1] or any((*call.args[2:], *named)):
        return call.give_up()
    batch = string.ascii_lowercase[: ranks[0] - 2]
    return _product(call, f"{batch}xy,{batch}yz->{batch}xz", [first, second])


def _product(call: Call, equation: str, operands: Sequence[Any]) -> Any:
    """A sum of products; a channel passes on an axis that is not summed over."""
    inputs, outputs = equation.split("->") if "->" in equation else (equation, "")
    terms = inputs.split(",")
    if "." in equation or len(terms) != len(operands) or not outputs:
        return call.give_up()
    given = [
        (term, operand)
        for term, operand in zip(terms, operands, strict=True)
        if isinstance(operand, Channels)
    ]
    axes = [(term, operand.axis()) for term, operand in given]
    letters = {term[axis] for term, axis in axes if axis is not None}
    passed = next((letter for letter in outputs if letter in letters), None)
    joined, silent = None, np.zeros(1, bool)
    for term, operand in given:
        if passed is None or passed not in term:
            call.units.freeze(operand.labels, f"{call.what} sums over them")
            continue
        labels, values = call.along(operand, term.index(passed))
        if joined is not None:
            call.units.join(joined, labels, f"{call.what} ties it to one that stays")
        joined, silent = call.units.find(labels), silent | (values == 0)
    if passed is None or joined is None:
        return alike(call.shape, FROZEN)
    if len(given) < len(operands):
        call.units.freeze(joined, f"{call.what} has a constant for each channel")
    zero = np.where(silent, 0.0, np.nan)
    return at_axis(call.shape, outputs.index(passed), call.units.find(joined), zero)


# The axis of the heads of a query, key or value: (batch, position, head, size).
_HEADS = 2


def _dot_product_attention(call: Call) -> Any:
    names = ("query", "key", "value")
    found = [_argument(call, place, name) for place, name in enumerate(names)]
    heads = [call.along(tensor, _HEADS) for tensor in found]
    queries = heads[0][0]
    for labels, _ in heads[1:]:
        shared = np.repeat(labels, len(queries) // len(labels))
        call.units.join(queries, shared, call.what)
    values = np.repeat(heads[2][1], len(queries) // len(heads[2][1]))
    others = [t for t in call.tensors if all(t is not own for own in found)]
    if any(tensor.labels.shape[1:2] != (1,) for tensor in others):
        return call.give_up(f"{call.what} has a mask for each head")
    zero = np.where(values == 0, 0.0, np.nan)
    shape = (*call.shape[:_HEADS], len(queries), *call.shape[_HEADS + 1 :])
    return at_axis(shape, _HEADS, call.units.find(queries), zero)


def _softmax(call: Call) -> Any:
    return softmax_over(call, _argument(call, 1, "axis", default=-1))


def _resize(call: Call) -> Any:
    varies = call.input.axis()
    if varies is not None and varies != len(call.shape) - 1:
        return call.give_up()
    return channels(call.shape, call.input.labels, call.input.values)


_RULES: dict[str, Rule] = {
    "reshape": _reshape,
    "transpose": _transpose,
    # Axes of size 1 come or go.
    "expand_dims": reshaped,
    "squeeze": reshaped,
    "concat": _concatenate,
    "getitem": _getitem,
    "split": _split,
    "softmax": _softmax,
    "resize": _resize,
    "moveaxis": _moveaxis,
    "swapaxes": _swapaxes,
    "flip": _moved_within,
    "reverse": _moved_within,
    "roll": _moved_within,
    "stack": _stack,
    "repeat": _repeat,
    "pad": _pad,
    "einsum": _einsum,
    "matmul": _matmul,
    "dot_product_attention": _dot_product_attention,
}


def rule_of_operation(operation: Any) -> Rule | None:
    """The rule of an operation, or None if there is none."""
    name = operation_name(operation)
    if name in _ELEMENTWISE:
        return _elementwise
    if name in _REDUCTIONS:
        return _reduce
    return _RULES.get(name)
