"""The one module that knows the differences between Keras 2 and Keras 3.

Keras 2 is `tf_keras`, which tfmot and TFRS use; Keras 3 is `keras`, served on its
TensorFlow backend. An object's class alone decides which of the two it belongs to.
`tf.keras` may mean either, so this module touches neither it nor the environment.
"""

import contextlib
import functools
import re
from collections.abc import Callable, Iterable, Iterator, Set
from typing import Any, NamedTuple, TypeVar

import keras as keras3
import numpy as np
import tensorflow as tf
import tf_keras as keras2
from keras.src import backend as backend3
from keras.src.models.functional import Functional, functional_like_constructor
from tf_keras.src import backend as backend2
from tf_keras.src.engine.keras_tensor import KerasTensor as KerasTensor2

PACKAGE = "tf_seqattn"

# Neither Keras has types that mypy could read. These names say what a value is, of
# either Keras.
Layer = Any
Model = Any
Optimizer = Any
Variable = Any  # a `tf.Variable` or a `keras.Variable`
Library = Any  # the module `tf_keras` or `keras`
Logs = dict[str, Any] | None  # the metrics that a callback gets
# Runs one execution of training on the data of an iterator.
TrainFunction = Callable[[Iterator[Any]], Logs]

_KERAS_OF_PACKAGE = {"tf_keras": keras2, "keras": keras3}


def classes(*names: str) -> tuple[Any, ...]:
    """The layer classes of these names, from every version of Keras that has them.

    Example:

    >>> [kind.__module__.split(".")[0] for kind in classes("Dense")]
    ['tf_keras', 'keras']
    """
    both = [getattr(k.layers, n, None) for n in names for k in (keras2, keras3)]
    return tuple(kind for kind in both if kind is not None)


LAYERS = classes("Layer")
MODELS = (keras2.Model, keras3.Model)
METRICS = (keras2.metrics.Metric, keras3.metrics.Metric)


def keras_of(value: Any) -> Library:
    """The module that the class of `value` comes from: `tf_keras`, `keras` or None."""
    for kind in type(value).__mro__:
        package = kind.__module__.partition(".")[0]
        if package in _KERAS_OF_PACKAGE:
            return _KERAS_OF_PACKAGE[package]
    return None


def is_keras3(value: Any) -> bool:
    """Whether the class of `value` comes from Keras 3."""
    return keras_of(value) is keras3


def is_keras_class(kind: type) -> bool:
    """Whether the class itself, not only a base of it, comes from Keras 2 or 3."""
    return kind.__module__.partition(".")[0] in _KERAS_OF_PACKAGE


# The classes that `register` and `register_pair` registered, by name.
REGISTERED: dict[str, Any] = {}

_Class = TypeVar("_Class", bound=type)


def register(kind: _Class) -> _Class:
    """Class decorator: registers a class of ours, so that either Keras can load it."""
    for library in (keras2, keras3):
        library.saving.register_keras_serializable(PACKAGE)(kind)
    REGISTERED[kind.__name__] = kind
    return kind


def register_pair(kinds: dict[Library, type]) -> dict[Library, type]:
    """Registers one class for each Keras, both under the name of their common base.

    Args:
      kinds: {keras2: class, keras3: class}; both derive first from the base.

    Returns:
      `kinds`.
    """
    for library, kind in kinds.items():
        base = kind.__bases__[0]
        kind.__name__, kind.__qualname__ = base.__name__, base.__qualname__
        library.saving.register_keras_serializable(PACKAGE)(kind)
        REGISTERED[kind.__name__] = kinds
    return kinds


def register_for_both(base: type) -> dict[Library, type]:
    """Makes and registers a layer class for each Keras: `base`, then its `Layer`."""
    return register_pair(
        {
            library: type(base.__name__, (base, library.layers.Layer), {})
            for library in (keras2, keras3)
        }
    )


# The class of each Keras adds the real base, its own `Wrapper`; mypy needs to know no
# more than that there is one.
_SomeLayer: Any = object


class OfEitherKeras(_SomeLayer):
    """Base of a wrapper whose Keras is that of the layer it holds.

    `Wrapper(layer)` makes an instance of the class that `register_pair` has for it.
    """

    def __new__(
        cls, layer: Layer | None = None, *args: Any, **kwargs: Any
    ) -> "OfEitherKeras":
        if not issubclass(cls, LAYERS):
            check_layer(layer, "layer")
            cls = REGISTERED[cls.__name__][keras_of(layer)]
        return super().__new__(cls, layer, *args, **kwargs)


