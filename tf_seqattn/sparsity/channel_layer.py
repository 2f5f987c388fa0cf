"""The wrapper of a layer whose channels are pruned: it multiplies what it reads."""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tf_seqattn.keras_api import (
    Layer,
    OfEitherKeras,
    Variable,
    build_attention,
    keras2,
    keras3,
    keras_of,
    register_pair,
    stored,
)
from tf_seqattn.kernels.layer_kernels import Kernel, find_kernels, is_supported
from tf_seqattn.sparsity.calling import CallingLikeItsLayer2, CallingLikeItsLayer3
from tf_seqattn.sparsity.channel_units import (
    ChannelUnits,
    Positions,
    scale_slices,
)
from tf_seqattn.sparsity.wrapper import PrunableLayer


@dataclasses.dataclass(frozen=True)
class Slices:
    """An axis of a weight of the wrapped layer, whose entries belong to units.

    Attributes:
      weight: index among the weights of the layer.
      axis: the axis.
      group: index among the groups of the wrapper.
      positions: `(size of the axis,)`, the unit of each entry, -1 for none.
      reads: whether the weight reads these channels.
    """

    weight: int
    axis: int
    group: int
    positions: Positions
    reads: bool

    def get_config(self) -> dict[str, Any]:
        return {**dataclasses.asdict(self), "positions": self.positions.tolist()}


class ChannelLayer(OfEitherKeras):
    """A layer that computes or reads channels of groups that are pruned.

    It computes with `W * A * mask` along the axes that read the channels: every entry
    that reads unit `u` is multiplied by the attention and the mask of `u`. A channel is
    multiplied once on every path, and is silent where the mask is 0, whatever the
    activation. Layers that read channels of one group share its `PrunableLayer`.

    Args:
      layer: the layer, built.
      groups: for each group the `PrunableLayer` around its `ChannelUnits`.
      slices: which entries of which weights belong to the units.
      **kwargs: passed to `keras.layers.Layer`.
    """

    layer: Any
    name: str

    def __init__(
        self,
        layer: Layer,
        groups: Sequence[PrunableLayer],
        slices: Sequence[Slices],
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("name", f"channels_of_{layer.name}")
        kwargs["dtype"] = "float32"
        kwargs.setdefault("trainable", layer.trainable)
        super().__init__(layer, autocast=False, **kwargs)
        self.groups = list(groups)
        self.__dict__["slices"] = tuple(slices)
        self.supports_masking = layer.supports_masking
        for group in self.groups:
            group.layer.add_user(self)
        if layer.built:
            self.built = True

    def build(self, input_shape: Any = None) -> None:
        super().build(input_shape)
        build_attention(self.layer)

    @property
    def computes_like(self) -> Layer:
        """The layer whose rule `sa.channel_groups` follows."""
        return self.layer

    def slices_of(self, units: ChannelUnits) -> list[tuple[Variable, int, Positions]]:
        """The weights, axes and positions that belong to the units of a group."""
        return [
            (self.layer.weights[found.weight], found.axis, found.positions)
            for found in self.slices
            if self.groups[found.group].layer is units
        ]

    def kept_entries(self, found: Slices) -> npt.NDArray[np.bool_]:
        """Which entries along the axis of some slices belong to units that stay."""
        (pruned,) = self.groups[found.group].pruned_kernels
        mask = np.asarray(stored(pruned.mask))[:, 0] > 0
        # The last one is for entries of no unit.
        return np.append(mask, True)[found.positions]

    def effective_weights(self) -> dict[int, tf.Tensor]:
        """`W * A * mask` by the index of each weight that reads pruned channels."""
        weights = self.layer.weights
        effective: dict[int, tf.Tensor] = {}
        for found in self.slices:
            if not found.reads:
                continue
            value = effective.get(found.weight)
            if value is None:
                value = stored(weights[found.weight])
            group = self.groups[found.group]
            (pruned,) = group.pruned_kernels
            effective[found.weight] = scale_slices(
                value,
                group.block_multipliers(pruned)[:, 0],
                found.axis,
                found.positions,
                group.gradient_adder(pruned),
            )
        return effective

    def folded_weights(self) -> list[np.ndarray]:
        """The weights of the layer, with `W * A * mask` where they read channels."""
        effective = self.effective_weights()
        return [
            effective[index].numpy() if index in effective else np.asarray(stored(w))
            for index, w in enumerate(self.layer.weights)
        ]

    def _kernels(self) -> dict[int, Kernel]:
        found = find_kernels(self.layer) if is_supported(self.layer) else []
        return {id(kernel.variable): kernel for kernel in found}

    @contextlib.contextmanager
    def _effective_kernels(self) -> Iterator[None]:
        kernels, weights = self._kernels(), self.layer.weights
        with contextlib.ExitStack() as undo:
            for index, value in self.effective_weights().items():
                kernel = kernels[id(weights[index])]
                for group in self.groups:
                    value = group._require_counted_steps(value)
                value = tf.cast(value, kernel.owner.compute_dtype)
                undo.callback(kernel.replace(value))
            yield

    def _call_layer(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the layer with its effective kernels."""
        for group in self.groups:
            # Once a group, though several layers read it.
            if group.layer.users()[0] is self:
                (pruned,) = group.pruned_kernels
                logits = None if pruned.logits is None else stored(pruned.logits)
                penalty = group.importance.penalty(logits)
                if penalty is not None:
                    self.add_loss(penalty)
        with self._effective_kernels():
            return self.layer(*args, **kwargs)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return self.layer.compute_output_shape(input_shape)

    def get_config(self) -> dict[str, Any]:
        serialize = keras_of(self).saving.serialize_keras_object
        # Keras marks a shared object itself, but loses the mark of the first one.
        groups = [
            {**serialize(group), "shared_object_id": id(group)} for group in self.groups
        ]
        return {
            **super().get_config(),
            "groups": groups,
            "slices": [found.get_config() for found in self.slices],
        }

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None
    ) -> "ChannelLayer":
        config = dict(config)
        config.pop("dtype", None)
        library = keras3 if issubclass(cls, keras3.layers.Layer) else keras2
        layer = library.layers.deserialize(
            config.pop("layer"), custom_objects=custom_objects
        )
        groups = [
            library.saving.deserialize_keras_object(group)
            for group in config.pop("groups")
        ]
        slices = [
            Slices(**{**found, "positions": np.array(found["positions"], np.int64)})
            for found in config.pop("slices")
        ]
        return cls(layer, groups, slices, **config)


class _ChannelLayer2(ChannelLayer, CallingLikeItsLayer2):
    """The wrapper as a layer of Keras 2."""


class _ChannelLayer3(ChannelLayer, CallingLikeItsLayer3):
    """The wrapper as a layer of Keras 3."""


KINDS = register_pair({keras2: _ChannelLayer2, keras3: _ChannelLayer3})
