"""Packs a model: each layer becomes dense or packed, whichever is faster."""

import collections
import logging
from collections.abc import Callable, Sequence, Set
from typing import Any

from tf_seqattn import tfmot_api
from tf_seqattn.inference.batch_norm import followers
from tf_seqattn.inference.dead_channels import without_dead_channels
from tf_seqattn.inference.latency import measure_speedup
from tf_seqattn.inference.layer_plan import (
    FORM_OF_RUNTIME,
    LayerPlan,
    is_packable_kind,
    num_samples,
    packed_layer,
    plan_kernel,
    product_kernel,
)
from tf_seqattn.inference.packed_layers import (
    KINDS,
    PackedLayer,
    PackedMultiHeadAttention,
)
from tf_seqattn.inference.unpacked import unpacked_plans
from tf_seqattn.keras_api import (
    MODELS,
    build_like,
    check_layer,
    classes,
    is_graph_model,
    is_keras_class,
    keras_of,
    projections,
    sublayers,
    uncompile,
)
from tf_seqattn.kernels.blocks import check_block_size
from tf_seqattn.model_editing import (
    clone,
    copy_layer,
    replace_sublayers,
    set_layer,
)
from tf_seqattn.sparsity import pruned_layers, strip_pruning
from tf_seqattn.text_table import print_table

logger = logging.getLogger("tf_seqattn")

CHOICES = ("model", "measure", "always")


def stripped(model: Any, argument: str = "model") -> Any:
    """The model without pruning wrappers, or an error that says what to do.

    Raises:
      ValueError: if it is not a layer or model of Keras, still has tfmot's wrappers, or
        is a subclassed model that was never called.
    """
    check_layer(model, argument)
    for layer in sublayers(model):
        if tfmot_api.is_wrapper(layer):
            raise ValueError(
                f"Layer {layer.name!r} is still wrapped by tfmot. Strip the model with "
                "tfmot.sparsity.keras.strip_pruning first."
            )
    if pruned_layers(model):
        model = strip_pruning(model)
    if not model.built:
        raise ValueError(
            f"Model {model.name!r} is not built, so its kernels do not exist yet. Call "
            "it once on a batch, `model(batch)`."
        )
    return model