def registered_object(name: str) -> Any:
    """The class registered with either Keras under `name`, or None."""
    for library in (keras2, keras3):
        found = library.saving.get_registered_object(name)
        if found is not None:
            return found
    return None


@contextlib.contextmanager
def custom_object_scope(objects: dict[str, Any]) -> Iterator[None]:
    """A scope in which both versions of Keras find classes by their names.

    Args:
      objects: {name: class}, or the pair of classes that `register_pair` returned.
    """
    with contextlib.ExitStack() as stack:
        for library in (keras2, keras3):
            own = {
                name: found[library] if isinstance(found, dict) else found
                for name, found in objects.items()
            }
            stack.enter_context(library.saving.custom_object_scope(own))
        yield


# Checks of what a user passes.


def check_layer(value: Any, argument: str) -> None:
    """Raises a clear error unless `value` is a layer or model of one Keras.

    Args:
      value: what a user passed.
      argument: name of the argument, for the message.

    Raises:
      ValueError: for a class instead of an instance, a model that holds layers of the
        other Keras, Keras 3 on another backend than TensorFlow, or anything else.
    """
    if not isinstance(value, LAYERS):
        hint = " Pass an instance, not the class." if isinstance(value, type) else ""
        raise ValueError(
            f"`{argument}` must be a layer or model of Keras (keras or tf_keras)."
            f"{hint} Received: {argument}={value!r} of type {type(value).__name__}"
        )
    if is_keras3(value) and keras3.backend.backend() != "tensorflow":
        raise ValueError(
            f"`{argument}` runs on the {keras3.backend.backend()} backend of Keras 3. "
            "tf_seqattn prunes on its TensorFlow backend: set KERAS_BACKEND=tensorflow "
            "before Keras is imported."
        )
    check_one_keras(sublayers(value), argument)


def check_one_keras(values: Iterable[Any], argument: str) -> None:
    """Raises a ValueError if objects, or the layers they hold, mix Keras 2 and 3."""
    library = None
    for value in values:
        held = [value]
        if isinstance(value, LAYERS):
            held += [v for v in value.__dict__.values() if isinstance(v, LAYERS)]
        for item in held:
            library = library or keras_of(item)
            if keras_of(item) not in (None, library):
                name = getattr(item, "name", type(item).__name__)
                raise ValueError(
                    f"`{argument}` mixes Keras 2 (tf_keras) and Keras 3 (keras), which "
                    f"cannot work in one model: {name!r} comes from "
                    f"{keras_of(item).__name__}, the rest from {library.__name__}. "
                    "Build all of it with one of them."
                )


# Training.


class Callback(keras3.callbacks.Callback, keras2.callbacks.Callback):
    """A callback for `fit` of Keras 2 and of Keras 3."""

    _supports_tf_logs = True

    def __init__(self) -> None:
        # Keras 3's constructor does not call Keras 2's, which would set `model` too.
        super().__init__()
        self.validation_data = None
        self._chief_worker_only = None


def compilation_of(model: Model) -> object:
    """An object that every call of `compile` replaces."""
    name = "_compile_config" if is_keras3(model) else "_steps_per_execution"
    return getattr(model, name, None)


def steps_per_execution(model: Model) -> int:
    """How many steps of training run between two calls of the callbacks."""
    if is_keras3(model):
        return model.steps_per_execution
    steps = getattr(model, "_steps_per_execution", None)
    return 1 if steps is None else int(steps.numpy())


def single_step_function(model: Model) -> TrainFunction:
    """Returns a function that runs one training step of a Keras 3 model."""
    function = model._make_function(model.train_step)

    def run(iterator: Iterator[Any]) -> Logs:
        # Keras reads this number when it traces the function.
        steps, model.steps_per_execution = model.steps_per_execution, 1
        try:
            return function(iterator)
        finally:
            model.steps_per_execution = steps

    return run


# Models and what they hold.


