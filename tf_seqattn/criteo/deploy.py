"""The dense part of a click model as a TFLite file, checked and timed with LiteRT.

What is exported is the multilayer perceptron: the embedded fields of a row go in
and the log-odds of a click come out. The lookup of embeddings is left out, as it is
a matter of memory and not of arithmetic (and often of another machine).

The stock converter's `EXPERIMENTAL_SPARSITY` stores a pruned kernel in 1 x 4 pieces.
A layer whose inputs are no multiple of 4, such as the 390 here, loses its last inputs
that way, without a warning. So every file is run, with the default delegate and
without one, and compared with Keras before it is taken.
"""

import time
from typing import NamedTuple

import numpy as np
import tensorflow as tf
import tf_keras as keras
from ai_edge_litert.interpreter import Interpreter, OpResolverType

# Inputs that the converter's sparse kernels take at a time.
_PIECE = 4
_TOLERANCE = 1e-4
_RESOLVERS = {
    "default delegate": OpResolverType.AUTO,
    "no delegate": OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
}


class Attempt(NamedTuple):
    """A TFLite file and how it compares with the Keras model.

    Attributes:
      name: how it was made.
      file: its bytes.
      differences: largest absolute difference of the log-odds from those of Keras,
        by kind of interpreter.
      right: whether they are within rounding (1e-4 of the largest log-odds).
    """

    name: str
    file: bytes
    differences: dict[str, float]
    right: bool


class Latency(NamedTuple):
    """Microseconds of one call: the median and the quartiles around it."""

    median: float
    lower_quartile: float
    upper_quartile: float


def multilayer_perceptron(network: keras.Model) -> keras.Model:
    """Returns the part of a stripped network after its embeddings.

    Args:
      network: a network of `model.build_network`, without pruning.

    Returns:
      A model from `(batch, 39 * dimension)` to `(batch, 1)`; it shares the weights.
    """
    fields = network.get_layer("fields")
    inputs = keras.Input((fields.output.shape[-1],), name="embedded_fields")
    x = inputs
    for layer in network.layers[network.layers.index(fields) + 1 :]:
        x = layer(x)
    return keras.Model(inputs, x, name="perceptron")


def embed(network: keras.Model, features: dict[str, np.ndarray]) -> np.ndarray:
    """Returns the embedded fields of rows, float32 `(rows, 39 * dimension)`."""
    fields = network.get_layer("fields")
    return fields((features["numeric"], features["categorical"])).numpy()


def _widened(perceptron: keras.Model) -> keras.Model:
    """The same function, with an op in front that adds zeros to a multiple of 4."""
    width = perceptron.input_shape[-1]
    extra = -width % _PIECE
    inputs = keras.Input((width,), name="embedded_fields")
    x = keras.layers.Lambda(lambda v: tf.pad(v, [[0, 0], [0, extra]]), name="pad")(
        inputs
    )
    for layer in perceptron.layers[1:]:
        wider = type(layer).from_config(layer.get_config())
        x = wider(x)
        weights = layer.get_weights()
        missing = wider.kernel.shape[0] - weights[0].shape[0]
        weights[0] = np.pad(weights[0], ((0, missing), (0, 0)))
        wider.set_weights(weights)
    return keras.Model(inputs, x, name="perceptron_widened")


def _convert(model: keras.Model, sparse: bool) -> bytes:
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    if sparse:
        converter.optimizations = [tf.lite.Optimize.EXPERIMENTAL_SPARSITY]
    return converter.convert()


def _interpreter(file: bytes, batch: int, resolver=OpResolverType.AUTO) -> Interpreter:
    interpreter = Interpreter(
        model_content=file, num_threads=1, experimental_op_resolver_type=resolver
    )
    details = interpreter.get_input_details()[0]
    shape = [batch, *details["shape"][1:]]
    interpreter.resize_tensor_input(details["index"], shape)
    interpreter.allocate_tensors()
    return interpreter


def run(file: bytes, inputs: np.ndarray, resolver=OpResolverType.AUTO) -> np.ndarray:
    """Runs a TFLite file of one input and one output, on one thread.

    Args:
      file: its bytes.
      inputs: float32 `(batch, width)`.
      resolver: which kernels LiteRT may use.

    Returns:
      Its output for the batch.
    """
    interpreter = _interpreter(file, len(inputs), resolver)
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], inputs)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


def _attempt(name: str, file: bytes, inputs: np.ndarray, expected: np.ndarray):
    differences = {
        kind: float(np.abs(run(file, inputs, resolver) - expected).max())
        for kind, resolver in _RESOLVERS.items()
    }
    allowed = _TOLERANCE * max(1.0, float(np.abs(expected).max()))
    # Written so that a difference that is not a number is wrong.
    right = all(difference <= allowed for difference in differences.values())
    return Attempt(name, file, differences, right)


def export(
    network: keras.Model, features: dict[str, np.ndarray], sparse: bool
) -> list[Attempt]:
    """Converts the perceptron of a network, and checks each file.

    Args:
      network: a network without pruning.
      features: rows to compare on, as `data.Clicks.features()`.
      sparse: whether to ask for the converter's sparse encoding first, then for the
        same with zeros added to the inputs up to a multiple of 4, and only
        then for an ordinary file.

    Returns:
      What was tried, in this order. The last one is right and the one to use.

    Raises:
      RuntimeError: if not even an ordinary file agrees with Keras.
    """
    perceptron = multilayer_perceptron(network)
    inputs = embed(network, features)
    expected = perceptron(inputs).numpy()
    plans = [("dense encoding", perceptron, False)]
    if sparse:
        plans = [("sparse encoding", perceptron, True), *plans]
        if inputs.shape[1] % _PIECE:
            name = f"sparse encoding, inputs padded to a multiple of {_PIECE}"
            plans.insert(1, (name, _widened(perceptron), True))
    attempts = []
    for name, model, is_sparse in plans:
        attempts.append(_attempt(name, _convert(model, is_sparse), inputs, expected))
        if attempts[-1].right:
            return attempts
    raise RuntimeError(
        "No TFLite file agrees with the Keras model: largest differences "
        f"{attempts[-1].differences}. Check the versions of tensorflow and "
        "ai-edge-litert."
    )


def measure_latency(
    files: dict[str, bytes], inputs: np.ndarray, rounds: int = 300
) -> dict[str, Latency]:
    """Times files on the same inputs, on one thread, taking turns.

    Args:
      files: TFLite files by name.
      inputs: float32 `(batch, width)`.
      rounds: number of calls of each that count; a tenth more come before them.

    Returns:
      A `Latency` by name. Turns spread what else the machine does over all files.
    """
    interpreters = {}
    for name, file in files.items():
        interpreter = _interpreter(file, len(inputs))
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], inputs)
        interpreters[name] = interpreter
    times: dict[str, list[float]] = {name: [] for name in files}
    warm_up = rounds // 10
    for number in range(warm_up + rounds):
        for name, interpreter in interpreters.items():
            started = time.perf_counter()
            interpreter.invoke()
            if number >= warm_up:
                times[name].append(1e6 * (time.perf_counter() - started))
    return {
        name: Latency(*(float(q) for q in np.percentile(taken, (50, 25, 75))))
        for name, taken in times.items()
    }
