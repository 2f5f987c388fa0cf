"""Which features of a model with named inputs are worth their tables.

Sequential attention for feature selection (arXiv 2209.14881): one softmax over all
features, or over all their dimensions, multiplies them while the model trains, and the
least important go one after another. What is left is an ordinary model without the
inputs and the tables of the others.
"""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tf_seqattn.keras_api import (
    MODELS,
    Layer,
    Model,
    check_layer,
    graph_calls,
    graph_ends,
    is_graph_model,
    is_keras3,
    keras_of,
    stored,
)
from tf_seqattn.sparsity.feature_layers import (
    GATES,
    KEPT_DIMENSIONS,
    NO_FEATURES,
    FeatureGate,
)
from tf_seqattn.sparsity.importance import Importance
from tf_seqattn.sparsity.schedules import SequentialAttentionSchedule
from tf_seqattn.sparsity.wrapper import PrunableLayer, default_importance

logger = logging.getLogger("tf_seqattn")

BY = ("feature", "dimension")
_REST = "on_features"


def select_features(
    model: Model,
    keep: int | float,
    end_step: int,
    features: Sequence[str] | None = None,
    by: str = "feature",
    importance: Importance | None = None,
) -> Model:
    """Puts a trainable gate behind the features of a model, to be trained as usual.

    Compile the result and `fit` it with `sa.UpdatePruningStep()`. Then
    `sa.selected_features` says which features stay, and `sa.drop_features` gives the
    model without the others.

    Args:
      model: a functional model. Its layers are shared with the result.
      keep: how many features stay (an int), or which share of them (a float below 1).
        With `by="dimension"` it counts dimensions.
      end_step: number of training steps. No feature goes in the first quarter, or
        in about the last fifth.
      features: names of the inputs, or of the layers, whose outputs are the features,
        such as embeddings and feature crosses. By default there is one for each input:
        an input of floats itself, or the first floats that are computed from it alone
        (a vector of a bucket, not the number that falls into it).
      by: "feature", or "dimension" for the single dimensions of all features. They
        compete with one another, so that each table gets a width of its own.
      importance: what to score, by default `sa.SoftmaxAttention(rank="effective",
        logit_rate=1.0)`.

    Returns:
      A functional model with the same inputs and outputs.

    Raises:
      ValueError: for a model that is not functional, an unknown feature, fewer than two
        of them, a feature whose last axis is unknown, or a `keep` that keeps all or
        nothing.

    Example:

    >>> inputs = {name: keras.Input((1,), name=name) for name in "abc"}
    >>> joined = keras.layers.Concatenate()([*inputs.values()])
    >>> model = keras.Model(inputs, keras.layers.Dense(1)(joined))
    >>> selecting = select_features(model, keep=2, end_step=100)
    >>> selected_features(selecting)
    {'a': [0], 'b': [0], 'c': [0]}
    """
    check_layer(model, "model")
    is_functional = isinstance(model, MODELS) and is_graph_model(model)
    if not is_functional or isinstance(model, keras_of(model).Sequential):
        raise ValueError(
            "`model` must be a functional model, so that its features can be found. "
            f"Received: model={model!r}"
        )
    if by not in BY:
        raise ValueError(f"`by` must be one of {', '.join(BY)}. Received: by={by!r}")
    tensors = _find_features(model, features)
    sizes = [_size(tensor) for tensor in tensors]
    number = len(sizes) if by == "feature" else sum(sizes)
    # What matters only together with another feature takes a while to show.
    schedule = SequentialAttentionSchedule(
        _share_to_drop(keep, number),
        end_step,
        begin_step=end_step // 4,
        revise=False,
        rate_power=0.0,
    )
    library = keras_of(model)
    others = [t for t in tf.nest.flatten(model.inputs) if not _is_among(t, tensors)]
    others = [t for t in others if _is_read_beside(model, t, tensors)]
    if others and features is None:
        logger.warning(
            "sa.select_features: other layers, or masks, read these inputs beside "
            "their features, so they stay when the features go: %s. If they have more "
            "tables, name the layers of all features: `features=[...]`.",
            ", ".join(map(_maker, others)),
        )
    inputs, outputs = graph_ends(model)
    rest = library.Model(tensors + others, outputs, name=_REST)
    gate = GATES[library](sizes, by == "dimension", name="feature_gate")
    gate.build()
    if importance is None:
        importance = default_importance(schedule, of_blocks=False)
    wrapper = PrunableLayer(gate, schedule, (1, 1), importance, name="select_features")
    outputs = rest([*wrapper(tensors), *others])
    return library.Model(inputs, outputs, name=model.name)