def is_graph_model(model: Model) -> bool:
    """Whether `model` is Sequential or functional: a graph that can be cloned.

    A functional model of Keras 3 whose class has its own constructor, such as a
    backbone of KerasHub, does not count: it is changed in place.
    """
    if isinstance(model, keras3.Model):
        if is_keras_class(type(model)):
            return isinstance(model, (keras3.Sequential, Functional))
        return isinstance(model, Functional) and functional_like_constructor(
            type(model)
        )
    if not isinstance(model, keras2.Model):
        return False
    return isinstance(model, keras2.Sequential) or model._is_graph_network


def sublayers(layer: Layer) -> list[Layer]:
    """The layer itself and all layers below it, each once."""
    return list({id(found): found for found in layer._flatten_layers()}.values())


def submodules(module: Layer | tf.Module) -> list[Layer | tf.Module]:
    """`sublayers`, also those that plain `tf.Module`s hold, and the modules themselves.

    A Keras 3 layer is searched for layers alone.
    """
    found: dict[int, Layer | tf.Module] = {}
    waiting = [module]
    for one in waiting:  # It grows.
        reached = [one] if _is_plain_module(one) else sublayers(one)
        new = {id(m): m for m in reached if id(m) not in found}
        found |= new
        for m in new.values():
            waiting += [held for held in _modules_held(m) if id(held) not in found]
    return list(found.values())


def _modules_held(module: Layer | tf.Module) -> list[Layer | tf.Module]:
    """The plain modules among the attributes, and the layers of what is no layer."""
    # `module.submodules` would fail: some layers have caches with odd keys.
    parts = [] if is_keras3(module) else list(_parts(vars(module).values()))
    layers = isinstance(module, LAYERS)
    return [
        p
        for p in parts
        if _is_plain_module(p) or (not layers and isinstance(p, LAYERS))
    ]


def _is_plain_module(value: Any) -> bool:
    return isinstance(value, tf.Module) and not isinstance(value, LAYERS)


def _parts(values: Iterable[Any]) -> Iterator[Any]:
    """The values, and those in lists and dictionaries among them."""
    for value in values:
        if isinstance(value, (list, tuple)):
            yield from _parts(value)
        elif isinstance(value, dict):
            yield from _parts(value.values())
        else:
            yield value


def named_in_scope(scope: str, names: Set[str]) -> list[str]:
    """The names of layers that occur in a name scope of TensorFlow, in order.

    Args:
      scope: such as the name of an operation. Keras 3 may number the layers in it.
      names: names of layers.

    Example:

    >>> named_in_scope("model/dense_1/MatMul", {"dense", "norm"})
    ['dense']
    """
    plain = [(part, re.sub(r"_\d+$", "", part)) for part in scope.split("/")]
    return [next(n for n in pair if n in names) for pair in plain if names & {*pair}]


def build_config(layer: Layer) -> Any:
    """What `build_from_config` takes, in plain dictionaries; None before `build`.

    Keras tracks the dictionaries among the shapes of several inputs, and cannot walk
    over those that it tracks.
    """

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return value

    return plain(layer.get_build_config())


def build_like(layer: Layer, original: Layer) -> None:
    """Builds a Keras 3 layer from the shapes that `original` was built from."""
    if is_keras3(layer) and not layer.built and original.get_build_config():
        layer.build_from_config(build_config(original))


def projections(layer: Layer) -> dict[str, Layer]:
    """The projections of an attention layer by name; empty before they exist."""
    names = ("query", "key", "value", "output")
    found = {name: getattr(layer, f"_{name}_dense", None) for name in names}
    return {name: dense for name, dense in found.items() if dense is not None}


def build_attention(
    layer: Layer,
    query: Any = None,
    value: Any = None,
    key: Any = None,
    *_: Any,
    **__: Any,
) -> None:
    """Builds the projections of a `MultiHeadAttention` of Keras 2.

    Keras 2 builds them in the first call, which a layer from a file has yet to get.

    Args:
      layer: any layer. Another class, or an attention that does not know its shapes
        yet, stays as it is.
      query: argument of the layer's call, with `value` and `key`, or None.
      value: see `query`.
      key: see `query`.
    """
    if not isinstance(layer, keras2.layers.MultiHeadAttention):
        return
    with tf.init_scope():
        if value is not None and not layer._built_from_signature:
            layer._build_from_signature(query, value, key)
        if not layer._built_from_signature:
            return
        heads = (*layer._query_shape[:-1], layer._num_heads, layer._value_dim)
        shapes = {
            "query": layer._query_shape,
            "key": layer._key_shape,
            "value": layer._value_shape,
            "output": tf.TensorShape(heads),
        }
        for name, projection in projections(layer).items():
            if not projection.built:
                with tf.name_scope(layer.name), tf.name_scope(projection.name):
                    projection.build(shapes[name])


