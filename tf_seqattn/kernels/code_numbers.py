"""The numbers that the code of a custom layer writes out."""

import inspect
import types
from typing import Any

from tf_seqattn.keras_api import Layer, flat

# Smaller numbers in code are axes as a rule, or halve a size.
_SMALLEST = 4


def numbers_of(layer: Layer) -> set[int]:
    """Integers that the `call` of a layer may use as sizes.

    They are attributes of the layer, and those from 4 on in its code: in `call`, and in
    methods of the layer and functions of the same module that it names. What a
    constructor writes out does not count: a smaller layer has other arguments.

    Args:
      layer: a layer or model.

    Example:

    >>> class Pairs(keras.layers.Layer):
    ...     def call(self, x):
    ...         return tf.reshape(x, (-1, 2, 8))
    >>> 8 in numbers_of(Pairs())
    True
    """
    attributes = vars(layer).items()
    # Keras remembers there what the layer was built from.
    own = [v for name, v in attributes if not name.startswith(("_build", "_self_"))]
    found = {number for number in flat(own) if type(number) is int}
    # A `Lambda` holds its function.
    waiting = [type(layer).call, *(v for v in own if inspect.isfunction(v))]
    written: set[int] = set()
    seen: set[types.CodeType] = set()
    while waiting:
        function = inspect.unwrap(waiting.pop())
        code = getattr(function, "__code__", None)
        if code is None or code in seen:
            continue
        seen.add(code)
        written |= _constants(code)
        for value in _named(function, code, layer):
            if type(value) is int:
                written.add(value)
            elif _is_near(value, layer, function):
                waiting.append(value)
    return found | {number for number in written if number >= _SMALLEST}


def _constants(code: types.CodeType) -> set[int]:
    """The integers among the constants of a function and of those inside it."""
    found: set[int] = set()
    for value in flat(code.co_consts):
        if type(value) is int:
            found.add(value)
        elif isinstance(value, types.CodeType):
            found |= _constants(value)
    return found


def _names(code: types.CodeType) -> set[str]:
    inside = [c for c in code.co_consts if isinstance(c, types.CodeType)]
    return set(code.co_names).union(*map(_names, inside))


def _named(function: Any, code: types.CodeType, layer: Layer) -> list[Any]:
    """What the names in a function stand for: globals, closures and methods."""
    values = [
        source[name]
        for name in _names(code)
        for source in (function.__globals__, _methods(layer))
        if name in source
    ]
    for cell in function.__closure__ or ():
        try:
            values.append(cell.cell_contents)
        except ValueError:  # Not assigned yet.
            continue
    return values


def _methods(layer: Layer) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for kind in reversed(type(layer).__mro__):
        found |= {n: v for n, v in vars(kind).items() if n not in ("__init__", "build")}
    return found


def _is_near(value: Any, layer: Layer, function: Any) -> bool:
    """Whether a function belongs to the code of the layer, not to a library."""
    modules = (type(layer).__module__, function.__module__)
    return inspect.isfunction(value) and value.__module__ in modules
