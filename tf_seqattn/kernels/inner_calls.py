"""The calls inside a custom layer: its `call`, run on symbolic tensors."""

from typing import Any

from tf_seqattn.keras_api import (
    GraphCall,
    Layer,
    Model,
    arguments,
    arrays_of,
    calls_between,
    flat,
    input_specs,
    is_symbolic,
    keras_of,
    map_structure,
    shapes_from_calls,
    stored,
    sublayers,
    symbolic_input,
)

# Sizes in place of those that are not known: of a batch, and of any other axis. The
# second length is for code that has no more than few positions.
_BATCH, _LENGTHS = 2, (16, 4)
# Characters of an error that a reason quotes.
_QUOTED = 100


def concrete(shape: tuple[int | None, ...], length: int) -> tuple[int, ...]:
    """A shape with sizes in place of those that are not known."""
    sizes = [length if size is None else int(size) for size in shape]
    return (_BATCH, *sizes[1:])


def _weights_inside(layer: Layer) -> set[int]:
    """Ids of the weights of layers inside a layer."""
    return {id(w) for part in sublayers(layer)[1:] for w in part.weights}


def own_weights(layer: Layer) -> list[Any]:
    """The weights of a layer that no layer inside it has."""
    inside = _weights_inside(layer)
    return [w for w in arrays_of(layer) if id(w) not in inside]


def borrowed_weights(layer: Layer) -> list[Any]:
    """The weights of layers inside a layer that its own attributes hold as well.

    A `SpectralNormalization` holds the kernel of the layer inside, for example.
    """
    inside = _weights_inside(layer)
    return [value for value in vars(layer).values() if id(value) in inside]


class InnerCalls:
    """What a layer calls, in the order of computation.

    Args:
      layer: a layer or model.
      args: what it is called with; symbolic tensors.
      kwargs: likewise.

    Attributes:
      length: the size in place of those that are not known.
      inputs: symbolic tensors, by the id of the tensor that each stands for.
      outputs: what the layer returns, flat; symbolic tensors, or constants.
      calls: of layers and operations.
      why: the reason if `call` cannot be run on symbolic tensors, otherwise "".
    """

    def __init__(self, layer: Layer, args: Any, kwargs: Any) -> None:
        # A layer that counts its calls must not count this one.
        state = [(w, stored(w)) for w in own_weights(layer)]
        for self.length in _LENGTHS:
            self.why = self._run(layer, args, kwargs)
            for weight, value in state:
                weight.assign(value)
            if not self.why:
                break

    def _run(self, layer: Layer, args: Any, kwargs: Any) -> str:
        self.inputs: dict[int, Any] = {}
        self.outputs: list[Any] = []
        self.calls: list[GraphCall] = []
        library = keras_of(layer)

        def replaced(value: Any) -> Any:
            if not is_symbolic(value):
                return value
            if id(value) not in self.inputs:
                shape = concrete(tuple(value.shape), self.length)
                self.inputs[id(value)] = symbolic_input(library, shape, value.dtype)
            return self.inputs[id(value)]

        args = map_structure(replaced, args)
        # Keras records `None` for arguments that `call` need not take.
        given = {k: v for k, v in kwargs.items() if v is not None}
        given = map_structure(replaced, given)
        try:
            with shapes_from_calls(sublayers(layer)[1:]):
                self.outputs = flat(layer.call(*args, **given))
        except Exception as error:  # noqa: BLE001
            # Whatever the code of the layer raises, symbolic tensors are the cause.
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            message = " ".join(lines)[:_QUOTED]
            return f"{type(error).__name__}: {message}"
        self.calls = calls_between(list(self.inputs.values()), self.outputs)
        return ""


def call_of(model: Model) -> GraphCall | None:
    """The call of a model without a graph; None before its first call."""
    specs = input_specs(model)
    if specs is None:
        return None
    library = keras_of(model)
    tensors = [symbolic_input(library, tuple(s.shape), s.dtype) for s in specs]
    return GraphCall(model, tuple(arguments(model, tensors)), {}, [], 0)