def why_kernel_is_changed(layer: Layer) -> str:
    """Why a Keras 3 layer does not compute with its plain kernel, or ""."""
    if getattr(layer, "quantization_mode", None):
        return f"is quantized ({layer.quantization_mode})"
    if getattr(layer, "lora_rank", None):
        return f"has LoRA enabled (rank {layer.lora_rank}), which freezes the kernel"
    return ""


def input_shape(layer: Layer) -> tuple[Any, ...]:
    """Shape of the input of a layer in a graph model.

    Raises:
      AttributeError: if the layer is not part of a graph.
    """
    return tuple(layer.input.shape) if is_keras3(layer) else layer.input_shape


def output_shape(layer: Layer) -> tuple[Any, ...]:
    """Shape of the first output of a layer in a graph model.

    Raises:
      AttributeError: if the layer is not part of a graph.
    """
    if is_keras3(layer):
        return tuple(tf.nest.flatten(layer.output)[0].shape)
    shape = layer.output_shape
    return shape[0] if isinstance(shape, list) else shape


def _functional(model: Model) -> Any:
    """What holds the graph of a model: in Keras 3 a Sequential has another model."""
    return getattr(model, "_functional", None) or model


def _graph_nodes(model: Model) -> list[Any]:
    """The calls of a graph model in an order in which they can be computed."""
    nodes = _functional(model)._nodes_by_depth
    return [node for depth in sorted(nodes, reverse=True) for node in nodes[depth]]


def layers_before(model: Model, layer: Layer) -> list[list[Layer]]:
    """The layers that a layer of a graph model reads from, in each of its calls."""
    if is_keras3(model):
        nodes = [n for n in _graph_nodes(model) if n.operation is layer]
        return [[parent.operation for parent in n.parent_nodes] for n in nodes]
    found = [node.inbound_layers for node in layer._inbound_nodes]
    return [f if isinstance(f, list) else [f] for f in found]


def layers_after(model: Model, layer: Layer) -> list[Layer]:
    """The layers of a graph model that read from a layer, once for each time."""
    if is_keras3(model):
        return [
            node.operation
            for node in _graph_nodes(model)
            for parent in node.parent_nodes
            if parent.operation is layer
        ]
    return [node.outbound_layer for node in layer._outbound_nodes]


def output_layers(model: Model) -> list[Layer]:
    """The layers that compute the outputs of a graph model."""
    if is_keras3(model):
        return [output._keras_history.operation for output in model.outputs]
    return list(getattr(model, "_output_layers", ()))


def _is_shape(value: Any) -> bool:
    return isinstance(value, (tuple, list)) and all(
        size is None or isinstance(size, int) for size in value
    )


def _specs_of_shapes(value: Any, name: str, dtype: str) -> Any:
    """Specifications, nested as the shapes are, with an unknown batch size."""
    if isinstance(value, dict):
        return {key: _specs_of_shapes(v, str(key), dtype) for key, v in value.items()}
    if _is_shape(value):
        return tf.TensorSpec((None, *value[1:]), dtype, name)
    return [_specs_of_shapes(v, f"{name}_{i}", dtype) for i, v in enumerate(value)]


def _called_with(model: Model) -> list[Any] | None:
    """The arguments of the first call of a model without a graph, as specifications."""
    if is_keras3(model):
        # Keras 3 remembers the shapes but not the dtypes.
        shapes = (model._build_shapes_dict or {}).values()
        shapes = [shape for shape in shapes if shape is not None]
        if len(shapes) == 1 and not _is_shape(shapes[0]):
            return [_specs_of_shapes(shapes[0], "input", model.variable_dtype)]
        return _specs_of_shapes(shapes, "input", model.variable_dtype) or None
    called_with = model.save_spec(dynamic_batch=True)
    return None if called_with is None else list(called_with[0])


