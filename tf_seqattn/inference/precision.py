"""Precisions of TFLite files: how the converter writes each, and how products run."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import tensorflow as tf

from tf_seqattn.inference.packed_layers import (
    computing_in_groups,
    having_equal_columns,
)

# None is float32. "float16" and "dynamic" are precisions of the weights only.
QUANTIZATIONS = (None, "float16", "dynamic", "int8")
# Function that returns inputs, one by one, from which ranges are taken: lists of
# arrays, or dictionaries by name.
_Rows = Callable[[], Iterable[Any]]


def set_precision(
    converter: Any, quantization: str | None, rows: _Rows | None = None
) -> None:
    """Sets the options of a `TFLiteConverter` for one of `QUANTIZATIONS`.

    Args:
      converter: the converter.
      quantization: one of `QUANTIZATIONS`.
      rows: the representative dataset, which only "int8" needs.
    """
    if quantization is not None:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if quantization == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if quantization == "int8":
        converter.representative_dataset = rows
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]


@contextlib.contextmanager
def fastest_form(model: Any, quantization: str | None) -> Iterator[None]:
    """Context in which packed layers are traced and frozen as suits a precision.

    Dynamic quantization gives a convolution one scale for the whole batch, so a result
    would depend on the other samples. A batched product has a scale for each sample,
    but one for all its weights.
    """
    if quantization == "dynamic":
        with having_equal_columns(model):
            yield
    else:
        with computing_in_groups(model):
            yield
