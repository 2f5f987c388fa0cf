"""Channels inside custom layers and subclassed models, followed through their calls."""

import numpy as np
import pytest
import tensorflow as tf

import tf_seqattn as sa
from tests import channel_models
from tf_seqattn.keras_api import graph_calls

keras = layers = None  # Of the Keras under test, by the fixture `keras`.


def gated_unit():
    """A layer that holds two parallel layers and one that reads their product."""

    class Gated(layers.Layer):
        def __init__(self, width=12, outputs=6, **kwargs):
            super().__init__(**kwargs)
            self.width, self.outputs = width, outputs
            self.gate = layers.Dense(width, "sigmoid", name="gate")
            self.value = layers.Dense(width, "relu", name="value")
            self.out = layers.Dense(outputs, name="out")

        def build(self, shape):
            inner = (*shape[:-1], self.width)
            self.gate.build(shape)
            self.value.build(shape)
            self.out.build(inner)
            self.built = True

        def call(self, x):
            return self.out(self.gate(x) * self.value(x))

        def get_config(self):
            return {
                **super().get_config(),
                "width": self.width,
                "outputs": self.outputs,
            }

    return Gated


def subclassed(kind):
    """A subclassed model that was called, and a batch of inputs for it."""
    random = np.random.default_rng(0)
    images = random.normal(size=(4, 8, 8, 3)).astype("float32")
    relu = keras.activations.relu

    class Convolutions(keras.Model):
        def __init__(self):
            super().__init__()
            self.stem = layers.Conv2D(8, 3, padding="same", name="stem")
            self.norm = layers.BatchNormalization(name="norm")
            self.blocks = [
                layers.Conv2D(8, 3, padding="same", name=f"block_{i}") for i in range(2)
            ]
            self.pool = layers.GlobalAveragePooling2D()
            self.head = layers.Dense(3, name="head")

        def call(self, x):
            x = relu(self.norm(self.stem(x)))
            for block in self.blocks:
                x = x + relu(block(x))
            return self.head(self.pool(x))

    class UNet(keras.Model):
        def __init__(self):
            super().__init__()
            self.down = layers.Conv2D(6, 3, 2, "same", activation="relu", name="down")
            self.bottom = layers.Conv2D(
                10, 3, 2, "same", activation="relu", name="bottom"
            )
            self.up = layers.Conv2DTranspose(
                6, 3, 2, "same", activation="relu", name="up"
            )
            self.joined = layers.Concatenate()
            self.out = layers.Conv2DTranspose(2, 3, 2, "same", name="out")

        def call(self, x):
            down = self.down(x)
            up = self.up(self.bottom(down))
            return self.out(self.joined([down, up]))

    class Tagger(keras.Model):
        def __init__(self):
            super().__init__()
            self.table = layers.Embedding(20, 6, name="table")
            self.memory = layers.LSTM(10, return_sequences=True, name="memory")
            self.tags = layers.Dense(4, name="tags")

        def call(self, x):
            return self.tags(self.memory(self.table(x)))

    model = {"convolutions": Convolutions, "unet": UNet, "tagger": Tagger}[kind]()
    batch = images
    if kind == "tagger":
        batch = random.integers(0, 20, (4, 7)).astype("int32")
    model(batch)
    channel_models.randomize(model)
    return model, batch


UNITS = {"convolutions": [8], "unet": [6, 6, 10], "tagger": [6, 10]}


@pytest.mark.parametrize("kind", UNITS)
def test_a_subclassed_model_shrinks_in_place(keras, kind):
    model, batch = subclassed(kind)
    groups = sa.channel_groups(model)
    assert sorted(group.units for group in groups) == UNITS[kind]
    left = channel_models.silence(model)
    before, parameters = np.asarray(model(batch)), model.count_params()
    smaller = sa.shrink(model)
    assert smaller is model
    assert smaller.count_params() < 0.75 * parameters
    found = sorted((g.name, g.units) for g in sa.channel_groups(smaller))
    assert found == left
    after, moved = np.asarray(smaller(batch)), before - before.mean(axis=0)
    assert np.abs(moved).max() > 1e-3
    np.testing.assert_allclose(after, before, atol=2e-5 * np.abs(moved).max())


def test_a_wrong_removal_in_a_subclassed_model_shows(keras, monkeypatch):
    model, batch = subclassed("convolutions")
    channel_models.silence(model, share=0.25)
    before = np.asarray(model(batch))
    channel_models.remove_neighbours(monkeypatch)
    assert np.abs(np.asarray(sa.shrink(model)(batch)) - before).max() > 1e-3