def input_specs(model: Model) -> list[tf.TensorSpec] | None:
    """Specification of every input, with any batch size; None before the first call."""
    if getattr(model, "inputs", None):
        return [tf.TensorSpec(i.shape, i.dtype, i.name) for i in model.inputs]
    called_with = _called_with(model)
    if called_with is None:
        return None
    # Under mixed precision Keras 2 remembers float inputs in the dtype it cast them to.
    return [
        tf.TensorSpec(
            spec.shape,
            model.variable_dtype if spec.dtype.is_floating else spec.dtype,
            spec.name or f"argument_{index}",
        )
        for index, spec in enumerate(tf.nest.flatten(called_with))
    ]


def arguments(model: Model, values: list[Any]) -> list[Any]:
    """Arranges the values for the inputs of a model as the model's call takes them.

    Args:
      model: any model.
      values: one for each input, in the order of `input_specs`.

    Returns:
      What to pass as `model(*arguments)`: lists and dictionaries as in the model's
      graph or, without a graph, as in its first call.

    Example:

    >>> x, y = keras.Input((2,)), keras.Input((3,))
    >>> arguments(keras.Model([x, y], x), [1.0, 2.0])
    [[1.0, 2.0]]
    """
    if isinstance(model, (Functional, keras3.Sequential)):
        structure = _functional(model)
        return [keras3.tree.pack_sequence_as(structure._inputs_struct, values)]
    called_with = None if getattr(model, "inputs", None) else _called_with(model)
    if called_with is not None:
        return tf.nest.pack_sequence_as(called_with, values)
    return [values if len(values) > 1 else values[0]]


@contextlib.contextmanager
def open_to_change(layer: Layer) -> Iterator[None]:
    """Context in which attributes of a built layer may be given other layers."""
    tracker: Any = getattr(layer, "_tracker", None)
    locked = tracker is not None and tracker.locked
    if locked:
        tracker.unlock()
    try:
        yield
    finally:
        if locked:
            tracker.lock()


def replace_in_graph(model: Model, replace: Callable[[Layer], Layer]) -> None:
    """Replaces, in place, the layers that the graph of a Keras 3 model calls.

    Args:
      model: any layer. Only a functional model has a graph.
      replace: function that takes a layer and returns its replacement.
    """
    if not isinstance(model, Functional):
        return
    successors: dict[int, Layer] = {}
    for node in _graph_nodes(model):
        before = node.operation
        after = replace(before) if isinstance(before, LAYERS) else before
        if after is before:
            continue
        successors[id(before)] = node.operation = after
        for tensor in node.outputs:
            tensor._keras_history = tensor._keras_history._replace(
                operation=after, node_index=len(after._inbound_nodes)
            )
        after._inbound_nodes.append(node)
    if not successors:
        return
    for found in model._operations_by_depth.values():
        found[:] = [successors.get(id(item), item) for item in found]
    # TensorFlow tracks this list and cannot save a list that was changed in the middle.
    # A new one is set, in a way that does not make it a list of layers for Keras.
    operations = [successors.get(id(item), item) for item in model._operations]
    tracking = tf.__internal__.tracking.AutoTrackable
    tracking.__setattr__(model, "_operations", operations)


def replace_tracked(owner: Layer, before: Layer, after: Layer) -> None:
    """Lists `after` in place of `before` among the layers of `owner`.

    Call it before the attribute is set. Keras 2 finds layers by looking at attributes.
    Keras 3 keeps a list of them, and its order is the order of the weights.
    """
    if not is_keras3(owner) or not owner._tracker.is_in_store("layers", before):
        return
    if owner._tracker.is_in_store("layers", after):
        owner._tracker.untrack(before)
    else:
        owner._tracker.replace_tracked_value("layers", before, after)


def uncompile(model: Model) -> None:
    """Undoes `compile`."""
    model.train_function = None
    model.test_function = None
    model.predict_function = None
    if is_keras3(model):
        if model.compiled:
            model.compiled = False
            model.optimizer = None
            # TensorFlow would still write its variables into a SavedModel.
            model._delete_tracking("optimizer")
    elif model._is_compiled:
        model.optimizer = None
        model._is_compiled = False


def _mixes_precisions(layer: Layer) -> bool:
    return layer.compute_dtype != layer.variable_dtype == "float32" and not getattr(
        layer, "quantization_mode", None
    )


def _set_precision(layer: Layer, policy: Any) -> None:
    if is_keras3(layer):
        # Not by the property, which would write into a policy that layers share.
        layer._dtype_policy = policy
    else:
        layer._set_dtype_policy(policy)


