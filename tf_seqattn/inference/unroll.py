"""Unrolls recurrent layers, for runtimes without lists of tensors.

A loop over the steps fills a list of tensors whose size is unknown if the batch size
is. TFLite's built-in operators have no such list. Unrolled, the loop is one copy of the
step for each step, and the weights are stored once.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

from tf_seqattn.keras_api import (
    looping_by,
    named_in_scope,
    sublayers,
)


def _unrolled_loop(
    rnn: Callable[..., Any],
    step_function: Callable[..., Any],
    inputs: Any,
    *args: Any,
    **kwargs: Any,
) -> Any:
    """Computes what Keras's `rnn` does, with one copy of the step for each step.

    When it unrolls, Keras goes backwards through the inputs but applies the mask
    forwards. So both are reversed first here.
    """
    axis = 0 if kwargs.get("time_major") else 1
    if kwargs.pop("go_backwards", False):
        inputs = tf.nest.map_structure(lambda x: tf.reverse(x, [axis]), inputs)
        if kwargs.get("mask") is not None:
            kwargs["mask"] = tf.reverse(kwargs["mask"], [axis])
    return rnn(step_function, inputs, *args, **{**kwargs, "unroll": True})


@contextlib.contextmanager
def unrolled(model: Any) -> Iterator[None]:
    """A context in which tracing a model unrolls its recurrent layers.

    Args:
      model: any Keras model or layer. It does not change.

    Raises:
      ValueError: if a recurrent layer is called with an unknown number of steps. The
        error names the layer.

    Example:

    >>> model = keras.Sequential([keras.layers.LSTM(2, input_shape=(5, 3))])
    >>> with unrolled(model):
    ...     function = tf.function(lambda x: model(x))
    ...     traced = function.get_concrete_function(tf.TensorSpec((None, 5, 3)))
    >>> [o.type for o in traced.graph.get_operations()].count("Tanh")
    10
    """
    names = {layer.name for layer in sublayers(model)}
    unknown: list[str] = []

    def loop(
        rnn: Callable[..., Any],
        step_function: Callable[..., Any],
        inputs: Any,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        axis = 0 if kwargs.get("time_major") else 1
        if tf.nest.flatten(inputs)[0].shape[axis] is None:
            scope = tf.get_current_name_scope()
            unknown.append((named_in_scope(scope, names) or [scope])[-1])
            raise ValueError("The number of steps is unknown.")
        return _unrolled_loop(rnn, step_function, inputs, *args, **kwargs)

    with looping_by(model, loop):
        try:
            yield
        except Exception as error:
            # A new error, since Keras adds long lists of arguments to errors in layers.
            if not unknown:
                raise
            raise ValueError(
                f"Layer {unknown[0]!r} is called with an unknown number of steps, and "
                "TFLite runs recurrent layers unrolled. Give the model inputs of a "
                "known number of steps (`keras.Input((steps, size))`; a subclassed "
                "model is called once on such a batch), or use "
                "`sa.export_saved_model`."
            ) from error
