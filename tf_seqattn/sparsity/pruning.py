"""Wrapping layers and models for pruning."""

import contextlib
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from tf_seqattn import tfmot_api
from tf_seqattn.keras_api import (
    METRICS,
    MODELS,
    REGISTERED,
    Layer,
    Model,
    arrays_of,
    check_layer,
    check_one_keras,
    classes,
    custom_object_scope,
    is_graph_model,
    sublayers,
    submodules,
    uncompile,
)
from tf_seqattn.kernels.layer_kernels import BlockSize
from tf_seqattn.model_editing import clone, replace_sublayers
from tf_seqattn.sparsity.allocation import check_targets
from tf_seqattn.sparsity.channel_pruning import is_channels, prune_channels
from tf_seqattn.sparsity.importance import Importance
from tf_seqattn.sparsity.layer_options import Key, LayerOptions, Options, check_layers
from tf_seqattn.sparsity.policies import PruningPolicy, why_unprunable
from tf_seqattn.sparsity.wrapper import PrunableLayer
from tf_seqattn.tfmot_api import Schedule

logger = logging.getLogger("tf_seqattn")

# How many layers a line of the log names.
_NAMES_SHOWN = 5


def prune_scope() -> contextlib.AbstractContextManager[None]:
    """Returns a scope in which pruned models load.

    Loading works without it once tf_seqattn is imported, since that registers the
    classes with Keras. It is here because tfmot has a function of that name.

    Example:

    >>> with prune_scope():
    ...     model = keras.models.load_model("pruned.keras")  # doctest: +SKIP
    """
    return custom_object_scope(REGISTERED)


def _check_not_pruned_by_tfmot(model: Model) -> None:
    for layer in submodules(model):
        if tfmot_api.is_wrapper(layer):
            raise ValueError(
                f"{model.name!r} holds a layer pruned by tfmot ({layer.name!r}). Use "
                "tfmot's `strip_pruning` first, or prune the plain model."
            )


class _Pruning:
    """One call of `prune`: wraps each layer once and notes those left alone."""

    def __init__(self, options: LayerOptions) -> None:
        self.options = options
        self.left_alone: dict[str, str] = {}
        # Those of them that hold a matrix, where users may wonder why.
        self.left_with_kernel: list[str] = []
        self.wrapped = 0
        self._done: dict[int, tuple[Layer, Layer]] = {}

    def __call__(self, layer: Layer) -> Layer:
        """Returns the replacement of `layer`, the same one in every call."""
        if id(layer) not in self._done:
            # The layer is kept beside its successor so that its id stays taken.
            self._done[id(layer)] = (layer, self._visit(layer))
        return self._done[id(layer)][1]

    def _visit(self, layer: Layer) -> Layer:
        if isinstance(layer, PrunableLayer):
            self.wrapped += 1
            return layer
        if isinstance(layer, classes("InputLayer")):
            return layer.__class__.from_config(layer.get_config())
        if is_graph_model(layer):
            return clone(layer, self)
        if isinstance(layer, MODELS):
            replace_sublayers(layer, self)
            return layer
        reason = why_unprunable(layer, self.options.pattern(layer))
        if reason is None:
            return self._wrap(layer)
        if len(sublayers(layer)) > 1 and not isinstance(layer, classes("Wrapper")):
            replace_sublayers(layer, self)
        else:
            self._leave(layer, reason)
        return layer

    def _wrap(self, layer: Layer) -> Layer:
        if not self.options.allow_pruning(layer):
            self._leave(layer, self.options.reason(layer))
            return layer
        self.wrapped += 1
        return PrunableLayer(layer, **self.options.arguments(layer))

    def _leave(self, layer: Layer, reason: str) -> None:
        self.left_alone[layer.name] = reason
        if any(len(weight.shape) > 1 for weight in arrays_of(layer)):
            self.left_with_kernel.append(layer.name)

    def report(self) -> None:
        """Lists the layers left alone: in one line, and the reasons at INFO."""
        lines = "".join(f"\n  {n}: {why}" for n, why in self.left_alone.items())
        if self.left_alone and not self.wrapped:
            logger.warning("Nothing is pruned by sa.prune:%s", lines)
            return
        if self.left_with_kernel:
            first = ", ".join(self.left_with_kernel[:_NAMES_SHOWN])
            more = len(self.left_with_kernel) - _NAMES_SHOWN
            logger.warning(
                "sa.prune wrapped %d layers and left %d with a kernel alone (%s). "
                "sa.summary(model) says why.",
                self.wrapped,
                len(self.left_with_kernel),
                f"{first} and {more} more" if more > 0 else first,
            )
        if self.left_alone:
            logger.info("Layers left alone by sa.prune:%s", lines)