@contextlib.contextmanager
def computing_in_float32(model: Model) -> Iterator[None]:
    """Context in which layers of mixed precision compute in float32.

    Their weights are float32 anyway. Layers that are made in the context compute in
    float32 too, whatever the global policy is.

    Example:

    >>> layer = keras.layers.Dense(2, input_shape=(3,), dtype="mixed_bfloat16")
    >>> model = keras.Sequential([layer])
    >>> with computing_in_float32(model):
    ...     model(tf.ones((1, 3))).dtype
    tf.float32
    >>> model(tf.ones((1, 3))).dtype
    tf.bfloat16
    """
    library = keras_of(model).mixed_precision
    mixed = [layer for layer in sublayers(model) if _mixes_precisions(layer)]
    policies = [layer._dtype_policy for layer in mixed]
    policy_of_process = library.global_policy()
    library.set_global_policy("float32")
    for layer in mixed:
        _set_precision(layer, library.Policy("float32"))
    try:
        yield
    finally:
        for layer, policy in zip(mixed, policies, strict=True):
            _set_precision(layer, policy)
        library.set_global_policy(policy_of_process)


@contextlib.contextmanager
def looping_by(model: Model, loop: Callable[..., Any]) -> Iterator[None]:
    """Context in which a function of ours runs the steps of recurrent layers.

    Args:
      model: any layer. Layers below it do not use the kernels of cuDNN, which would run
        the whole loop.
      loop: called with Keras's own function `rnn` and its arguments.
    """
    library = keras_of(model)
    backend = backend3 if library is keras3 else backend2
    original = backend.rnn
    switch = "use_cudnn" if library is keras3 else "_could_use_gpu_kernel"
    fused = [layer for layer in sublayers(model) if getattr(layer, switch, False)]
    values = [getattr(layer, switch) for layer in fused]
    backend.rnn = functools.partial(loop, original)
    for layer in fused:
        setattr(layer, switch, False)
    try:
        yield
    finally:
        backend.rnn = original
        for layer, value in zip(fused, values, strict=True):
            setattr(layer, switch, value)


# Variables.


def is_variable(value: Any) -> bool:
    """Whether `value` is a variable of TensorFlow or of Keras 3."""
    return isinstance(value, (tf.Variable, keras3.Variable))


def arrays_of(layer: Layer) -> list[Any]:
    """The weights of a layer that have a shape.

    The vocabulary that a lookup of Keras 2 adapted is a weight without one.
    """
    return [weight for weight in layer.weights if hasattr(weight, "shape")]


def stored(variable: Variable) -> tf.Tensor:
    """The value of a variable in its own dtype, whatever dtype layers compute in."""
    if not isinstance(variable, keras3.Variable):
        return tf.convert_to_tensor(variable)
    if variable._value is None:
        # After a symbolic first call Keras 3 has yet to make it, with this value.
        return tf.convert_to_tensor(variable.value)
    return tf.convert_to_tensor(variable._value)


def add_to(variable: Variable, value: tf.Tensor) -> None:
    """Adds a value to a variable, in its own dtype."""
    if isinstance(variable, keras3.Variable):
        variable = variable._value
    # A variable on one device. Between the steps of a small network, the checks of
    # `assign_add` take longer than the sum.
    if tf.executing_eagerly() and type(variable).__name__ == "ResourceVariable":
        tf.raw_ops.AssignAddVariableOp(resource=variable.handle, value=value)
    else:
        variable.assign_add(value, read_value=False)


def change_initial_value(
    variable: Variable, function: Callable[[tf.Tensor], tf.Tensor]
) -> None:
    """Assigns `function(value)`, even to a variable that Keras 3 has yet to make."""
    if isinstance(variable, keras3.Variable) and variable._value is None:
        initializer = variable._initializer
        variable._initializer = lambda shape, dtype: tf.cast(
            function(tf.convert_to_tensor(initializer(shape, dtype=dtype))), dtype
        )
    else:
        value = stored(variable)
        variable.assign(tf.cast(function(value), value.dtype))


def add_float(
    layer: Layer, name: str, shape: tuple[int, ...], initial: float, trainable: bool
) -> Variable:
    """Adds a float32 variable to a layer, float32 under every precision policy.

    If it is not trainable, its replicas under `tf.distribute` stay equal: all get the
    value of the first one.
    """
    constant = keras_of(layer).initializers.Constant(initial)
    return _add_weight(layer, name, shape, "float32", constant, trainable)


