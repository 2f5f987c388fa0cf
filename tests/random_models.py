"""Small models of random architecture, for tests with hypothesis.

A model is drawn as a plain description, so that a failing example prints as one, and
built with either Keras.
"""

import dataclasses
import math

import hypothesis.strategies as st
import numpy as np

ACTIVATIONS = ("linear", "relu", "tanh")
# The layers that may follow inputs of a kind, and keep that kind.
STAGES = {
    "vector": ("dense", "batch_norm", "layer_norm", "residual", "shared", "nested"),
    "image": (
        *("conv", "separable", "depthwise", "grouped", "transposed"),
        *("batch_norm", "pool", "residual", "gated"),
    ),
    "sequence": ("conv", "einsum", "lstm", "gru", "attention", "layer_norm"),
}
STAGES["tokens"] = STAGES["sequence"]
_SHAPES = {"vector": (12,), "image": (6, 6, 3), "sequence": (5, 8), "tokens": (5,)}
_VOCABULARY = 16


@dataclasses.dataclass(frozen=True)
class Stage:
    """One step of a branch: its kind, its width and its activation."""

    kind: str
    width: int
    activation: str


@dataclasses.dataclass(frozen=True)
class Branch:
    """An input of some kind and the stages behind it."""

    inputs: str
    stages: tuple[Stage, ...]


@dataclasses.dataclass(frozen=True)
class Architecture:
    """Branches that are concatenated and read by one or two outputs."""

    branches: tuple[Branch, ...]
    outputs: int
    policy: str


@st.composite
def _branches(draw) -> Branch:
    kind = draw(st.sampled_from(sorted(STAGES)))
    stage = st.builds(
        Stage,
        st.sampled_from(STAGES[kind]),
        st.sampled_from((8, 12)),
        st.sampled_from(ACTIVATIONS),
    )
    return Branch(kind, tuple(draw(st.lists(stage, min_size=1, max_size=3))))


def architectures(policies: tuple[str, ...] = ("float32",)):
    """A strategy that draws an `Architecture`; `policies` are dtype policies."""
    return st.builds(
        Architecture,
        st.lists(_branches(), min_size=1, max_size=2).map(tuple),
        st.integers(1, 2),
        st.sampled_from(policies),
    )


def _residual(layers, x, stage: Stage):
    width = x.shape[-1]
    if len(x.shape) == 4:
        inner = layers.Conv2D(width, 3, padding="same", activation=stage.activation)
    else:
        inner = layers.Dense(width, activation=stage.activation)
    return layers.Add()([x, inner(x)])


def _shared(layers, x, stage: Stage):
    first = layers.Dense(stage.width)(x)
    layer = layers.Dense(stage.width, activation=stage.activation)
    return layers.Add()([layer(first), layer(layer(first))])


