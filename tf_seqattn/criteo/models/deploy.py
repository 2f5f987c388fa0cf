"""The dense part of a click model as a TFLite file, compared with Keras.

What is exported is the multilayer perceptron: the embedded fields of a row go in
and the log-odds of a click come out. The lookup of embeddings is left out, as it is
a matter of memory and not of arithmetic (and often of another machine).
"""

import pathlib

import numpy as np
import tf_keras as keras

import tf_seqattn as sa


def multilayer_perceptron(network: keras.Model) -> keras.Model:
    """Returns the part of a stripped network after its embeddings.

    Args:
      network: a network of `model.build_network`, without pruning.

    Returns:
      A model from `(batch, fields * dimension)` to `(batch, 1)`; it shares the weights.
    """
    fields = network.get_layer("fields")
    inputs = keras.Input((fields.output.shape[-1],), name="embedded_fields")
    x = inputs
    for layer in network.layers[network.layers.index(fields) + 1 :]:
        x = layer(x)
    return keras.Model(inputs, x, name="perceptron")


def embed(network: keras.Model, features: dict[str, np.ndarray]) -> np.ndarray:
    """Returns the embedded fields of rows, float32 `(rows, fields * dimension)`."""
    fields = keras.Model(network.input, network.get_layer("fields").output)
    return fields(features).numpy()


def export(
    network: keras.Model,
    features: dict[str, np.ndarray],
    path: pathlib.Path,
    layout: str,
    batch_size: int = 64,
) -> sa.TFLiteReport:
    """Writes the perceptron of a network, compared with Keras on rows of data.

    Args:
      network: a network without pruning.
      features: rows to compare on, as `data.Clicks.features()`.
      path: the file.
      layout: "packed" or "dense", see `sa.export_tflite`.
      batch_size: rows in one call, for which layers are packed or not.
    """
    return sa.export_tflite(
        multilayer_perceptron(network),
        path,
        layout,
        representative_dataset=[embed(network, features)],
        batch_size=batch_size,
    )
