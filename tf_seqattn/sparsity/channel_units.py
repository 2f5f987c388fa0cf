"""The units of a group of channels as a layer, so that they are pruned like blocks."""

import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tf_seqattn.keras_api import (
    Variable,
    add_float,
    classes,
    register_for_both,
    stored,
)

_SomeLayer: Any = object

Positions = npt.NDArray[np.int64]


def kept_units(units: int, sparsity: float | tf.Tensor, multiple: int) -> tf.Tensor:
    """How many units of a group stay: a multiple of some number, at least one of it.

    A group of less than twice the multiple, such as the heads of an attention, is not
    rounded.

    Args:
      units: number of units.
      sparsity: scalar in [0, 1), the share to remove.
      multiple: such as 8.

    Returns:
      Scalar int32 tensor.

    Example:

    >>> int(kept_units(100, 0.5, 8)), int(kept_units(12, 0.5, 8))
    (48, 6)
    """
    step = multiple if units >= 2 * multiple else 1
    share = units * (1.0 - tf.cast(sparsity, tf.float64))
    rounded = step * tf.maximum(tf.round(share / step), 1.0)
    # The whole group stays whole, whatever its size.
    rounded = tf.where(tf.cast(sparsity, tf.float64) > 0, rounded, float(units))
    return tf.cast(tf.minimum(rounded, float(units)), tf.int32)


def is_normalization(layer: Any) -> bool:
    """Whether a layer scales each channel by a weight of its own."""
    return type(layer) in classes("BatchNormalization")


def sum_by_unit(
    weight: tf.Tensor, axis: int, positions: Positions, units: int
) -> tf.Tensor:
    """Sums a weight over all slices of each unit.

    Args:
      weight: float tensor.
      axis: the axis along which its entries belong to units.
      positions: `(size of the axis,)`, the unit of each entry, -1 for none.
      units: number of units.

    Returns:
      Float32 tensor `(units,)`.

    Example:

    >>> sum_by_unit(tf.ones((2, 3)), 1, np.array([1, -1, 1]), 2).numpy().tolist()
    [0.0, 4.0]
    """
    others = [a for a in range(len(weight.shape)) if a != axis]
    along = tf.reduce_sum(tf.cast(weight, tf.float32), others)
    # A negative position adds to nothing.
    return tf.math.unsorted_segment_sum(along, positions, units)


def scale_slices(
    weight: tf.Tensor,
    values: tf.Tensor,
    axis: int,
    positions: Positions,
    on_gradient: Callable[[tf.Tensor], None] | None = None,
) -> tf.Tensor:
    """Multiplies the slices of a weight by the value of their unit.

    Args:
      weight: float tensor.
      values: float32 `(units,)`.
      axis: the axis along which the entries of the weight belong to units.
      positions: `(size of the axis,)`, the unit of each entry, -1 for none.
      on_gradient: called in the backward pass with the gradient of `values`, even where
        nothing else needs that gradient.

    Returns:
      Tensor like `weight`.

    Example:

    >>> values = tf.constant([2.0, 3.0])
    >>> scale_slices(tf.ones((1, 3)), values, 1, np.array([1, -1, 0])).numpy().tolist()
    [[3.0, 1.0, 2.0]]
    """
    units = values.shape[0]
    places = [1] * len(weight.shape)
    places[axis] = -1

    @tf.custom_gradient
    def scale(
        weight: tf.Tensor, values: tf.Tensor
    ) -> tuple[tf.Tensor, Callable[..., tuple[tf.Tensor, tf.Tensor]]]:
        # The last one is for entries of no unit.
        factor = tf.gather(tf.concat([values, [1.0]], 0), positions % (units + 1))
        factor = tf.reshape(tf.cast(factor, weight.dtype), places)

        def gradient(upstream: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            in_values = sum_by_unit(upstream * weight, axis, positions, units)
            if on_gradient is not None:
                on_gradient(in_values)
            return upstream * factor, in_values

        return weight * factor, gradient

    return scale(weight, values)


class ChannelUnits(_SomeLayer):
    """The units of one group of coupled channels.

    It holds the norm of each unit as a matrix of one column, which a `PrunableLayer`
    prunes in blocks of one entry. Layers that read the channels multiply by its result.

    Args:
      units: number of units.
      round_to: the units that stay are a multiple of it.
      **kwargs: passed to `keras.layers.Layer`.
    """

    def __init__(self, units: int, round_to: int, **kwargs: Any) -> None:
        kwargs["dtype"] = "float32"
        super().__init__(**kwargs)
        self.built = False
        self.units = int(units)
        self.round_to = int(round_to)
        # Not tracked: these layers hold this one.
        self.__dict__["_users"] = []
        self.build(None)

    def build(self, input_shape: Any = None) -> None:
        if not self.built:
            self.norms = add_float(self, "norms", (self.units, 1), 1.0, False)
            self.built = True

    def call(self, inputs: Any) -> Any:
        return inputs

    def get_prunable_weights(self) -> list[Variable]:
        """What a `PrunableLayer` prunes."""
        return [self.norms]

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "units": self.units,
            "round_to": self.round_to,
        }

    def add_user(self, user: Any) -> None:
        """Remembers a layer that computes or reads the channels."""
        self.__dict__["_users"].append(weakref.ref(user))

    def users(self) -> list[Any]:
        """The layers that compute or read the channels.

        It is no property: Keras would look for weights in it.
        """
        found = [user() for user in self.__dict__["_users"]]
        return [user for user in found if user is not None]

    def measure(self, scales: bool = False) -> None:
        """Sets the norm of each unit: over its slices of all kernels.

        Args:
          scales: over the scales of batch normalizations in their place.
        """
        squares = tf.zeros([self.units])
        for user in self.users():
            if is_normalization(user.layer) != scales:
                continue
            for weight, axis, positions in user.slices_of(self):
                value = tf.square(stored(weight))
                squares += sum_by_unit(value, axis, positions, self.units)
        self.norms.assign(tf.sqrt(squares)[:, None])

    def rounded(self, sparsity: float | tf.Tensor) -> tf.Tensor:
        """The share to remove, such that a multiple of `round_to` stays."""
        kept = kept_units(self.units, sparsity, self.round_to)
        return 1.0 - tf.cast(kept, tf.float64) / self.units


UNITS = register_for_both(ChannelUnits)