def _check_built(model: Model) -> None:
    unbuilt = [
        layer.name
        for layer in sublayers(model)
        if layer is not model
        and not layer.built
        and not isinstance(layer, MODELS + METRICS)
        and why_unprunable(layer) is None
    ]
    if unbuilt or not (model.built or model.weights):
        listed = f" (layers {', '.join(unbuilt)})" if unbuilt else ""
        raise ValueError(
            f"Subclassed model {model.name!r} is not built{listed}, so its kernels "
            "have no shapes yet. Call it once on a batch, `model(batch)`, before "
            "`sa.prune`."
        )


def _check_not_given(choices: Mapping[str, Any]) -> None:
    """Raises for arguments that choose layers: channels are those of several."""
    for name, value in choices.items():
        if value is not None:
            raise ValueError(
                f'`{name}` chooses single layers, but block_size="channels" prunes '
                "groups of channels that several layers share. Leave it out. "
                f"Received: {name}={value!r}"
            )


def prune(
    to_prune: Layer | Sequence[Layer],
    pruning_schedule: Schedule,
    block_size: BlockSize = (16, 16),
    importance: Importance | None = None,
    pruning_policy: PruningPolicy | None = None,
    sparsity: Mapping[str, float] | None = None,
    layers: Mapping[Key, Options | None] | None = None,
    **kwargs: Any,
) -> Any:
    """Wraps a layer, a list of layers or a model for pruning.

    Weights are never copied. A Sequential or functional model is rebuilt around the
    same layers; a subclassed model, and a layer inside a custom layer, are changed in
    place. Layers left alone are listed once in the log (logger "tf_seqattn") with
    the reason, and by `sa.summary`. The result has to be compiled.

    With `OneShotSchedule(s, prune_step=0)` a trained model is pruned at once, without
    training: follow it by `strip_pruning`.

    A layer that is wrapped already stays as it is. So several calls can make different
    choices for different layers; `layers` does the same in one call.

    Under `tf.distribute`, call it inside `strategy.scope()`.

    Args:
      to_prune: a layer, a list of layers, or a Sequential, functional, nested
        or subclassed model. A subclassed model must be built.
      pruning_schedule: when to prune: a `PruningSchedule` of tf_seqattn or tfmot.
      block_size: (rows, columns) of a block: inputs by outputs. None stands for all of
        an axis. "heads" in place of the pair stands for whole heads of attention
        layers: see `PrunableLayer`. "channels" stands for whole channels, each with all
        that are coupled to it: see `channel_groups`. The share of the schedule is then
        one of the units of each group, whose attention multiplies every kernel that
        reads the unit. `sa.shrink` removes them afterwards.
      importance: what to score, `SoftmaxAttention()` by default.
      pruning_policy: where to prune: an object with tfmot's `allow_pruning(layer)`. By
        default a kernel of fewer than 100 blocks (2 heads) is left alone (appendix
        C.1). Without a policy, a single layer is wrapped whatever its size.
      sparsity: how much to prune in single layers: a mapping from names of layers to
        the target sparsity that replaces the schedule's, such as
        `erdos_renyi_allocation` returns. Layers that it does not name follow the
        schedule as it is (the paper's uniform sparsity). Layers given 0 are left alone.
      layers: the choices for single layers, in place of those for all. It maps the name
        of a layer, a glob of names or a class to a mapping of arguments of
        `PrunableLayer` and `sparsity`, or to None for layers to leave alone, such as
        `{"dense_*": {"block_size": (8, 8)}, keras.layers.Conv2D: {"importance":
        sa.Magnitude()}, "head": None}`. A layer follows one key only: its name before a
        glob, and a glob before a class. Of several globs, or classes, the first one
        counts. `layers` takes precedence over `sparsity`.
      **kwargs: further arguments of `PrunableLayer`. With `balanced=True` every column
        of blocks keeps equally many, which packs best (`sa.pack`). With `pattern="2:4"`
        single entries are pruned in place of blocks: 2 of every 4 inputs stay. With
        `block_size="channels"` there are three others. `round_to` (8): the number of
        units that stay is a multiple of it, except in groups of less than twice as
        many. `target_flops` (None): the share of the multiply-adds to keep, in place of
        the schedule's target; groups then lose the same share, but for one step of
        `round_to`. `target_parameters` (None): likewise of the weights. For a share of
        the time, see `sa.share_for_latency`.

    Returns:
      The wrapped layer, list or model: the same object for a subclassed model.

    Raises:
      ValueError: for anything but layers and models of Keras, a model pruned by tfmot
        or an unbuilt subclassed model; for a name in `sparsity`, or a key in `layers`,
        that matches no pruned layer; for an unknown option in `layers`; and whenever
        `PrunableLayer` raises one.

    Example:

    >>> from tf_seqattn.sparsity import SequentialAttentionSchedule, pruned_layers
    >>> model = keras.Sequential([keras.layers.Dense(64, input_shape=(64,))])
    >>> schedule = SequentialAttentionSchedule(0.9, end_step=1000)
    >>> pruned = prune(model, schedule, block_size=(4, 4))
    >>> pruned_layers(pruned)[0].pruned_kernels[0].grid.num_blocks
    256
    """
    if is_channels(block_size):
        given = {"pruning_policy": pruning_policy, "sparsity": sparsity}
        _check_not_given({**given, "layers": layers})
        check_layer(to_prune, "to_prune")
        return prune_channels(to_prune, pruning_schedule, importance, **kwargs)
    arguments = {
        "pruning_schedule": pruning_schedule,
        "block_size": block_size,
        "importance": importance,
        **kwargs,
    }
    is_list = isinstance(to_prune, (list, tuple))
    for item in to_prune if is_list else [to_prune]:
        check_layer(item, "to_prune")
        _check_not_pruned_by_tfmot(item)
    check_one_keras(to_prune if is_list else [to_prune], "to_prune")
    is_model = isinstance(to_prune, MODELS)
    if isinstance(to_prune, PrunableLayer):
        return to_prune
    is_one = not is_list and not is_model
    is_one = is_one and why_unprunable(to_prune, kwargs.get("pattern")) is None
    options = LayerOptions(arguments, pruning_policy, layers, is_single=is_one)
    if layers is not None:
        check_layers(layers, to_prune, options)
    if sparsity is not None:
        options.targets = check_targets(sparsity, to_prune, options)
    is_leaf = not is_list and not is_model and len(sublayers(to_prune)) == 1
    if is_leaf and not is_one and pruning_policy is None:
        # Nothing to prune: a wrapper that says so, or an error if the class is unknown.
        wrapper = PrunableLayer(to_prune, **arguments)
        reason = why_unprunable(to_prune)
        logger.warning("Nothing is pruned by sa.prune: %s", reason)
        return wrapper
    pruning = _Pruning(options)
    if is_list:
        result = [pruning(layer) for layer in to_prune]
    else:
        if is_model:
            (pruning_policy or options).ensure_model_supports_pruning(to_prune)
        if is_model and not is_graph_model(to_prune):
            _check_built(to_prune)
            uncompile(to_prune)
        result = pruning(to_prune)
    pruning.report()
    return result
