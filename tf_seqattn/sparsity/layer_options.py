"""The arguments that `sa.prune` gives the wrapper of each layer, if it has one."""

import difflib
import fnmatch
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from tf_seqattn.keras_api import (
    LAYERS,
    Layer,
    sublayers,
)
from tf_seqattn.kernels.layer_kernels import why_not_divided
from tf_seqattn.sparsity.allocation import prunable_layers, retargeted
from tf_seqattn.sparsity.policies import MinimumBlocks, PruningPolicy, why_unprunable
from tf_seqattn.sparsity.wrapper import PrunableLayer

# The arguments of `PrunableLayer`, and the target of its schedule.
OPTIONS = (
    "balanced",
    "block_size",
    "importance",
    "min_blocks",
    "pattern",
    "pruning_schedule",
    "sparsity",
    "zero_pruned_weights",
)

Key = str | type
Options = Mapping[str, Any]


class LayerOptions(PruningPolicy):
    """The choices of one call of `sa.prune`, for each layer of the model.

    Args:
      arguments: of `PrunableLayer`, for all layers.
      policy: where to prune, by default `MinimumBlocks` with the layer's block size.
      layers: the choices of single layers, as `sa.prune` takes them.
      is_single: whether one layer is wrapped by itself, whatever its size.

    Example:

    >>> layer = keras.layers.Dense(8, name="head")
    >>> options = LayerOptions({"block_size": (4, 4)}, layers={"head": None})
    >>> options.reason(layer)
    '`layers` gives it None'
    """

    def __init__(
        self,
        arguments: dict[str, Any],
        policy: PruningPolicy | None = None,
        layers: Mapping[Key, Options | None] | None = None,
        is_single: bool = False,
    ) -> None:
        self._arguments = arguments
        self._policy = policy
        self._layers = dict(layers or {})
        self._is_single = is_single
        # The user's `sparsity`, by name of a layer.
        self.targets: dict[str, float] = {}

    def arguments(self, layer: Layer) -> dict[str, Any]:
        """Returns the arguments of the wrapper of a layer that is pruned."""
        arguments = self._merged(layer)
        target = arguments.pop("sparsity")
        if target is not None:
            schedule = arguments["pruning_schedule"]
            arguments["pruning_schedule"] = retargeted(schedule, target)
        policy = self._policy_of(layer)
        arguments.setdefault("min_blocks", getattr(policy, "min_blocks", 1))
        return arguments

    def pattern(self, layer: Layer) -> str | None:
        """Returns the "N:M" of a layer, or None if its blocks are pruned."""
        return self._merged(layer).get("pattern")

    def allow_pruning(self, layer: Layer) -> bool:
        """Returns whether a layer with a kernel is pruned."""
        return self._why_left_alone(layer) is None

    def reason(self, layer: Layer) -> str:
        """Returns why a layer with a kernel is left alone."""
        return self._why_left_alone(layer) or ""

    def _why_left_alone(self, layer: Layer) -> str | None:
        key = most_specific(self._layers, layer)
        if key is not None and self._layers[key] is None:
            return "`layers` gives it None"
        arguments = self._merged(layer)
        without = why_not_divided(layer, arguments.get("block_size"))
        # The user asked for this one layer, so its wrapper raises.
        if without is not None and not self._is_single:
            return without
        policy = self._policy_of(layer)
        if policy is not None and not policy.allow_pruning(layer):
            reason = getattr(policy, "reason", None)
            return reason(layer) if reason else f"left out by {type(policy).__name__}"
        return "its `sparsity` is 0" if arguments["sparsity"] == 0 else None

    def _merged(self, layer: Layer) -> dict[str, Any]:
        """The arguments for all layers, overridden by those for one layer."""
        key = most_specific(self._layers, layer)
        own = self._layers[key] if key is not None else None
        target = self.targets.get(layer.name)
        merged = {"sparsity": target, **self._arguments, **(own or {})}
        # A pattern replaces blocks, and blocks replace a pattern.
        if own and own.get("pattern") and "block_size" not in own:
            merged.pop("block_size", None)
        elif own and own.get("block_size") and "pattern" not in own:
            merged.pop("pattern", None)
        return merged

    def _policy_of(self, layer: Layer) -> PruningPolicy | None:
        if self._policy is not None or self._is_single:
            return self._policy
        merged = self._merged(layer)
        return MinimumBlocks((1, 1) if merged.get("pattern") else merged["block_size"])