class _Packing:
    """One call of `pack`: plans every kernel, and replaces the layers that gain."""

    def __init__(
        self,
        block_size: Sequence[int | None] | None,
        batch_size: int,
        runtime: str,
        choose: str,
        num_threads: int,
        quantization: str | None,
    ) -> None:
        self.block_size = block_size
        self.batch_size = batch_size
        self.runtime = runtime
        self.trainable = runtime == "training"
        self.choose = choose
        self.num_threads = num_threads
        self.quantization = quantization
        self.plans: list[LayerPlan] = []
        # What is to be said of layers that lost channels, by id.
        self.removed: dict[int, str] = {}
        self._weights: list[tuple[Any, Any, Any]] = []
        self._done: dict[int, tuple[Any, Any]] = {}
        self._measured: dict[tuple[Any, ...], float] = {}
        # Batch normalizations by the id of the layer before them, and the reverse.
        self._norms: dict[int, Any] = {}
        self._before_norm: dict[int, Any] = {}
        # Ids of layers in several graphs.
        self.shared: Set[int] = frozenset()

    # Plans.

    def _plan(
        self,
        layer: Any,
        name: str,
        samples: int | None = None,
        owner: Any = None,
    ) -> LayerPlan:
        plan = plan_kernel(
            layer,
            name,
            self.block_size,
            self.batch_size,
            samples,
            self.quantization or "float32",
            self.num_threads,
            self.trainable,
        )
        self.plans.append(plan)
        self._choose_layout(layer, plan)
        removed = self.removed.get(id(owner or layer), "")
        plan.reason = "; ".join(filter(None, (removed, plan.reason)))
        return plan

    def _choose_layout(self, layer: Any, plan: LayerPlan) -> None:
        if plan.pattern is None:
            return
        if self.choose == "measure":
            key = (plan.samples, plan.pattern, type(layer), layer.activation)
            if key not in self._measured:
                self._measured[key] = measure_speedup(layer, plan, self.runtime)
            plan.measured = self._measured[key]
            faster = plan.measured > 1
        else:
            faster = self.choose == "always" or plan.layout == "packed"
        how = "was measured" if self.choose == "measure" else "is expected"
        plan.layout = "packed" if faster else "dense"
        plan.reason = "" if faster else f"dense {how} to be faster"

    def _packed(self, layer: Any, plan: LayerPlan) -> Any:
        form, norm = FORM_OF_RUNTIME[self.runtime], self._norms.get(id(layer))
        packed, weights = packed_layer(layer, plan, form, norm)
        packed.build()
        packed.set_weights(weights)
        if hasattr(layer, "_batch_input_shape"):
            packed._batch_input_shape = layer._batch_input_shape
        return packed

    def _repacked(self, layer: PackedLayer) -> PackedLayer:
        """The same layer in the form that the runtime needs."""
        self.plans.append(
            LayerPlan(
                layer.name,
                layer.pattern.matrix_shape,
                layer.pattern.block_size,
                layer.pattern.density,
                "packed",
                "it was trained on its kept blocks",
            )
        )
        form = FORM_OF_RUNTIME[self.runtime]
        if layer.pattern.reads_alike and not self.trainable:
            form = "slices"
        packed = type(layer).from_config({**layer.get_config(), "form": form})
        packed.build()
        bias = None if layer.bias is None else layer.bias.numpy()
        weights = packed.weights_from(layer.matrix(), bias)
        # Only a separable convolution has others, before these.
        others = len(layer.get_weights()) - len(layer.kernels) - (bias is not None)
        packed.set_weights([*layer.get_weights()[:others], *weights])
        return packed

    def _attention_plans(self, layer: Any) -> dict[str, LayerPlan]:
        return {
            name: self._plan(dense, f"{layer.name}/{name}", owner=layer)
            for name, dense in projections(layer).items()
        }

    # A layer of a new graph.

    def __call__(self, layer: Any) -> Any:
        """The layer that replaces `layer` in a copy of its model."""
        if id(layer) not in self._done:
            # The tuple keeps the layer alive, so that no other layer gets its id.
            self._done[id(layer)] = (layer, self._visit(layer))
        return self._done[id(layer)][1]

    def _visit(self, layer: Any) -> Any:
        if is_graph_model(layer):
            return self._cloned(layer)
        if isinstance(layer, classes("MultiHeadAttention")):
            return self._copied_attention(layer)
        if isinstance(layer, PackedLayer) and layer.form == "training":
            return self._repacked(layer)
        before = self._before_norm.get(id(layer))
        if before is not None and isinstance(self(before), PackedLayer):
            return keras_of(layer).layers.Activation("linear", name=layer.name)
        if is_packable_kind(layer):
            samples = num_samples(layer, self.batch_size)
            plan = self._plan(layer, layer.name, samples)
            if plan.layout == "packed":
                return self._packed(layer, plan)
        else:
            self.plans += unpacked_plans(layer)
        copy = copy_layer(layer)
        if copy is None:
            # It cannot be copied, so both models share it.
            return layer
        self._weights.append((copy, layer, layer.get_weights()))
        return copy

    def _cloned(self, model: Any) -> Any:
        """A copy of a graph model."""
        if self.trainable:
            return clone(model, self)
        norms = followers(model, self.shared)
        self._norms |= norms
        for layer in model.layers:
            if id(layer) in norms and is_packable_kind(layer):
                self._before_norm[id(norms[id(layer)])] = layer
        return clone(model, self)

    def _copied_attention(self, layer: Any) -> Any:
        plans = self._attention_plans(layer)
        packed = {}
        weights = {}
        for name, plan in plans.items():
            dense = projections(layer)[name]
            if plan.layout == "packed":
                form = FORM_OF_RUNTIME[self.runtime]
                projection, values = packed_layer(dense, plan, form)
                packed[name], weights[name] = projection.get_config(), values
            else:
                weights[name] = dense.get_weights()
        if packed:
            kind = KINDS[PackedMultiHeadAttention][keras_of(layer)]
            copy = kind.from_config({**layer.get_config(), "packed": packed})
        else:
            copy = copy_layer(layer)
        self._weights.append((copy, layer, weights))
        return copy

    def finish(self) -> None:
        """Gives the copies their weights, and packs the layers inside custom layers."""
        for layer, original, weights in self._weights:
            build_like(layer, original)
            if isinstance(weights, dict):
                for name, values in weights.items():
                    projections(layer)[name].set_weights(values)
                continue
            if weights:
                layer.set_weights(weights)
            if len(sublayers(layer)) > 1 and not _is_keras_class(layer):
                replace_sublayers(layer, self.in_place)

    # A layer held by an attribute.

    def in_place(self, layer: Any) -> Any:
        """The layer that replaces `layer` in the attribute of its owner."""
        if id(layer) not in self._done:
            self._done[id(layer)] = (layer, self._visit_in_place(layer))
        return self._done[id(layer)][1]

    def _visit_in_place(self, layer: Any) -> Any:
        if is_graph_model(layer):
            return self._cloned(layer)
        if isinstance(layer, classes("MultiHeadAttention")):
            for name, plan in self._attention_plans(layer).items():
                if plan.layout == "packed":
                    packed = self._packed(projections(layer)[name], plan)
                    set_layer(layer, f"_{name}_dense", packed)
        elif isinstance(layer, PackedLayer) and layer.form == "training":
            return self._repacked(layer)
        elif is_packable_kind(layer):
            plan = self._plan(layer, layer.name)
            if plan.layout == "packed":
                return self._packed(layer, plan)
        else:
            self.plans += unpacked_plans(layer)
            if len(sublayers(layer)) > 1 and not _is_keras_class(layer):
                replace_sublayers(layer, self.in_place)
        return layer