def selected_features(model: Model) -> dict[str, list[int]]:
    """Returns the kept dimensions of each feature; none of one that is dropped.

    Args:
      model: of `select_features`, or stripped.

    Raises:
      ValueError: for another model.
    """
    call, _ = _gate_and_rest(model)
    names = _names(model, call.inputs)
    return {
        name: np.flatnonzero(weights).tolist()
        for name, weights in zip(names, _weights(call.operation), strict=True)
    }


def drop_features(model: Model) -> Model:
    """Returns the model without the features that the gate drops.

    Their inputs and tables are gone, and so are the dropped dimensions of the tables.
    The other layers are shared with `model`. What reads a dropped feature reads zeros.

    Args:
      model: of `select_features`, trained, or stripped.

    Returns:
      A functional model of the inputs that are left, which computes the same.

    Raises:
      ValueError: for another model.

    Example:

    >>> inputs = {name: keras.Input((1,), name=name) for name in "abc"}
    >>> joined = keras.layers.Concatenate()([*inputs.values()])
    >>> model = keras.Model(inputs, keras.layers.Dense(1)(joined))
    >>> selecting = select_features(model, keep=2, end_step=100)
    >>> gate = selecting.get_layer("select_features")
    >>> gate.update_masks(tf.constant(0.34))
    >>> sorted(drop_features(selecting).input)
    ['a', 'b']
    """
    library = keras_of(model)
    call, rest = _gate_and_rest(model)
    names, weights = _names(model, call.inputs), _weights(call.operation)
    kept = [t for t, w in zip(call.inputs, weights, strict=True) if w.any()]
    # Behind them are masks, which Keras 3 hands on.
    others = rest.inputs[len(call.inputs) : len(rest.operation.inputs)]
    # Not of a feature, whose table would stay.
    of_batch = _inputs_read(model, kept)[0]
    features = []
    for name, tensor, weight in zip(names, call.inputs, weights, strict=True):
        if weight.any():
            features.append(_narrowed(model, name, tensor, weight))
        else:
            shape = tuple(tensor.shape)[1:]
            layer = NO_FEATURES[library](shape, name=f"no_{name}", dtype=tensor.dtype)
            features.append(layer(of_batch))
    outputs = rest.operation([*features, *others])
    needed = _inputs_of(model, [*kept, *others])
    return library.Model(needed, outputs, name=model.name)


# What they are made of.


def _find_features(model: Model, features: Sequence[str] | None) -> list[Any]:
    """The symbolic tensors of the features of a model."""
    if features is None:
        return [
            _first_floats(model, tensor) for tensor in tf.nest.flatten(model.inputs)
        ]
    made = {_maker(tensor): tensor for tensor in tf.nest.flatten(model.inputs)}
    made |= {call.operation.name: call.outputs[0] for call in graph_calls(model)}
    unknown = [name for name in features if name not in made]
    if unknown:
        raise ValueError(
            "`features` must name inputs or layers of the model. Unknown: "
            f"{', '.join(map(str, unknown))}. Known: {', '.join(made)}"
        )
    return [made[name] for name in features]


def _first_floats(model: Model, tensor: Any) -> Any:
    """The first floats that depend on an input alone, an input of floats itself.

    Floats that become integers, as those in buckets do, are passed over: no gradient
    goes back through integers, and a gate in front would move values between buckets.
    """
    own, found = [tensor], tensor if _is_floating(tensor) else None
    for call in graph_calls(model):
        if not call.inputs or not all(_is_among(t, own) for t in call.inputs):
            continue
        own += call.outputs
        is_floating = _is_floating(call.outputs[0])
        if found is not None and not is_floating and _is_among(found, call.inputs):
            found = None
        elif found is None and is_floating:
            found = call.outputs[0]
    if found is not None:
        return found
    raise ValueError(
        f"Nothing that is computed from input {_maker(tensor)!r} alone is a "
        "tensor of floats. Name the layers of the features: `features=[...]`."
    )


def _names(model: Model, tensors: Sequence[Any]) -> list[str]:
    """A name for each feature: its only input, or the layer that makes it."""
    inputs = [_inputs_read(model, [tensor]) for tensor in tensors]
    names = [
        _maker(read[0] if len(read) == 1 else tensor)
        for read, tensor in zip(inputs, tensors, strict=True)
    ]
    return [
        name if names.count(name) == 1 else _maker(tensor)
        for name, tensor in zip(names, tensors, strict=True)
    ]


def _maker(tensor: Any) -> str:
    """Name of the layer that makes a symbolic tensor."""
    return tensor._keras_history[0].name


