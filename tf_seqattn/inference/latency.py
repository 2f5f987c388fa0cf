"""Times a layer dense and packed, in turns, on this machine."""

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import (
    convert_variables_to_constants_v2,
)

from tf_seqattn.inference import flatbuffer, litert
from tf_seqattn.inference.layer_plan import FORM_OF_RUNTIME, LayerPlan, packed_layer
from tf_seqattn.inference.precision import fastest_form, set_precision
from tf_seqattn.keras_api import classes, input_shape, output_shape
from tf_seqattn.kernels.einsum import split_equation

# So many rows give the ranges of an int8 layer that is only timed.
_CALIBRATED = 8


def time_in_turns(
    calls: dict[str, Callable[[], object]],
    seconds: float = 0.4,
    rounds: int = 10,
    calls_a_turn: int = 5,
) -> dict[str, np.ndarray]:
    """Times functions in turns, repeatedly.

    A turn makes several calls. The first is not counted, because the caches still hold
    the data of another function. Other work on the machine slows all functions alike,
    so the ratios of a round are fair.

    Args:
      calls: functions without arguments, by name.
      seconds: how long to continue, after one warm-up turn of each.
      rounds: smallest number of rounds.
      calls_a_turn: counted calls in each turn.

    Returns:
      For each name the mean seconds of a call in each turn, float64 `(rounds,)`.

    Example:

    >>> times = time_in_turns({"a": lambda: None, "b": lambda: None}, seconds=0)
    >>> len(times["a"]) == len(times["b"]) == 10
    True
    """
    turns = {
        name: functools.partial(seconds_of_turn, call, calls_a_turn)
        for name, call in calls.items()
    }
    return take_turns(turns, seconds, rounds)


def seconds_of_turn(call: Callable[[], object], calls_a_turn: int) -> float:
    """Makes a turn of calls, after one that is not counted; mean seconds of one."""
    call()
    started = time.perf_counter()
    for _ in range(calls_a_turn):
        call()
    return (time.perf_counter() - started) / calls_a_turn


def take_turns(
    turns: Mapping[str, Callable[[], float]], seconds: float, rounds: int
) -> dict[str, np.ndarray]:
    """Takes turns that time themselves, repeatedly; see `time_in_turns`.

    Args:
      turns: by name, a function that makes a turn and returns the seconds of a call.
      seconds: how long to continue, after one warm-up turn of each.
      rounds: smallest number of rounds.

    Returns:
      For each name what its turns returned, float64 `(rounds,)`.
    """
    times: dict[str, list[float]] = {name: [] for name in turns}
    end = time.perf_counter() + seconds
    number = -1
    while number < rounds or time.perf_counter() < end:
        for name, turn in turns.items():
            taken = turn()
            if number >= 0:
                times[name].append(taken)
        number += 1
    return {name: np.array(taken) for name, taken in times.items()}


def time_files(
    files: Mapping[str, tuple[bytes, Sequence[np.ndarray], Sequence[str] | None]],
    num_threads: int,
    seconds: float = 0.4,
) -> dict[str, np.ndarray]:
    """Times TFLite files in turns, as `time_in_turns` does.

    Args:
      files: by name, the content of each, an array for each of its inputs, and their
        names in its signature; without names they are in the order of the file.
      num_threads: number of threads of the kernels.
      seconds: how long to continue.
    """
    calls = {
        name: litert.interpreter(
            file, inputs, num_threads=num_threads, input_names=input_names
        ).invoke
        for name, (file, inputs, input_names) in files.items()
    }
    return time_in_turns(calls, seconds)


def _inputs_for(layer: Any, samples: int) -> np.ndarray:
    """A batch for which the product of the layer has about `samples` rows."""
    if hasattr(layer, "kernel_size"):
        shape = input_shape(layer)
        positions = int(np.prod([s or 1 for s in output_shape(layer)[1:-1]]))
        batch = max(1, samples // positions)
        shape = (batch, *(s or 32 for s in shape[1:]))
    elif isinstance(layer, classes("EinsumDense")):
        read, kernel, _ = split_equation(layer.equation, rank=0)
        size = dict(zip(kernel, layer.kernel.shape, strict=True))
        kept = [label for label in read if label not in size]
        shape = tuple(size.get(s, samples if s == kept[0] else 1) for s in read)
    else:
        shape = (samples, layer.kernel.shape[0])
    return np.random.default_rng(0).normal(size=shape).astype("float32")


def _training_runner(layer: Any, inputs: np.ndarray) -> Callable[[], object]:
    """A call that computes all gradients of a layer."""
    value = tf.constant(inputs)

    @tf.function
    def step() -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            tape.watch(value)
            loss = tf.reduce_sum(tf.square(layer(value)))
        return tape.gradient(loss, [value, *layer.trainable_weights])

    return step


def _runner(
    layer: Any, inputs: np.ndarray, runtime: str, plan: LayerPlan
) -> Callable[[], object]:
    if runtime == "training":
        return _training_runner(layer, inputs)
    spec = tf.TensorSpec((None, *inputs.shape[1:]), tf.float32)
    if runtime == "xla":
        function = tf.function(layer, jit_compile=True, input_signature=[spec])
        value = tf.constant(inputs)
        return lambda: function(value).numpy()
    quantization = None if plan.precision == "float32" else plan.precision
    with fastest_form(layer, quantization):
        function = tf.function(layer, input_signature=[spec]).get_concrete_function()
        # The converter does not make the variables of Keras 3 constant.
        frozen = convert_variables_to_constants_v2(function)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([frozen], layer)
    rows = [[row[None]] for row in inputs[:_CALIBRATED]]
    set_precision(converter, quantization, lambda: rows)
    file = converter.convert()
    if quantization == "int8":
        file = flatbuffer.center_constant_operands(file)
    return litert.interpreter(file, [inputs], num_threads=plan.num_threads).invoke


def measure_speedup(layer: Any, plan: LayerPlan, runtime: str) -> float:
    """Time of a dense layer divided by its packed time.

    Args:
      layer: a Dense, convolution or EinsumDense layer.
      plan: its `LayerPlan`. A TFLite layer has its precision and number of threads.
      runtime: "tflite" (LiteRT), "xla", or "training" (forward and backward).

    Returns:
      The median of the ratios of all rounds.
    """
    packed, weights = packed_layer(layer, plan, FORM_OF_RUNTIME[runtime])
    packed.build()
    packed.set_weights(weights)
    inputs = _inputs_for(layer, plan.samples)
    times = time_in_turns(
        {
            "dense": _runner(layer, inputs, runtime, plan),
            "packed": _runner(packed, inputs, runtime, plan),
        }
    )
    return float(np.median(times["dense"] / times["packed"]))
