"""The model as a TFLite file: written by the stock converter, run by LiteRT."""

import numpy as np
import tensorflow as tf
import tf_keras as keras
from ai_edge_litert.interpreter import Interpreter


def convert(model: keras.Model) -> bytes:
    """Returns `model` as the bytes of a float32 TFLite file."""
    return tf.lite.TFLiteConverter.from_keras_model(model).convert()


def predict(file: bytes, images: np.ndarray) -> np.ndarray:
    """Runs a TFLite file of one input and one output on a batch.

    Args:
      file: what `convert` returned.
      images: the batch, in the shape and dtype of the model's input.

    Returns:
      The model's output for the batch.
    """
    interpreter = Interpreter(model_content=file)
    [model_input] = interpreter.get_input_details()
    [model_output] = interpreter.get_output_details()
    interpreter.resize_tensor_input(model_input["index"], images.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(model_input["index"], images)
    interpreter.invoke()
    return interpreter.get_tensor(model_output["index"])