def _inputs_read(model: Model, tensors: Sequence[Any]) -> list[Any]:
    """The inputs of a model that tensors depend on."""
    needed = list(tensors)
    for call in graph_calls(model)[::-1]:
        if any(_is_among(output, needed) for output in call.outputs):
            needed += [t for t in call.inputs if not _is_among(t, needed)]
    return [t for t in tf.nest.flatten(model.inputs) if _is_among(t, needed)]


def _inputs_of(model: Model, tensors: Sequence[Any]) -> Any:
    """The part of the model's structure of inputs that tensors depend on."""
    needed = _inputs_read(model, tensors)
    structure, _ = graph_ends(model)
    if isinstance(structure, dict):
        return {k: v for k, v in structure.items() if _is_among(v, needed)}
    return needed


def _gate_and_rest(model: Model) -> tuple[Any, Any]:
    """The calls of the gate and of what follows it."""
    calls = graph_calls(model) if is_graph_model(model) else []
    gates = [
        call
        for call in calls
        if isinstance(getattr(call.operation, "layer", call.operation), FeatureGate)
    ]
    rest = [call for call in calls if call.operation.name == _REST]
    if len(gates) != 1 or len(rest) != 1:
        raise ValueError(
            "`model` must come from sa.select_features. Received: "
            f"model={getattr(model, 'name', model)!r}"
        )
    return gates[0], rest[0]


def _weights(gate: Layer) -> list[np.ndarray]:
    """What the gate multiplies each dimension of each feature by."""
    if isinstance(gate, PrunableLayer):
        (pruned,) = gate.pruned_kernels
        flat = np.asarray(gate.effective_kernel(pruned)).ravel()
        gate = gate.layer
    else:
        flat = np.asarray(stored(gate.kernel)).ravel()
    if not gate.by_dimension:
        flat = np.repeat(flat, gate.sizes)
    return np.split(flat, np.cumsum(gate.sizes)[:-1])


def _narrowed(model: Model, name: str, tensor: Any, weights: np.ndarray) -> Any:
    """A feature times its weights, from a narrower table where a table makes it."""
    library = keras_of(model)
    calls = graph_calls(model)
    call = next((c for c in calls if _is_among(tensor, c.outputs)), None)
    if (
        call is None
        or type(call.operation) is not library.layers.Embedding
        or _stays_whole(calls, call.operation, weights)
    ):
        values = weights.astype("float32").tolist()
        return library.layers.Rescaling(values, name=f"gated_{name}")(tensor)
    places = np.flatnonzero(weights)
    wide = call.operation
    table = np.asarray(stored(wide.embeddings))
    # With its regularizer, dtype and padding.
    config = {**wide.get_config(), "output_dim": len(places)}
    narrow = type(wide).from_config({**config, "name": f"table_of_{name}"})
    rows = narrow(call.inputs[0])
    narrow.set_weights([table[:, places] * weights[places]])
    if len(places) == len(weights):
        return rows
    kept = KEPT_DIMENSIONS[library](places, len(weights), name=f"kept_{name}")
    return kept(rows)


def _stays_whole(calls: Sequence[Any], table: Layer, weights: np.ndarray) -> bool:
    """Whether a table that several features read is not to become several tables."""
    readers = sum(call.operation is table for call in calls)
    # Keras 2 lets no mask through the layer that would scale what is read.
    masks = table.mask_zero and not is_keras3(table)
    return bool(readers > 1 and weights.all() and not masks)


def _share_to_drop(keep: int | float, number: int) -> float:
    kept = keep * number if isinstance(keep, float) else keep
    if number < 2 or not 0 < kept < number:
        raise ValueError(
            f"`keep` must leave some of the {number} features (or dimensions) and drop "
            f"some: an int from 1, or a float below 1. Received: keep={keep!r}"
        )
    return 1.0 - kept / number


def _size(tensor: Any) -> int:
    size = tuple(tensor.shape)[-1] if len(tensor.shape) > 1 else None
    if size is None:
        raise ValueError(
            f"The last axis of feature {_maker(tensor)!r} must have a known "
            f"size. Its shape is {tuple(tensor.shape)}."
        )
    return int(size)


def _is_floating(tensor: Any) -> bool:
    return tf.as_dtype(tensor.dtype).is_floating


def _is_among(tensor: Any, others: Sequence[Any]) -> bool:
    return any(tensor is other for other in others)


def _is_read_beside(model: Model, tensor: Any, features: Sequence[Any]) -> bool:
    """Whether the outputs depend on an input by another way than the features."""
    reached = [tensor]
    for call in graph_calls(model):
        if any(_is_among(t, reached) for t in call.inputs):
            reached += [t for t in call.outputs if not _is_among(t, features)]
    return any(_is_among(t, reached) for t in tf.nest.flatten(model.outputs))