def _is_keras_class(layer: Any) -> bool:
    """Whether the class is one of Keras itself, whose attributes we do not touch."""
    return is_keras_class(type(layer)) and not isinstance(layer, MODELS)


def _size(layer: Any) -> str:
    if isinstance(layer, classes("MultiHeadAttention")):
        return f"{layer.get_config()['num_heads']} heads"
    kernel = product_kernel(layer) if is_packable_kind(layer) else None
    return "" if kernel is None else " x ".join(map(str, kernel.shape))


def _removed(model: Any, smaller: Any) -> dict[int, str]:
    """What each layer of a smaller model was before, by its id."""
    pairs = zip(sublayers(model), sublayers(smaller), strict=True)
    sizes = ((new, _size(old), _size(new)) for old, new in pairs)
    return {id(new): f"was {before}" for new, before, now in sizes if before != now}


def _check_positive(argument: str, value: int, what: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(
            f"`{argument}` must be a positive integer: {what}. "
            f"Received: {argument}={value!r}"
        )
    if value < 1:
        raise ValueError(
            f"`{argument}` must be at least 1. Received: {argument}={value}"
        )


def _check_arguments(
    block_size: Sequence[int | None] | None,
    batch_size: int,
    runtime: str,
    choose: str,
    num_threads: int,
) -> None:
    if block_size is not None:
        check_block_size(block_size)
    _check_positive("batch_size", batch_size, "the samples in one call")
    _check_positive("num_threads", num_threads, "the threads of the runtime")
    if runtime not in FORM_OF_RUNTIME:
        runtimes = sorted(FORM_OF_RUNTIME.keys() - {"training"})
        raise ValueError(
            f"`runtime` must be one of {runtimes}: what will run the "
            f"model. Received: runtime={runtime!r}"
        )
    if choose not in CHOICES:
        raise ValueError(
            f"`choose` must be one of {CHOICES}. Received: choose={choose!r}"
        )


_TITLES = ("layer", "kernel", "blocks", "stored", "layout", "predicted", "measured", "")


def _cells(plan: LayerPlan) -> tuple[str, ...]:
    def ratio(value: float | None) -> str:
        return "" if value is None else f"{value:.2f} x"

    return (
        plan.name,
        " x ".join(map(str, plan.kernel_shape)),
        "" if plan.block_size is None else " x ".join(map(str, plan.block_size)),
        f"{plan.density:.1%}",
        plan.layout,
        ratio(plan.predicted),
        ratio(plan.measured),
        plan.reason,
    )


def print_plans(
    plans: list[LayerPlan], print_fn: Callable[[str], object] = print
) -> None:
    """Prints the plan of each kernel: shape, blocks, density, speed-up."""
    print_table(_TITLES, [_cells(plan) for plan in plans], print_fn)


def pack_with_plans(
    model: Any,
    block_size: Sequence[int | None] | None,
    batch_size: int,
    runtime: str,
    choose: str,
    num_threads: int = 1,
    quantization: str | None = None,
) -> tuple[Any, list[LayerPlan]]:
    """Like `pack` for a file of some precision, but also returns the `LayerPlan`s."""
    _check_arguments(block_size, batch_size, runtime, choose, num_threads)
    model = stripped(model)
    packing = _Packing(
        block_size, batch_size, runtime, choose, num_threads, quantization
    )
    if is_graph_model(model) and not packing.trainable:
        smaller = without_dead_channels(model, block_size)
        if smaller is not model:
            packing.removed = _removed(model, smaller)
            model = smaller
    graphs = [layer for layer in sublayers(model) if is_graph_model(layer)]
    uses = collections.Counter(id(layer) for graph in graphs for layer in graph.layers)
    packing.shared = frozenset(key for key, count in uses.items() if count > 1)
    if is_graph_model(model):
        packed = packing(model)
    else:
        if isinstance(model, MODELS):
            uncompile(model)
        packed = packing.in_place(model)
    packing.finish()
    return packed, packing.plans


def pack(
    model: Any,
    block_size: Sequence[int | None] | None = None,
    batch_size: int = 64,
    runtime: str = "tflite",
    choose: str = "model",
    num_threads: int = 1,
    trainable: bool = False,
    print_fn: Callable[[str], object] = logger.info,
) -> Any:
    """Makes a model that computes on the kept blocks of its kernels only.

    The result is an ordinary Keras model with the same outputs, up to rounding. You can
    save, load, convert and compile it like any other. Dense, Conv1D/2D/3D,
    SeparableConv1D/2D (the pointwise kernel), EinsumDense and the projections of
    MultiHeadAttention are packed if that is faster. All other layers, and kernels
    without blocks of zeros, stay as they are. The blocks are found in the zeros, so any
    tool may have pruned the model.

    A batch normalization right after a packed layer is folded into it, so the result is
    for inference. Channels that pruning made constant, or that nothing reads, are
    removed if one layer (Dense, Conv1D/2D/3D) is the only reader of another. Heads of a
    MultiHeadAttention in a graph that add nothing are removed with all four
    projections. The report gives a reason for kernels with blocks of zeros that cannot
    be packed, such as those of an LSTM.

    With `trainable=True` the model trains on: its gradients, and the slots of its
    optimizer, are those of the kept blocks alone. Training equals training with a mask,
    up to rounding. Nothing is folded or removed then. Pack the result again to deploy
    it.

    A Sequential or functional model is copied. A subclassed model is changed in place,
    and the same object is returned.

    Args:
      model: a built model. If it is still pruned, it is stripped first.
      block_size: (rows, columns) of the blocks. By default they are found in each
        kernel. None in place of a number stands for the whole axis, as in `sa.prune`.
      batch_size: samples in one call, for which the faster layout is chosen. The packed
        model takes any number.
      runtime: the runtime of the result: "tflite" (also for plain TensorFlow) or "xla".
      choose: how to choose the layout of each layer. "model" asks a cost model,
        "measure" times both on this machine, and "always" packs every layer that has
        blocks.
      num_threads: number of threads of the runtime, for which the faster layout is
        chosen. A dense product gains more from threads than a packed one.
      trainable: whether the packed model is to train on. Then `batch_size` is that of
        training, "measure" times training steps, and `runtime` is not used.
      print_fn: called with each line of the report. By default the lines go to the log
        (logger "tf_seqattn", level INFO).

    Returns:
      The packed model, not compiled.

    Raises:
      ValueError: if `model` is not a layer or model of Keras or is not built, or if an
        argument is out of range.

    Example:

    >>> model = keras.Sequential([keras.layers.Dense(64, input_shape=(64,))])
    >>> kernel = np.kron(np.eye(4), np.ones((16, 16)))
    >>> model.set_weights([kernel, np.zeros(64)])
    >>> packed = pack(model, choose="always")
    >>> [weight.shape.as_list() for weight in packed.weights]
    [[4, 16, 16], [64]]
    """
    packed, plans = pack_with_plans(
        model,
        block_size,
        batch_size,
        "training" if trainable else runtime,
        choose,
        num_threads,
    )
    print_plans(plans, print_fn)
    return packed