def _towers(base):
    """A layer or model of two towers: a Sequential and a functional model."""

    class Towers(base):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            hidden = layers.Dense(12, activation="relu")
            self.first = keras.Sequential(
                [
                    keras.Input((5,)),
                    hidden,
                    layers.BatchNormalization(),
                    layers.Dense(4),
                ]
            )
            inputs = keras.Input((5,))
            y = layers.Dense(10, activation="relu")(inputs)
            self.second = keras.Model(inputs, layers.Dense(4)(y))

        def call(self, x):
            return self.first(x) * self.second(x)

    return Towers


def test_models_inside_a_subclassed_model_become_smaller(keras):
    model = _towers(keras.Model)()
    batch = np.random.default_rng(0).normal(size=(4, 5)).astype("float32")
    model(batch)
    channel_models.randomize(model)
    assert sorted(group.units for group in sa.channel_groups(model)) == [10, 12]
    channel_models.silence(model)
    before = np.asarray(model(batch))
    smaller = sa.shrink(model)
    assert smaller is model
    assert sorted(group.units for group in sa.channel_groups(smaller)) == [5, 6]
    np.testing.assert_allclose(np.asarray(smaller(batch)), before, atol=1e-5)
    # The batch may be another one.
    np.testing.assert_allclose(np.asarray(smaller(batch[:1])), before[:1], atol=1e-5)


def test_models_inside_a_custom_layer_become_smaller(keras):
    inputs = keras.Input((7,))
    held = _towers(layers.Layer)(name="towers")(layers.Dense(5)(inputs))
    model = keras.Model(inputs, layers.Dense(3)(held))
    channel_models.randomize(model)
    assert sorted(g.units for g in sa.channel_groups(model)) == [4, 5, 10, 12]
    channel_models.silence(model)
    smaller = sa.shrink(model)
    assert sorted(g.units for g in sa.channel_groups(smaller)) == [2, 3, 5, 6]
    batch = channel_models.inputs(model)
    assert channel_models.difference(model, smaller, batch) < 1e-5


def test_a_custom_layer_in_a_graph_becomes_a_smaller_copy(keras):
    gated = gated_unit()(name="gated")
    x = keras.Input((5,))
    model = keras.Model(x, layers.Dense(2)(gated(layers.Dense(7, name="first")(x))))
    channel_models.randomize(model)
    groups = {group.name: group for group in sa.channel_groups(model)}
    assert {name: group.units for name, group in groups.items()} == {
        "first": 7, "gated/gate": 12, "gated/out": 6,
    }  # fmt: skip
    assert groups["gated/gate"].layers == ["gated/gate", "gated/value", "gated/out"]
    batch = channel_models.inputs(model)
    channel_models.silence(model)
    parameters = model.count_params()
    smaller = sa.shrink(model)
    assert channel_models.difference(model, smaller, batch) < 1e-5
    copy = smaller.get_layer("gated")
    assert copy is not gated and type(copy) is type(gated)
    assert tuple(copy.gate.kernel.shape) == (4, 6)
    assert tuple(gated.gate.kernel.shape) == (7, 12)
    assert model.count_params() == parameters > smaller.count_params()


