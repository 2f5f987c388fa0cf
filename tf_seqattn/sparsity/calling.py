"""Wrappers that take the same arguments in a call as the layer that they hold."""

from typing import Any

from tf_seqattn.keras_api import Layer, build_attention, keras2, keras3


class CallingLikeItsLayer2(keras2.layers.Wrapper):
    """A wrapper of Keras 2. It calls its layer in `_call_layer`."""

    def __init__(self, layer: Layer, *args: Any, **kwargs: Any) -> None:
        shape = getattr(layer, "_batch_input_shape", None)
        if shape is not None and "input_shape" not in kwargs:
            kwargs.setdefault("batch_input_shape", shape)
        super().__init__(layer, *args, **kwargs)

    def __call__(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        # Keras builds from the shape of the first input, but attention needs every one.
        if not self.built:
            build_attention(self.layer, inputs, *args, **kwargs)
        return super().__call__(inputs, *args, **kwargs)

    def call(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        # Keras offers `training` and `mask` to any call with **kwargs.
        expects = self.layer._call_spec.arg_names
        for name in ("training", "mask"):
            if name not in expects:
                kwargs.pop(name, None)
        return self._call_layer(inputs, *args, **kwargs)

    def compute_mask(self, inputs: Any, mask: Any = None) -> Any:
        return self.layer.compute_mask(inputs, mask)

    @property
    def stateful(self) -> bool:
        return getattr(self.layer, "stateful", False)

    @stateful.setter
    def stateful(self, value: bool) -> None:
        if value:
            self.layer.stateful = value

    def reset_states(self, *args: Any, **kwargs: Any) -> Any:
        """Resets the state of a stateful recurrent layer."""
        return self.layer.reset_states(*args, **kwargs)


class CallingLikeItsLayer3(keras3.layers.Wrapper):
    """A wrapper of Keras 3. It calls its layer in `_call_layer`."""

    def __init__(self, layer: Layer, *args: Any, **kwargs: Any) -> None:
        super().__init__(layer, *args, **kwargs)
        shape = getattr(layer, "_input_shape_arg", None)
        if shape is not None and getattr(self, "_input_shape_arg", None) is None:
            self._input_shape_arg = shape
        # The wrapper takes the same arguments in a call as its layer.
        for attribute in _CALL_SIGNATURE:
            setattr(self, attribute, getattr(layer, attribute))

    def _maybe_build(self, call_spec: Any) -> None:
        # The layer knows which of the arguments it is built from.
        if not self.built:
            self.layer._maybe_build(call_spec)
            self.build()

    def call(self, *args: Any, **kwargs: Any) -> Any:
        return self._call_layer(*args, **kwargs)

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> Any:
        return self.layer.compute_output_spec(*args, **kwargs)

    def compute_mask(self, inputs: Any, previous_mask: Any = None) -> Any:
        return self.layer.compute_mask(inputs, previous_mask)

    def reset_state(self) -> Any:
        """Resets the state of a stateful recurrent layer."""
        return self.layer.reset_state()


_CALL_SIGNATURE = (
    "_call_signature",
    "call_signature_parameters",
    "_call_has_training_arg",
    "_call_has_mask_arg",
    "_call_context_args",
    "_call_has_context_arg",
)