def _attention(layers, x, stage: Stage):
    attended = layers.MultiHeadAttention(num_heads=2, key_dim=stage.width // 2)(x, x)
    return layers.Add()([x, attended])


def _conv(layers, x, stage: Stage):
    kind = layers.Conv2D if len(x.shape) == 4 else layers.Conv1D
    return kind(stage.width, 3, padding="same", activation=stage.activation)(x)


def _grouped(layers, x, stage: Stage):
    groups = math.gcd(x.shape[-1], stage.width, 4)
    return layers.Conv2D(
        stage.width, 3, padding="same", groups=groups, activation=stage.activation
    )(x)


def _gated(layers, x, stage: Stage):
    """Squeeze and excite: the mean of each channel gives a factor of it."""
    gate = layers.GlobalAveragePooling2D()(x)
    gate = layers.Dense(stage.width, activation=stage.activation)(gate)
    gate = layers.Dense(x.shape[-1], activation="sigmoid")(gate)
    return layers.Multiply()([x, layers.Reshape((1, 1, x.shape[-1]))(gate)])


def _stage(keras, x, stage: Stage):
    """The tensor behind a stage that reads `x`."""
    layers, width, activation = keras.layers, stage.width, stage.activation
    if stage.kind == "dense":
        return layers.Dense(width, activation=activation)(x)
    if stage.kind == "batch_norm":
        return layers.BatchNormalization()(x)
    if stage.kind == "layer_norm":
        return layers.LayerNormalization()(x)
    if stage.kind == "residual":
        return _residual(layers, x, stage)
    if stage.kind == "shared":
        return _shared(layers, x, stage)
    if stage.kind == "nested":
        inner = layers.Dense(width, activation=activation)
        return keras.Sequential([keras.Input(x.shape[1:]), inner])(x)
    if stage.kind == "conv":
        return _conv(layers, x, stage)
    if stage.kind == "grouped":
        return _grouped(layers, x, stage)
    if stage.kind == "transposed":
        return layers.Conv2DTranspose(
            width, 3, strides=2, padding="same", activation=activation
        )(x)
    if stage.kind == "gated":
        return _gated(layers, x, stage)
    if stage.kind == "separable":
        return layers.SeparableConv2D(width, 3, activation=activation)(
            layers.ZeroPadding2D()(x)
        )
    if stage.kind == "depthwise":
        return layers.DepthwiseConv2D(3, padding="same", activation=activation)(x)
    if stage.kind == "pool":
        return layers.MaxPooling2D(2, strides=1, padding="same")(x)
    if stage.kind == "einsum":
        return layers.EinsumDense(
            "abc,cd->abd", (None, width), bias_axes="d", activation=activation
        )(x)
    if stage.kind == "attention":
        return _attention(layers, x, stage)
    recurrent = {"lstm": layers.LSTM, "gru": layers.GRU}[stage.kind]
    return recurrent(width, return_sequences=True)(x)


def _branch(keras, branch: Branch):
    layers = keras.layers
    dtype = "int32" if branch.inputs == "tokens" else "float32"
    inputs = x = keras.Input(_SHAPES[branch.inputs], dtype=dtype)
    if branch.inputs == "tokens":
        x = layers.Embedding(_VOCABULARY, 8)(x)
    for stage in branch.stages:
        x = _stage(keras, x, stage)
    if len(x.shape) == 4:
        x = layers.GlobalAveragePooling2D()(x)
    elif len(x.shape) == 3:
        x = layers.GlobalAveragePooling1D()(x)
    return inputs, x


def build(keras, architecture: Architecture):
    """Builds the model with one Keras; its normalizations have seen random data."""
    # The policy is for this model only: the next one may have another.
    if keras.__name__ == "keras":
        keras.config.set_dtype_policy(architecture.policy)
    else:
        keras.mixed_precision.set_global_policy(architecture.policy)
    ends = [_branch(keras, branch) for branch in architecture.branches]
    x = (
        ends[0][1]
        if len(ends) == 1
        else keras.layers.Concatenate()([e[1] for e in ends])
    )
    outputs = [
        keras.layers.Dense(4, name=f"output_{number}", dtype="float32")(x)
        for number in range(architecture.outputs)
    ]
    model = keras.Model(
        [end[0] for end in ends], outputs if len(outputs) > 1 else outputs[0]
    )
    # Untrained batch normalizations and biases would hide the effect of the inputs.
    rng = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.set_weights(
                [rng.uniform(0.5, 1.5, w.shape) for w in layer.get_weights()]
            )
    return model


def batch(architecture: Architecture, rows: int, seed: int = 0) -> list[np.ndarray]:
    """Random inputs for the model, one array for each branch."""
    rng = np.random.default_rng(seed)
    values = []
    for branch in architecture.branches:
        shape = (rows, *_SHAPES[branch.inputs])
        if branch.inputs == "tokens":
            values.append(rng.integers(0, _VOCABULARY, shape).astype("int32"))
        else:
            values.append(rng.normal(size=shape).astype("float32"))
    return values
