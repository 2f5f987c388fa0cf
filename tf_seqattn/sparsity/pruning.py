"""Wrapping layers and models for pruning."""

import logging

from tf_seqattn import tfmot_api
from tf_seqattn.keras_api import (
    METRICS,
    MODELS,
    REGISTERED,
    check_layer,
    check_one_keras,
    classes,
    custom_object_scope,
    is_graph_model,
    keras,  # noqa: F401  (the example)
    sublayers,
    submodules,
    uncompile,
)
from tf_seqattn.kernels.layer_kernels import why_not_divided
from tf_seqattn.model_editing import clone, replace_sublayers
from tf_seqattn.sparsity.allocation import check_targets, retargeted
from tf_seqattn.sparsity.policies import MinimumBlocks, why_unprunable
from tf_seqattn.sparsity.wrapper import PrunableLayer

logger = logging.getLogger("tf_seqattn")

# How many layers a line of the log names.
_NAMES_SHOWN = 5


def prune_scope():
    """Returns a scope in which pruned models load.

    The classes are registered with Keras, so that loading works without it once
    tf_seqattn is imported; it stands beside tfmot's function of the same name.

    Example:

    >>> with prune_scope():
    ...     model = keras.models.load_model("pruned.keras")  # doctest: +SKIP
    """
    return custom_object_scope(REGISTERED)


def _check_not_pruned(model):
    for layer in submodules(model):
        if isinstance(layer, PrunableLayer):
            raise ValueError(
                f"{model.name!r} is pruned already (layer {layer.name!r}). Use it as "
                "it is, or `sa.strip_pruning(model)` first to prune it anew."
            )
        if tfmot_api.is_wrapper(layer):
            raise ValueError(
                f"{model.name!r} holds a layer pruned by tfmot ({layer.name!r}). Use "
                "tfmot's `strip_pruning` first, or prune the plain model."
            )


class _Pruning:
    """One call of `prune`: wraps layers, each once, and notes those left alone."""

    def __init__(self, policy, wrapper_arguments, targets):
        self.policy = policy
        self.wrapper_arguments = wrapper_arguments
        self.targets = targets
        self.left_alone: dict[str, str] = {}
        # Those of them that hold a matrix, so that one may wonder.
        self.left_with_kernel: list[str] = []
        self.wrapped = 0
        self._done: dict[int, tuple] = {}

    def __call__(self, layer):
        """Returns what stands in the place of `layer`; the same for the same layer."""
        if id(layer) not in self._done:
            # The layer is kept beside its successor so that its id stays taken.
            self._done[id(layer)] = (layer, self._visit(layer))
        return self._done[id(layer)][1]

    def _visit(self, layer):
        if isinstance(layer, classes("InputLayer")):
            return layer.__class__.from_config(layer.get_config())
        if is_graph_model(layer):
            return clone(layer, self)
        if isinstance(layer, MODELS):
            replace_sublayers(layer, self)
            return layer
        reason = why_unprunable(layer)
        if reason is None:
            return self._wrap(layer)
        if len(sublayers(layer)) > 1 and not isinstance(layer, classes("Wrapper")):
            replace_sublayers(layer, self)
        else:
            self._leave(layer, reason)
        return layer

    def _wrap(self, layer):
        without = why_not_divided(layer, self.wrapper_arguments["block_size"])
        if without is not None:
            self._leave(layer, without)
            return layer
        if not self.policy.allow_pruning(layer):
            reason = getattr(self.policy, "reason", None)
            default = f"left out by {type(self.policy).__name__}"
            self._leave(layer, reason(layer) if reason else default)
            return layer
        if self.targets.get(layer.name) == 0:
            self._leave(layer, "`sparsity` gives it 0")
            return layer
        self.wrapped += 1
        arguments = _with_target(self.wrapper_arguments, layer, self.targets)
        return PrunableLayer(layer, **arguments)

    def _leave(self, layer, reason: str):
        self.left_alone[layer.name] = reason
        if any(len(weight.shape) > 1 for weight in layer.weights):
            self.left_with_kernel.append(layer.name)

    def report(self):
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


def _with_target(arguments: dict, layer, targets: dict[str, float]) -> dict:
    """The wrapper's arguments, with the layer's own target in the schedule."""
    if layer.name not in targets:
        return arguments
    schedule = retargeted(arguments["pruning_schedule"], targets[layer.name])
    return {**arguments, "pruning_schedule": schedule}


