"""Inputs and outputs of a model in the signature of a file."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tf_seqattn.keras_api import arguments
from tf_seqattn.keras_api import input_specs as keras_input_specs

# Rows on which an exported file is compared with Keras.
CHECKED_SAMPLES = 8


def input_specs(model: Any) -> list[tf.TensorSpec]:
    """Specification of every input of a model, with an unknown batch size.

    Raises:
      ValueError: if the model was never called, so that its inputs are unknown.
    """
    specs = keras_input_specs(model)
    if specs is None:
        raise ValueError(
            f"Model {model.name!r} has no known inputs. Call it once on a batch, "
            "`model(batch)`, before the export."
        )
    return specs


def random_batch(specs: Sequence[tf.TensorSpec]) -> list[np.ndarray]:
    """Random rows for inputs of these shapes and dtypes; integers are 0 or 1."""
    rng = np.random.default_rng(0)
    batch = []
    for spec in specs:
        shape = [CHECKED_SAMPLES if size is None else size for size in spec.shape]
        is_real = spec.dtype.is_floating
        values = rng.normal(size=shape) if is_real else rng.integers(0, 2, shape)
        batch.append(values.astype(spec.dtype.as_numpy_dtype))
    return batch


def flat_outputs(model: Any, inputs: Sequence[Any]) -> list[Any]:
    """The outputs of a Keras model for one batch, a list of tensors."""
    return tf.nest.flatten(model(*arguments(model, list(inputs)), training=False))


def outputs_of(model: Any, batch: list[np.ndarray]) -> list[np.ndarray]:
    """The outputs of a Keras model for one batch, a list of arrays."""
    return [np.asarray(value) for value in flat_outputs(model, batch)]


def input_names(specs: Sequence[tf.TensorSpec]) -> list[str]:
    """Names of the inputs in a signature."""
    return [re.sub(r"\W", "_", spec.name.split(":")[0]) for spec in specs]


def output_names(number: int) -> list[str]:
    """Names of `number` outputs in a signature."""
    return [f"output_{index}" for index in range(number)]


def signature_of(specs: Sequence[tf.TensorSpec]) -> list[tf.TensorSpec]:
    """The specifications with the names of a signature."""
    return [
        tf.TensorSpec(spec.shape, spec.dtype, name)
        for spec, name in zip(specs, input_names(specs), strict=True)
    ]


def serving_function(
    model: Any, specs: Sequence[tf.TensorSpec], jit_compile: bool | None = None
) -> Any:
    """A function of the inputs of a model that returns {"output_0": ...}.

    Args:
      model: a Keras model.
      specs: specifications of its inputs, from `input_specs`.
      jit_compile: whether XLA compiles it.

    Returns:
      A `tf.function` with a signature.
    """

    @tf.function(jit_compile=jit_compile)
    def compute(*inputs: Any) -> list[tf.Tensor]:
        return flat_outputs(model, inputs)

    @tf.function(input_signature=signature_of(specs))
    def serve(*inputs: Any) -> dict[str, tf.Tensor]:
        results = compute(*inputs)
        return dict(zip(output_names(len(results)), results, strict=True))

    return serve


def save(module: Any, folder: Any, serve: Any, options: Any = None) -> None:
    """Writes a SavedModel with one signature.

    Args:
      module: a `tf.Module` that holds the variables.
      folder: the folder to write.
      serve: a `tf.function` with a signature.
      options: options of `tf.saved_model.save`.

    Raises:
      OSError: if the disk is full.
    """
    try:
        tf.saved_model.save(module, str(folder), {"serving_default": serve}, options)
    except (tf.errors.ResourceExhaustedError, tf.errors.OutOfRangeError) as error:
        # A full disk, or a file larger than the system allows.
        raise OSError(f"{str(folder)!r} cannot be written: {error.message}") from error
