"""prune and strip_pruning on every kind of model."""

import contextlib
import logging
import pathlib

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

import tf_seqattn as sa
from tf_seqattn.keras_api import sublayers

layers = keras.layers
# Every test runs on Keras 2 and on Keras 3.
pytestmark = pytest.mark.usefixtures("keras")
SCHEDULE = sa.SequentialAttentionSchedule(0.5, end_step=12, cycles=1)
X = np.random.default_rng(0).normal(size=(16, 8)).astype("float32")


def sequential():
    return keras.Sequential(
        [layers.Dense(8, activation="relu", input_shape=(8,)), layers.Dense(8)]
    )


def functional():
    inputs = keras.Input((8,))
    shared = layers.Dense(8, name="shared")
    x = shared(inputs)
    x = layers.BatchNormalization()(x)
    x = layers.Add()([shared(x), inputs])
    return keras.Model(inputs, layers.Dense(8)(x))


def two_inputs():
    a, b = keras.Input((8,), name="a"), keras.Input((8,), name="b")
    return keras.Model([a, b], layers.Dense(8)(layers.Concatenate()([a, b])))


def nested():
    inputs = keras.Input((8,))
    return keras.Model(inputs, functional()(sequential()(inputs)))


def block():
    """A plain layer that holds layers."""

    class Block(layers.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.inner = layers.Dense(8)
            self.listed = [layers.Dense(8), layers.ReLU()]

        def build(self, input_shape):
            for layer in (self.inner, *self.listed):
                layer.build(input_shape)
            super().build(input_shape)

        def call(self, inputs):
            x = self.inner(inputs)
            for layer in self.listed:
                x = layer(x)
            return x

    return Block()


def holding():
    return keras.Sequential([keras.Input((8,)), block(), layers.Dense(8)])


def subclassed():
    class Subclassed(keras.Model):
        def __init__(self):
            super().__init__()
            self.first = layers.Dense(8)
            self.alias = self.first
            self.listed = [layers.Dense(8), (layers.Dense(8), layers.ReLU())]
            self.named = {"a": layers.Dense(8), "b": layers.Dense(8)}
            self.block = block()
            self.tower = sequential()
            self.mean = keras.metrics.Mean()

        def call(self, inputs):
            x = self.alias(self.first(inputs))
            x = self.listed[1][1](self.listed[1][0](self.listed[0](x)))
            x = self.named["b"](self.named["a"](x))
            return self.tower(self.block(x))

    model = Subclassed()
    model(X)
    return model


def own_step():
    """Functional, with its own training step."""

    class OwnStep(keras.Model):
        def train_step(self, data):
            self.steps_taken = getattr(self, "steps_taken", 0) + 1
            return super().train_step(data)

    inputs = keras.Input((8,))
    return OwnStep(inputs, layers.Dense(8)(inputs))


MODELS = {
    "sequential": (sequential, 2),
    "functional": (functional, 2),
    "nested": (nested, 4),
    "layers in a layer": (holding, 3),
    "subclassed": (subclassed, 9),
    "own step": (own_step, 1),
}


def prune(model, **kwargs):
    arguments = {"block_size": (2, 2), "pruning_policy": sa.PruningPolicy()}
    return sa.prune(model, SCHEDULE, **{**arguments, **kwargs})


def train(model, epochs=1):
    data = tf.data.Dataset.from_tensors((X, X)).repeat(12)
    model.fit(data, epochs=epochs, verbose=0, callbacks=[sa.UpdatePruningStep()])


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.exhaustive
def test_prune_train_strip(name):
    make, count = MODELS[name]
    plain = make()
    expected = plain(X).numpy()
    variables = {id(w) for w in plain.weights}
    kind = type(plain)

    pruned = prune(plain)
    wrappers = sa.pruned_layers(pruned)
    assert len(wrappers) == count and type(pruned) is kind
    np.testing.assert_allclose(pruned(X), expected, rtol=1e-5, atol=1e-6)
    # Weights are shared with the plain model, not copied.
    kept = {id(w) for w in pruned.weights}
    assert variables <= kept
    assert len(kept - variables) == 3 * count

    pruned.compile(keras.optimizers.Adam(1e-2), "mse")
    train(pruned)
    for wrapper in wrappers:
        assert wrapper.steps_begun == 12
        assert float(tf.reduce_mean(wrapper.masks[0])) == 0.5
    trained = pruned(X).numpy()
    assert not np.allclose(trained, expected)

    stripped = sa.strip_pruning(pruned)
    assert type(stripped) is kind and not sa.pruned_layers(stripped)
    np.testing.assert_allclose(stripped(X), trained, rtol=1e-4, atol=1e-5)
    dense = [m for m in sublayers(stripped) if isinstance(m, layers.Dense)]
    assert len(dense) == count
    for layer in dense:
        assert np.mean(layer.kernel.numpy() == 0) == pytest.approx(0.5)


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", ["sequential", "functional", "nested", "own step"])
def test_a_stripped_graph_model_leaves_the_pruned_one_to_train_on(name):
    pruned = prune(MODELS[name][0]())
    pruned.compile(keras.optimizers.Adam(1e-2), "mse")
    train(pruned)
    stripped = sa.strip_pruning(pruned)
    output = stripped(X).numpy()
    np.testing.assert_allclose(pruned(X), output, rtol=1e-4, atol=1e-5)
    train(pruned)
    np.testing.assert_array_equal(stripped(X), output)
    assert not np.allclose(pruned(X), output)
    stripped.compile("sgd", "mse")
    stripped.fit(X, X, verbose=0)


def test_shared_layers_are_wrapped_once():
    pruned = prune(functional())
    assert [w.layer.name for w in sa.pruned_layers(pruned)].count("shared") == 1
    model = prune(subclassed())
    assert model.first is model.alias


@pytest.mark.filterwarnings("ignore::tf_seqattn.PruningWarning")
def test_several_inputs():
    model = two_inputs()
    inputs = {"a": X, "b": X[::-1]}
    expected = model(inputs)
    pruned = prune(model)
    assert len(sa.pruned_layers(pruned)) == 1
    np.testing.assert_allclose(pruned(inputs), expected, rtol=1e-5)
    np.testing.assert_allclose(sa.strip_pruning(pruned)(inputs), expected, rtol=1e-5)


def test_a_layer_and_a_list():
    layer = sa.prune(layers.Dense(8), SCHEDULE, (2, 2))
    assert isinstance(layer, sa.PrunableLayer)
    listed = prune([layers.Dense(8), layers.ReLU(), layers.Dense(8)])
    assert [type(item).__name__ for item in listed] == [
        "PrunableLayer",
        "ReLU",
        "PrunableLayer",
    ]
    model = keras.Sequential([keras.Input((8,)), *listed])
    model.compile("adam", "mse")
    train(model)
    trained = model(X).numpy()
    plain = sa.strip_pruning(listed)
    assert not any(isinstance(item, sa.PrunableLayer) for item in plain)
    stripped = keras.Sequential([keras.Input((8,)), *plain])
    np.testing.assert_allclose(stripped(X), trained, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore::tf_seqattn.PruningWarning")
def test_an_unbuilt_sequential_model_decides_when_it_is_built(caplog):
    caplog.set_level(logging.INFO, logger="tf_seqattn")
    model = keras.Sequential([layers.Dense(32), layers.Dense(2, name="small")])
    pruned = sa.prune(model, SCHEDULE, (2, 2))
    pruned.build((None, 32))
    pruned.compile("adam", "mse")
    rows = {r["layer"]: r for r in sa.summary(pruned, print_fn=lambda line: None)}
    assert rows["dense/kernel"]["num_blocks"] == 256
    assert "16 blocks, fewer than 100" in rows["small/kernel"]["left_alone"]
    assert "small" in caplog.text
    x = np.ones((4, 32), "float32")
    pruned.fit(x, x[:, :2], verbose=0, callbacks=[sa.UpdatePruningStep()])
    np.testing.assert_allclose(sa.strip_pruning(pruned)(x), pruned(x), rtol=1e-5)


def test_a_functional_class_with_its_own_constructor(keras):
    class Own(keras.Model):
        def __init__(self, width):
            inputs = keras.Input((8,))
            super().__init__(inputs, layers.Dense(width)(inputs))

    if keras.__name__ == "tf_keras":
        with pytest.raises(ValueError, match="Own.*constructor"):
            prune(Own(8))
        return
    # Keras 3 lets the graph itself be changed.
    model = Own(8)
    expected = model(X).numpy()
    pruned = prune(model)
    assert pruned is model and type(pruned.layers[1]) is type(
        sa.pruned_layers(model)[0]
    )
    np.testing.assert_allclose(pruned(X), expected, rtol=1e-5, atol=1e-6)
    pruned.compile("adam", "mse")
    train(pruned)
    trained = pruned(X).numpy()
    assert sa.strip_pruning(pruned) is model
    assert type(model.layers[1]) is layers.Dense
    np.testing.assert_allclose(model(X), trained, rtol=1e-4, atol=1e-5)


def test_the_default_policy_lists_what_it_leaves_alone_once(caplog):
    caplog.set_level(logging.INFO, logger="tf_seqattn")
    model = keras.Sequential(
        [
            keras.Input((8, 8, 16)),
            layers.Conv2D(16, 3, name="big"),
            layers.DepthwiseConv2D(3, name="depthwise"),
            layers.BatchNormalization(name="norm"),
            layers.Flatten(name="flat"),
            layers.Dense(2, name="small"),
        ]
    )
    pruned = sa.prune(model, SCHEDULE, block_size=(4, 4))
    assert [w.layer.name for w in sa.pruned_layers(pruned)] == ["big"]
    records = [r for r in caplog.records if r.name == "tf_seqattn"]
    assert [r.levelno for r in records] == [logging.WARNING, logging.INFO]
    line, message = (record.getMessage() for record in records)
    assert "left 2 with a kernel alone (depthwise, small)" in line
    for text in ("depthwise: ", "contracts no channels", "norm: ", "no kernel"):
        assert text in message
    assert "small: kernel has 64 blocks, fewer than 100" in message


def test_a_policy_of_the_user():
    class OnlySecond:
        """tfmot's protocol, without our base class."""

        def allow_pruning(self, layer):
            return layer.name == "second"

        def ensure_model_supports_pruning(self, model):
            assert model.name == "mine"

    model = keras.Sequential(
        [layers.Dense(8, input_shape=(8,)), layers.Dense(8, name="second")], name="mine"
    )
    pruned = prune(model, pruning_policy=OnlySecond())
    assert [w.layer.name for w in sa.pruned_layers(pruned)] == ["second"]


def test_one_shot_prunes_a_trained_model_without_training():
    model = sequential()
    kernel = model.layers[0].kernel.numpy()
    schedule = sa.OneShotSchedule(0.75, prune_step=0)
    for importance in (sa.Magnitude(), None):
        pruned = sa.prune(
            model, schedule, (2, 2), importance, pruning_policy=sa.PruningPolicy()
        )
        sparse = sa.strip_pruning(pruned).layers[0].kernel.numpy()
        blocks = kernel.reshape(4, 2, 4, 2).transpose(0, 2, 1, 3).reshape(16, 4)
        norms = np.sqrt((blocks**2).sum(1))
        keep = np.isin(np.arange(16), np.argsort(-norms)[:4]).reshape(4, 4)
        np.testing.assert_allclose(
            sparse, kernel * np.kron(keep, np.ones((2, 2))), rtol=1e-6
        )


def test_summary_reports_requested_and_reached_sparsity():
    layer = layers.Dense(10, input_shape=(10,), name="ragged")
    schedule = sa.OneShotSchedule(0.5, prune_step=0)
    layer.build((None, 10))
    model = keras.Sequential([sa.prune(layer, schedule, (4, 4), sa.Magnitude())])
    lines = []
    (row,) = sa.summary(model, print_fn=lines.append)
    assert row["num_blocks"] == 9 and row["kept_blocks"] == 4
    assert row["requested_sparsity"] == 0.5
    assert row["block_sparsity"] == pytest.approx(5 / 9)
    kernel = sa.strip_pruning(model).layers[0].kernel.numpy()
    assert row["zero_fraction"] == pytest.approx(np.mean(kernel == 0))
    assert row["phase"] == "sparse"
    assert "50.0%" in "".join(lines) and "55.6%" in "".join(lines)


def test_a_compiled_subclassed_model_has_to_be_compiled_again():
    model = subclassed()
    model.compile("sgd", "mse")
    model.fit(X, X, verbose=0)
    pruned = prune(model)
    with pytest.raises((RuntimeError, ValueError), match="compile"):
        pruned.fit(X, X, verbose=0)
    pruned.compile("sgd", "mse")
    train(pruned)


def test_layers_without_configuration_are_stripped_in_place():
    class Bare(layers.Layer):
        def __init__(self, width):
            super().__init__()
            self.width = width

        def build(self, input_shape):
            self.kernel = self.add_weight(name="kernel", shape=(8, self.width))

        def get_prunable_weights(self):
            return [self.kernel]

        def call(self, inputs):
            return inputs @ self.kernel

    pruned = prune(keras.Sequential([keras.Input((8,)), Bare(8)]))
    pruned.compile("adam", "mse")
    train(pruned)
    expected = pruned(X).numpy()
    stripped = sa.strip_pruning(pruned)
    assert not sa.pruned_layers(stripped)
    np.testing.assert_allclose(stripped(X), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("is_functional", [True, False])
def test_a_lambda_is_shared(is_functional):
    double = layers.Lambda(lambda x: 2 * x)
    if is_functional:
        inputs = keras.Input((8,))
        outputs = layers.Dense(4)(double(layers.Dense(8)(inputs)))
        model = keras.Model(inputs, outputs)
    else:
        model = keras.Sequential(
            [keras.Input((8,)), layers.Dense(8), double, layers.Dense(4)]
        )
    schedule = sa.OneShotSchedule(0.5, prune_step=0)
    pruned = sa.prune(model, schedule, (2, 2), pruning_policy=sa.PruningPolicy())
    expected = pruned(X)
    assert float(tf.reduce_max(tf.abs(expected))) > 0
    stripped = sa.strip_pruning(pruned)
    np.testing.assert_allclose(stripped(X), expected, rtol=1e-5)
    np.testing.assert_allclose(sa.pack(stripped)(X), expected, rtol=1e-5)


def test_code_in_a_file_is_not_run(tmp_path, keras):
    if keras.__name__ == "tf_keras":
        pytest.skip("Keras 2 asks for `safe_mode` as well, in its own file format")
    run = str(tmp_path / "run")
    hostile = lambda x, run=run: open(run, "w").close() or x  # noqa: E731
    model = keras.Sequential(
        [
            keras.Input((8,)),
            keras.layers.Dense(8),
            keras.layers.Lambda(hostile),
        ]
    )
    schedule = sa.OneShotSchedule(0.5, prune_step=0)
    pruned = sa.prune(model, schedule, (2, 2), pruning_policy=sa.PruningPolicy())
    (tmp_path / "run").unlink(missing_ok=True)
    path = tmp_path / "hostile.keras"
    pruned.save(path)
    for scope in (contextlib.nullcontext(), sa.prune_scope()):
        with scope, pytest.raises(ValueError, match="arbitrary code execution"):
            keras.models.load_model(path)
    assert not (tmp_path / "run").exists()


def test_safe_mode_is_never_switched_off():
    package = pathlib.Path(sa.__file__).parent
    for path in package.rglob("*.py"):
        text = path.read_text()
        assert "safe_mode=False" not in text, path
        assert "enable_unsafe_deserialization" not in text, path


def test_a_recurrent_layer_that_has_a_cache_of_dropout_masks(keras):
    cell = keras.layers.LSTMCell(4, dropout=0.5, recurrent_dropout=0.5)
    model = keras.Sequential([keras.Input((None, 4)), keras.layers.RNN(cell)])
    if keras.__name__ == "tf_keras":
        # The cache's keys are graphs, which TensorFlow cannot sort.
        with pytest.raises(ValueError, match="_dropout_mask_cache"):
            _ = model.submodules
    schedule = sa.OneShotSchedule(0.5, prune_step=0)
    policy = sa.PruningPolicy()
    pruned = sa.prune(model, schedule, block_size=(1, 1), pruning_policy=policy)
    kernel = sa.strip_pruning(pruned).get_weights()[0]
    assert np.count_nonzero(kernel) == kernel.size // 2


def test_pruned_layers_in_plain_modules(keras):
    schedule = sa.OneShotSchedule(0.5, prune_step=0)
    wrapped = sa.PrunableLayer(keras.layers.Dense(4), schedule, (1, 1))
    outer, inner = tf.Module(), tf.Module()
    outer.parts = {"inner": [inner]}
    inner.model = keras.Sequential([keras.Input((4,)), wrapped])
    assert sa.pruned_layers(outer) == [wrapped]