def most_specific(keys: Collection[Key], layer: Layer) -> Key | None:
    """Returns the key that a layer follows: its name, a glob of it, or a class.

    Args:
      keys: names, globs and classes. Of several globs, or classes, the first one wins.
      layer: any.

    Returns:
      One of the keys, or None if none of them matches.

    Example:

    >>> layer = keras.layers.Dense(8, name="head_1")
    >>> most_specific([keras.layers.Dense, "head_*"], layer)
    'head_*'
    """
    if layer.name in keys:
        return layer.name
    texts = [key for key in keys if isinstance(key, str)]
    kinds = [key for key in keys if isinstance(key, type)]
    globs = [key for key in texts if fnmatch.fnmatchcase(layer.name, key)]
    matching = globs + [kind for kind in kinds if isinstance(layer, kind)]
    return matching[0] if matching else None


def check_layers(
    layers: Mapping[Key, Options | None],
    to_prune: Layer | Sequence[Layer],
    options: LayerOptions,
) -> None:
    """Checks the user's `layers` against the layers that can be pruned.

    Args:
      layers: a mapping from names, globs and classes to options or None.
      to_prune: a layer, a list of layers or a model.
      options: made with `layers`.

    Raises:
      ValueError: for anything but such a mapping, an unknown option, or a key that
        matches no pruned layer. The message gives similar names, or the reason.
    """
    if not isinstance(layers, Mapping):
        raise ValueError(
            "`layers` must map names, globs or classes of layers to their options, "
            'such as {"dense_*": {"block_size": (8, 8)}, "head": None}. Received: '
            f"layers={layers!r}"
        )
    for key, own in layers.items():
        _check_entry(key, own)
    items = to_prune if isinstance(to_prune, (list, tuple)) else [to_prune]
    present = [layer for item in items for layer in sublayers(item)]
    with_kernel = list(prunable_layers(to_prune, None))
    for key, own in layers.items():
        found = [layer for layer in with_kernel if most_specific([key], layer)]
        left_alone = [layer for layer in found if not options.allow_pruning(layer)]
        if found and (own is None or len(left_alone) < len(found)):
            continue
        if left_alone:
            first = left_alone[0]
            why = f"only layers that are left alone, such as {first.name!r}: "
            why += options.reason(first)
        else:
            why = _why_no_kernel(key, present, with_kernel)
        raise ValueError(f"`layers` has a key {_shown(key)}, which matches {why}.")


def _check_entry(key: Any, own: Any) -> None:
    if not isinstance(key, str) and not (
        isinstance(key, type) and issubclass(key, LAYERS)
    ):
        raise ValueError(
            "A key of `layers` must be the name of a layer, a glob such as 'dense_*' or"
            f" a class of layers. Received: {key!r}"
        )
    if own is not None and not isinstance(own, Mapping):
        raise ValueError(
            "A value of `layers` must be None, for layers to be left alone, or a "
            f"mapping of options. Received: layers[{_shown(key)}]={own!r}"
        )
    for name in own or ():
        if name not in OPTIONS:
            close = difflib.get_close_matches(str(name), OPTIONS, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else "."
            raise ValueError(
                f"`layers` gives {_shown(key)} an unknown option {name!r}{hint} "
                f"There are {', '.join(OPTIONS)}."
            )
    target = (own or {}).get("sparsity")
    if target is not None and not 0.0 <= target < 1.0:
        raise ValueError(
            "`sparsity` of a layer must be the share of blocks to remove, in [0, 1). "
            f"Received: layers[{_shown(key)}]['sparsity']={target!r}"
        )


def _why_no_kernel(key: Key, present: list[Layer], with_kernel: list[Layer]) -> str:
    """Describes what a key matches, if it matches no layer with a kernel."""
    other = [layer for layer in present if most_specific([key], layer)]
    if other:
        first = other[0]
        is_wrapped = isinstance(first, PrunableLayer)
        reason = "it is pruned already" if is_wrapped else why_unprunable(first)
        reason = reason or "it is a part of another layer, or a model"
        return f"no layer to prune; {first.name!r}: {reason}"
    names = [layer.name for layer in with_kernel]
    close = difflib.get_close_matches(str(key), names, n=3) or names[:5]
    return f"no layer; the model has {', '.join(map(repr, close))}"


def _shown(key: Key) -> str:
    return key.__name__ if isinstance(key, type) else repr(key)