def add_weight(
    layer: Layer,
    name: str,
    shape: tuple[int, ...],
    initializer: Any = "glorot_uniform",
    regularizer: Any = None,
) -> Variable:
    """Adds a trainable variable of the layer's own dtype."""
    return _add_weight(layer, name, shape, None, initializer, True, regularizer)


def add_counter(layer: Layer, name: str) -> Variable:
    """Adds an int64 scalar that starts at 0 to a layer."""
    return _add_weight(layer, name, (), "int64", "zeros", trainable=False)


def add_numbers(
    layer: Layer, name: str, shape: tuple[int, ...], dtype: str = "int32"
) -> Variable:
    """Adds a variable, at first 0, that is not trained and keeps its dtype."""
    return _add_weight(layer, name, shape, dtype, "zeros", trainable=False)


def add_gradient_sum(layer: Layer, name: str, shape: tuple[int, ...]) -> Variable:
    """Adds a float32 variable, at first 0, to which each replica adds its gradients.

    A replica adds to its own copy, without waiting for the others. Whoever reads the
    variable outside of the replicas gets the sum of the copies.
    """
    if not is_keras3(layer):
        return layer.add_weight(
            name=name,
            shape=shape,
            dtype="float32",
            initializer="zeros",
            trainable=False,
            synchronization=tf.VariableSynchronization.ON_READ,
            aggregation=tf.VariableAggregation.SUM,
        )
    name = name.replace("/", "_")
    # `add_weight` of Keras 3 has no synchronization.
    with keras3.name_scope(layer.name, caller=layer):
        variable = keras3.Variable(
            "zeros",
            shape=shape,
            dtype="float32",
            trainable=False,
            autocast=False,
            aggregation="sum",
            synchronization="on_read",
            name=name,
        )
    layer._track_variable(variable)
    layer._track_trackable(variable, name, overwrite=True)
    return variable


def _add_weight(
    layer: Layer,
    name: str,
    shape: tuple[int, ...],
    dtype: str | None,
    initializer: Any,
    trainable: bool,
    regularizer: Any = None,
) -> Variable:
    arguments = {
        "shape": shape,
        "dtype": dtype,
        "initializer": initializer,
        "trainable": trainable,
        "regularizer": regularizer,
    }
    if is_keras3(layer):
        # A name is a part of a path in Keras 3, so it holds no slash.
        arguments |= {"name": name.replace("/", "_"), "autocast": dtype is None}
        if not trainable:
            arguments["aggregation"] = "only_first_replica"
    else:
        arguments["name"] = name
        if not trainable:
            arguments["aggregation"] = tf.VariableAggregation.ONLY_FIRST_REPLICA
    variable = layer.add_weight(**arguments)
    if is_keras3(layer):
        # TensorFlow's checkpoints do not hold Keras 3's own lists of variables.
        layer._track_trackable(variable, arguments["name"], overwrite=True)
    return variable


# The graph of a model, call by call.


class GraphCall(NamedTuple):
    """One call in the graph of a functional or Sequential model.

    Attributes:
      operation: the layer; in Keras 3 it may be another operation.
      args: what it is called with. Tensors are symbolic ones of the graph.
      kwargs: likewise.
      outputs: symbolic tensors, flat.
      key: stays the same for one call in every walk over the graph.
    """

    operation: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: list[Any]
    key: int

    @property
    def inputs(self) -> list[Any]:
        """All symbolic tensors among the arguments, flat."""
        return [value for value in flat((self.args, self.kwargs)) if is_symbolic(value)]


def graph_calls(model: Model) -> list[GraphCall]:
    """The calls of a graph model in an order in which they can be computed."""
    of_keras3 = is_keras3(model)
    nodes = [node for node in _graph_nodes(model) if not node.is_input]
    return [_call_of_node(node, of_keras3) for node in nodes]


def _call_of_node(node: Any, of_keras3: bool) -> GraphCall:
    if of_keras3:
        operation, given = node.operation, node.arguments
        args, kwargs = given.args, given.kwargs
    else:
        operation, args, kwargs = node.layer, node.call_args, node.call_kwargs
    outputs = tf.nest.flatten(node.outputs)
    return GraphCall(operation, tuple(args), dict(kwargs), outputs, id(node))


