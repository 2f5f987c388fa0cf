"""Computes a batch sample by sample, in a loop inside the file.

Convolutions have many rows for each sample. What is gathered for a whole batch leaves
the cache before it is multiplied; what is gathered for one sample stays there.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tf_seqattn.inference.cost import PROCESSORS, Cost
from tf_seqattn.inference.layer_plan import LayerPlan
from tf_seqattn.keras_api import keras3

# A loop pays if the products take this many times as long in one go, and for a sample
# so long (seconds) that the other operations, started anew for each, do not count.
_LEAST_GAIN, _LEAST_SECONDS = 1.05, 1e-3


def _seconds(plan: LayerPlan, samples: float, processor: str) -> float:
    """Expected time of one kernel's product in the faster layout."""
    cost = Cost(max(1, round(samples)), plan.precision, plan.num_threads, processor)
    *inputs, outputs = plan.kernel_shape
    dense = cost.dense(math.prod(inputs), outputs)
    if plan.pattern is None:
        return dense
    return min(dense, cost.packed(plan.pattern, plan.window))


def has_many_rows(plans: Sequence[LayerPlan], batch_size: int) -> bool:
    """Whether a packed product has several rows for each of several samples.

    Args:
      plans: of all kernels, for batches of that size.
      batch_size: samples in one call.
    """
    packed = [plan for plan in plans if plan.layout == "packed"]
    return batch_size > 1 and any(plan.samples > batch_size for plan in packed)


def is_faster_by_samples(plans: Sequence[LayerPlan], batch_size: int) -> bool:
    """Whether the cost model expects a loop over the samples to be faster.

    Args:
      plans: of all kernels, for batches of that size.
      batch_size: samples in one call.
    """
    if batch_size == 1 or all(plan.pattern is None for plan in plans):
        return False
    for processor in PROCESSORS:
        whole = sum(_seconds(plan, plan.samples, processor) for plan in plans)
        single = sum(
            _seconds(plan, plan.samples / batch_size, processor) for plan in plans
        )
        if single < _LEAST_SECONDS or whole < _LEAST_GAIN * batch_size * single:
            return False
    return True


def by_samples(
    compute: Callable[..., Any], specs: Sequence[tf.TensorSpec]
) -> Callable[..., list[tf.Tensor]]:
    """A function of batches that computes one sample after the other.

    Args:
      compute: a function of inputs `(1, ...)` that returns a structure of outputs
        `(1, ...)`.
      specs: of the inputs, `(None, ...)`.

    Returns:
      A function of inputs `(n, ...)` that returns the outputs `(n, ...)`.

    Raises:
      ValueError: if the sizes of a sample are unknown.

    Example:

    >>> double = by_samples(lambda x: 2.0 * x, [tf.TensorSpec((None, 2))])
    >>> double(tf.ones((3, 2)))[0].shape.as_list()
    [3, 2]
    """
    sizes = [spec.shape[1:] for spec in specs]
    if not all(size.is_fully_defined() for size in sizes):
        raise ValueError(f"The sizes of a sample are unknown: {sizes}.")
    singles = [
        tf.TensorSpec((1, *size), spec.dtype)
        for size, spec in zip(sizes, specs, strict=True)
    ]
    traced = tf.function(compute).get_concrete_function(*singles)
    made = tf.nest.flatten(traced.structured_outputs)
    if not all(out.shape.is_fully_defined() and out.shape[0] == 1 for out in made):
        raise ValueError(f"The outputs are not those of one sample: {made}.")

    def compute_batch(*inputs: tf.Tensor) -> list[tf.Tensor]:
        count = tf.shape(inputs[0])[0]

        def step(index: tf.Tensor, *outputs: tf.Tensor) -> tuple[tf.Tensor, ...]:
            sample = [
                tf.slice(x, [index, *(0 for _ in size)], [1, *size])
                for x, size in zip(inputs, sizes, strict=True)
            ]
            results = tf.nest.flatten(traced(*sample))
            return index + 1, *(
                keras3.ops.slice_update(
                    out, tf.stack([index, *(0 for _ in out.shape[1:])]), result
                )
                for out, result in zip(outputs, results, strict=True)
            )

        empty = [tf.zeros((count, *out.shape[1:]), out.dtype) for out in made]
        unknown = [tf.TensorShape((None, *out.shape[1:])) for out in made]
        _, *outputs = tf.while_loop(
            lambda index, *_: index < count,
            step,
            [tf.constant(0), *empty],
            shape_invariants=[tf.TensorShape([]), *unknown],
        )
        return outputs

    return compute_batch