def _check_built(model):
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


def prune(
    to_prune,
    pruning_schedule,
    block_size=(16, 16),
    importance=None,
    pruning_policy=None,
    sparsity=None,
    **kwargs,
):
    """Wraps a layer, a list of layers or a model for pruning.

    Weights are never copied. A Sequential or functional model is rebuilt around the
    same layers; a subclassed model, and a layer inside a custom layer, are changed in
    place. Layers left alone are listed once in the log (logger "tf_seqattn") with
    the reason, and by `sa.summary`. The result has to be compiled.

    With `OneShotSchedule(s, prune_step=0)` a trained model is pruned at once, without
    training: follow it by `strip_pruning`.

    Under `tf.distribute`, call it inside `strategy.scope()`.

    Args:
      to_prune: a layer, a list of layers, or a Sequential, functional, nested
        or subclassed model. A subclassed model must be built.
      pruning_schedule: when: a `PruningSchedule` of tf_seqattn or tfmot.
      block_size: (rows, columns) of a block: inputs by outputs. None stands for all of
        an axis, and "heads" in place of the pair for whole heads of attention layers:
        see `PrunableLayer`.
      importance: what to score, `SoftmaxAttention()` by default.
      pruning_policy: where: an object with tfmot's `allow_pruning(layer)`. By default
        a kernel of fewer than 100 blocks (2 heads) is left alone (appendix C.1). A
        single layer is wrapped whatever its size unless a policy is given.
      sparsity: how much of single layers: a mapping from names of layers to the
        target sparsity that each has in place of the schedule's, such as
        `erdos_renyi_allocation` returns. Layers that it does not name follow the
        schedule as it is (the paper's uniform sparsity); those given 0 are left alone.
      **kwargs: further arguments of `PrunableLayer`, such as `balanced=True`: every
        column of blocks keeps equally many, which packs best (`sa.pack`), or
        `pattern="2:4"`: single entries in place of blocks, 2 of every 4 inputs.

    Returns:
      The wrapped layer, list or model: the same object for a subclassed model.

    Raises:
      ValueError: for anything that is none of Keras, is pruned already or is an
        unbuilt subclassed model; for a name in `sparsity` that no pruned layer has;
        and what `PrunableLayer` raises.

    Example:

    >>> from tf_seqattn.sparsity import SequentialAttentionSchedule, pruned_layers
    >>> model = keras.Sequential([keras.layers.Dense(64, input_shape=(64,))])
    >>> schedule = SequentialAttentionSchedule(0.9, end_step=1000)
    >>> pruned = prune(model, schedule, block_size=(4, 4))
    >>> pruned_layers(pruned)[0].pruned_kernels[0].grid.num_blocks
    256
    """
    arguments = {
        "pruning_schedule": pruning_schedule,
        "block_size": block_size,
        "importance": importance,
        **kwargs,
    }
    is_list = isinstance(to_prune, (list, tuple))
    for item in to_prune if is_list else [to_prune]:
        check_layer(item, "to_prune")
        _check_not_pruned(item)
    check_one_keras(to_prune if is_list else [to_prune], "to_prune")
    is_model = isinstance(to_prune, MODELS)
    is_one = not is_list and not is_model and why_unprunable(to_prune) is None
    default = MinimumBlocks((1, 1) if kwargs.get("pattern") else block_size)
    targets = {}
    if sparsity is not None:
        everywhere = pruning_policy or (None if is_one else default)
        targets = check_targets(sparsity, to_prune, everywhere)
    if is_one:
        if pruning_policy is None or pruning_policy.allow_pruning(to_prune):
            return PrunableLayer(to_prune, **_with_target(arguments, to_prune, targets))
    if not is_list and not is_model and len(sublayers(to_prune)) == 1:
        if pruning_policy is None:
            PrunableLayer(to_prune, **arguments)  # Raises, naming the layer.
    policy = pruning_policy or default
    arguments.setdefault("min_blocks", getattr(policy, "min_blocks", 1))
    pruning = _Pruning(policy, arguments, targets)
    if is_list:
        result = [pruning(layer) for layer in to_prune]
    else:
        if is_model:
            policy.ensure_model_supports_pruning(to_prune)
        if is_model and not is_graph_model(to_prune):
            _check_built(to_prune)
            uncompile(to_prune)
        result = pruning(to_prune)
    pruning.report()
    return result