def calls_between(inputs: list[Any], outputs: list[Any]) -> list[GraphCall]:
    """The calls that lead from symbolic inputs to outputs, in order of computation.

    Args:
      inputs: symbolic tensors.
      outputs: whatever a function of them returned; constants are left out.
    """
    of_keras3 = any(isinstance(i, keras3.KerasTensor) for i in [*inputs, *outputs])
    known = {id(tensor) for tensor in inputs}
    # A stack in place of recursion: graphs may be deep.
    calls: dict[int, GraphCall] = {}
    waiting = [value for value in reversed(outputs) if is_symbolic(value)]
    while waiting:
        tensor = waiting[-1]
        operation, index = tensor._keras_history[0], tensor._keras_history[1]
        call = _call_of_node(operation._inbound_nodes[index], of_keras3)
        open_inputs = [
            value
            for value in call.inputs
            if id(value) not in known and call.key not in calls
        ]
        if id(tensor) in known or call.key in calls or not open_inputs:
            waiting.pop()
            if id(tensor) not in known:
                calls.setdefault(call.key, call)
            known.update(map(id, call.outputs))
        else:
            waiting += reversed(open_inputs)
    return list(calls.values())


@contextlib.contextmanager
def calls_forgotten(layer: Layer) -> Iterator[None]:
    """Context in which symbolic calls leave no trace in a layer and those below it."""
    layers = sublayers(layer)
    kept = [
        (nodes, len(nodes))
        for found in layers
        for nodes in (found._inbound_nodes, found._outbound_nodes)
    ]
    try:
        yield
    finally:
        for nodes, count in kept:
            # Keras 3's own list would look for layers among the nodes.
            list.__delitem__(nodes, slice(count, None))


@contextlib.contextmanager
def shapes_from_calls(layers: list[Layer]) -> Iterator[None]:
    """Context in which custom layers of Keras 3 find their outputs by their `call`.

    A method that they inherit from a class of Keras may take other arguments. Our own
    wrappers ask the layer that they hold.
    """
    custom = [
        layer
        for layer in layers
        if is_keras3(layer)
        and not is_keras_class(type(layer))
        and type(layer).__module__.partition(".")[0] != PACKAGE
    ]
    for layer in custom:
        compute = functools.partial(backend3.compute_output_spec, layer.call)
        object.__setattr__(layer, "compute_output_spec", compute)
    try:
        yield
    finally:
        for layer in custom:
            object.__delattr__(layer, "compute_output_spec")


def symbolic_input(library: Library, shape: tuple[int | None, ...], dtype: Any) -> Any:
    """A symbolic tensor of a shape with the batch."""
    return library.Input(batch_shape=shape, dtype=dtype)


def known_value(value: Any) -> Any:
    """The value of a symbolic tensor that Keras 2 knows, such as a shape, or itself."""
    inferred = getattr(value, "_inferred_value", None)
    if isinstance(value, KerasTensor2) and inferred and None not in inferred:
        return np.array(inferred).reshape(value.shape)
    return value


def is_operation(layer: Any) -> bool:
    """Whether it is one operation of TensorFlow that Keras 2 keeps in a layer."""
    return type(layer).__module__.endswith("tf_op_layer")


def graph_ends(model: Model) -> tuple[Any, Any]:
    """The symbolic inputs and outputs of a graph model, nested as they were given."""
    if is_keras3(model):
        functional = _functional(model)
        return functional._inputs_struct, functional._outputs_struct
    if isinstance(model, keras2.Sequential):
        # The only form that it takes.
        return model.inputs[0], model.outputs[0]
    return model._nested_inputs, model._nested_outputs


def is_symbolic(value: Any) -> bool:
    """Whether a value is a tensor of a graph of Keras 2 or Keras 3."""
    return isinstance(value, (keras3.KerasTensor, KerasTensor2))


def map_structure(function: Callable[[Any], Any], value: Any) -> Any:
    """Applies a function to every item of nested lists, tuples and dictionaries."""
    return keras3.tree.map_structure(function, value, none_is_leaf=True)


def flat(structure: Any) -> list[Any]:
    """Every item of nested lists, tuples and dictionaries, None too."""
    found: list[Any] = []
    map_structure(found.append, structure)
    return found