def test_a_size_that_a_layer_holds_as_a_number_stays(keras):
    class Heads(layers.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.size = 6
            self.inner = layers.Dense(12, name="inner")

        def build(self, shape):
            self.inner.build(shape)
            self.built = True

        def call(self, x):
            return tf.reshape(self.inner(x), (-1, 2, self.size))

    if keras.__name__ == "keras":
        Heads.call = lambda self, x: keras.ops.reshape(
            self.inner(x), (-1, 2, self.size)
        )
    x = keras.Input((5,))
    y = layers.Dense(3)(Heads(name="heads")(x))
    groups = sa.channel_groups(keras.Model(x, y))
    assert not [group for group in groups if "inner" in group.name]
    assert "fixed size" in groups.frozen["heads/inner"]


WIDTH = 6


@pytest.mark.parametrize("kind", ["method", "global", "computed"])
def test_a_size_that_code_gives_as_a_number_stays(keras, kind):
    """Else the model, which is changed in place, could not be called again."""
    reshape = tf.reshape if keras.__name__ == "tf_keras" else keras.ops.reshape

    class Paired(keras.Model):
        def __init__(self):
            super().__init__(name="paired")
            self.inner = keras.layers.Dense(12, name="inner")
            self.hidden = keras.layers.Dense(10, name="hidden")
            self.head = keras.layers.Dense(3, name="head")

    class Method(Paired):
        def pairs(self, x):
            return reshape(x, (-1, 2, 6))

        def call(self, x):
            return self.head(self.hidden(self.pairs(self.inner(x))))

    class Global(Paired):
        def call(self, x):
            return self.head(self.hidden(reshape(self.inner(x), (-1, 2, WIDTH))))

    class Computed(Paired):
        def call(self, x):
            y = self.inner(x)
            return self.head(self.hidden(reshape(y, (-1, 2, y.shape[-1] // 2))))

    model = {"method": Method, "global": Global, "computed": Computed}[kind]()
    batch = np.random.default_rng(0).normal(size=(4, 5)).astype("float32")
    model(batch)
    channel_models.randomize(model)
    groups = sa.channel_groups(model)
    if kind == "computed":
        assert [group.units for group in groups] == [6, 10]
    else:
        assert [group.units for group in groups] == [10]
        assert "fixed size" in groups.frozen["paired/inner"]
    channel_models.silence(model)
    before = np.asarray(model(batch))
    assert np.ptp(before, axis=0).min() > 1e-3
    np.testing.assert_allclose(np.asarray(sa.shrink(model)(batch)), before, atol=1e-5)


def test_operations_of_tensorflow_inside_keras_3_give_a_reason():
    import keras

    class Plain(keras.Model):
        def __init__(self):
            super().__init__(name="plain")
            self.inner = keras.layers.Dense(8, name="inner")
            self.head = keras.layers.Dense(2, name="head")

        def build(self, shape):
            self.inner.build(shape)
            self.head.build((None, 8))
            self.built = True

        def call(self, x):
            return self.head(tf.nn.softplus(self.inner(x)))

    model = Plain()
    model(np.ones((2, 6), "float32"))
    groups = sa.channel_groups(model)
    assert not groups
    assert "Plain (plain) cannot be followed" in groups.frozen["plain"]


@pytest.mark.filterwarnings("ignore:Training ended", "ignore:The phases")
def test_a_subclassed_model_is_pruned_by_attention_and_shrunk(keras, tmp_path):
    model, batch = subclassed("convolutions")
    pruned = sa.prune(
        model,
        sa.SequentialAttentionSchedule(0.5, end_step=8),
        block_size="channels",
        round_to=1,
    )
    pruned.compile("adam", "mse")
    x = np.repeat(batch, 4, axis=0)
    pruned.fit(
        x, x[:, 0, 0], 4, epochs=2, verbose=0, callbacks=[sa.UpdatePruningStep()]
    )
    sparse = sa.strip_pruning(pruned)
    before, parameters = np.asarray(sparse(batch)), sparse.count_params()
    smaller = sa.shrink(sparse)
    assert smaller.count_params() < 0.7 * parameters
    np.testing.assert_allclose(np.asarray(smaller(batch)), before, atol=1e-4)


@pytest.mark.filterwarnings("ignore:Training ended", "ignore:The phases")
def test_a_custom_layer_is_pruned_by_attention_shrunk_and_exported(keras, tmp_path):
    x = keras.Input((5,))
    y = layers.Dense(8, name="first")(x)
    y = layers.Dense(2)(gated_unit()(name="gated")(y))
    model = keras.Model(x, y)
    channel_models.randomize(model)
    batch = channel_models.inputs(model, rows=16)
    before = np.asarray(model(batch))
    pruned = sa.prune(
        model,
        sa.SequentialAttentionSchedule(0.5, end_step=8),
        block_size="channels",
        round_to=1,
    )
    np.testing.assert_allclose(np.asarray(pruned(batch)), before, atol=1e-5)
    units = sorted(group.layer.units for group in sa.pruned_layers(pruned))
    assert units == [6, 8, 12]
    pruned.compile("adam", "mse")
    pruned.fit(
        batch, batch[:, :2], 4, epochs=2, verbose=0, callbacks=[sa.UpdatePruningStep()]
    )
    lines = []
    sa.summary(pruned, print_fn=lines.append)
    # Of 5 x 8 + 2 (8 x 12) + 12 x 6 + 6 x 2 products.
    assert "sa.shrink leaves 92 of 316 multiply-adds" in "\n".join(lines)
    trained = np.asarray(pruned(batch))
    smaller = sa.shrink(pruned)
    left = sorted(group.units for group in sa.channel_groups(smaller))
    assert left == [3, 4, 6]
    assert np.ptp(trained) > 1e-2
    np.testing.assert_allclose(np.asarray(smaller(batch)), trained, atol=1e-5)
    report = sa.export_tflite(smaller, tmp_path / "smaller.tflite")
    assert report.differences["no delegate"] < 1e-4 * report.largest_output


def test_a_layer_that_holds_a_weight_of_one_inside_stays():
    import keras  # That of tf_keras cannot be built beside Keras 3.

    layers = keras.layers
    x = keras.Input((8, 8, 3))
    y = layers.SpectralNormalization(layers.Conv2D(8, 3), name="outer")(x)
    y = layers.GlobalAveragePooling2D()(layers.Conv2D(6, 1, name="behind")(y))
    model = keras.Model(x, layers.Dense(3)(y))
    groups = sa.channel_groups(model)
    assert [(group.name, group.units) for group in groups] == [("behind", 6)]
    assert "holds a weight of a layer inside" in groups.frozen["outer"]
    channel_models.silence(model)
    batch = channel_models.inputs(model)
    assert channel_models.difference(model, sa.shrink(model), batch) < 1e-5


def test_reconstruction_says_that_it_leaves_layers_inside_others(keras, caplog):
    x = keras.Input((5,))
    y = layers.Dense(8, name="first")(x)
    model = keras.Model(x, layers.Dense(2)(gated_unit()(name="gated")(y)))
    pruned = sa.prune(
        model, sa.OneShotSchedule(0.5, prune_step=0), block_size="channels", round_to=1
    )
    sa.reconstruct(pruned, [channel_models.inputs(model, rows=16)])
    assert "left 1 layers as they are: layers inside other layers" in caplog.text


def test_a_summary_says_what_a_call_that_decides_by_values_keeps(keras):
    class Deciding(layers.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.inner = layers.Dense(8, name="inner")

        def build(self, shape):
            self.inner.build(shape)
            self.built = True

        def compute_output_shape(self, shape):
            return (*shape[:-1], 8)

        def call(self, x):
            if tf.reduce_sum(x) > 0:
                x = -x
            return self.inner(x)

    x = keras.Input((5,))
    y = Deciding(name="deciding")(layers.Dense(6, name="before")(x))
    y = layers.Dense(12, "relu", name="behind")(y)
    model = keras.Model(x, layers.Dense(2)(y))
    pruned = sa.prune(
        model, sa.OneShotSchedule(0.5, prune_step=0), block_size="channels", round_to=1
    )
    lines = []
    sa.summary(pruned, print_fn=lines.append)
    assert [group.layer.units for group in sa.pruned_layers(pruned)] == [12]
    for name in ("deciding", "before"):
        (line,) = (la for la in lines if la.startswith(f"the channels of {name} stay"))
        assert "Deciding (deciding) cannot be followed" in line


def test_the_rule_of_a_layer_comes_before_the_layers_that_it_holds(keras):
    class Ruled(gated_unit()):
        def channel_rule(self, call):
            return call.give_up("its own rule")

    x = keras.Input((5,))
    y = Ruled(name="ruled")(layers.Dense(7, name="first")(x))
    groups = sa.channel_groups(keras.Model(x, layers.Dense(2)(y)))
    assert not groups
    assert groups.frozen["first"] == "its own rule"


def test_a_layer_without_a_copy_keeps_its_call_in_the_new_graph(keras):
    class Doubled(keras.layers.Layer):
        def call(self, inputs):
            return 2 * inputs

        def get_config(self):
            raise NotImplementedError

    inputs = keras.Input((6,))
    hidden = keras.layers.Dense(16, name="hidden")(Doubled()(inputs))
    model = keras.Model(inputs, keras.layers.Dense(3, name="head")(hidden))
    model.layers[-1].kernel.assign(
        model.layers[-1].kernel * (np.arange(16)[:, None] < 8).astype("float32")
    )
    smaller = sa.shrink(model)
    for call in graph_calls(smaller):
        layer, node = call.outputs[0]._keras_history[:2]
        assert node < len(layer._inbound_nodes), f"{layer.name} lost its call"
    # A model without this call cannot be cloned: Keras 2 waits for it without end.
    again = sa.pack(smaller)
    rows = np.random.default_rng(0).normal(size=(4, 6)).astype("float32")
    np.testing.assert_allclose(again(rows), model(rows), atol=1e-5)
    assert smaller.count_params() < model.count_params()
