"""Channels of a model are pruned together, with one logit a unit."""

import numpy as np
import pytest
import tensorflow as tf

import tf_seqattn as sa
from tests import channel_models
from tf_seqattn.keras_api import stored
from tf_seqattn.kernels.channel_labels import fixed
from tf_seqattn.sparsity.channel_layer import ChannelLayer
from tf_seqattn.sparsity.channel_units import kept_units, scale_slices

layers = None  # Of the Keras under test, by the fixture `keras`.

ONE_SHOT = sa.OneShotSchedule(0.5, prune_step=0)


def _pruned(model, schedule=ONE_SHOT, importance=None, round_to=1, **kwargs):
    return sa.prune(
        model,
        schedule,
        block_size="channels",
        importance=importance,
        round_to=round_to,
        **kwargs,
    )


def _fit(model, batch, epochs=6):
    outputs = np.zeros(np.asarray(model(batch)).shape, "float32")
    model.compile("adam", "mse")
    callbacks = [sa.UpdatePruningStep()]
    model.fit(
        batch, outputs, batch_size=4, epochs=epochs, verbose=0, callbacks=callbacks
    )


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", ["residual", "tagger", "transformer", "nested"])
def test_a_trained_model_is_pruned_at_once(keras, name):
    model = channel_models.build(keras, name)
    batch = channel_models.inputs(model)
    before = [group.units for group in sa.channel_groups(model)]
    pruned = _pruned(model, importance=sa.Magnitude())
    smaller = sa.shrink(sa.strip_pruning(pruned))
    after = [group.units for group in sa.channel_groups(smaller)]
    assert sorted(after) == sorted(round(units / 2) for units in before)
    assert channel_models.difference(pruned, smaller, batch) < 1e-5


def test_slices_of_channels_lose_some_after_pruning(keras):
    """Keras 2 writes the arguments of an operation anew when a model is wrapped."""
    x = keras.Input((8, 8, 3))
    y = layers.Conv2D(16, 3, activation="relu")(x)
    first, second = y[..., :8], y[..., 8:]
    second = layers.Conv2D(8, 1)(layers.DepthwiseConv2D(3, padding="same")(second))
    y = layers.GlobalAveragePooling2D()(layers.Concatenate()([first, second]))
    model = keras.Model(x, layers.Dense(3)(y))
    batch = channel_models.inputs(model)
    pruned = _pruned(model, importance=sa.Magnitude())
    smaller = sa.shrink(pruned)
    assert [group.units for group in sa.channel_groups(smaller)] == [4, 4, 4]
    assert channel_models.difference(pruned, smaller, batch) < 1e-5


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    "schedule",
    [
        sa.SequentialAttentionSchedule(0.5, end_step=20),
        sa.ACDCSchedule(0.5, end_step=20, cycles=2),
        sa.GradualSchedule(0.5, end_step=20, frequency=1),
    ],
    ids=lambda schedule: type(schedule).__name__,
)
def test_channels_are_pruned_in_training(keras, schedule):
    model = channel_models.build(keras, "residual")
    batch = channel_models.inputs(model, rows=16)
    pruned = _pruned(model, schedule)
    _fit(pruned, batch)
    smaller = sa.shrink(pruned)
    units = sorted(group.units for group in sa.channel_groups(smaller))
    assert units == [3, 5, 6]
    assert channel_models.difference(pruned, smaller, batch) < 1e-5


def test_wrapping_does_not_change_the_outputs(keras):
    model = channel_models.build(keras, "residual")
    batch = channel_models.inputs(model)
    before = np.asarray(model(batch))
    pruned = _pruned(model, sa.SequentialAttentionSchedule(0.5, end_step=20))
    np.testing.assert_allclose(np.asarray(pruned(batch)), before, rtol=1e-5)


def test_layers_of_a_group_share_their_logits(keras):
    model = channel_models.build(keras, "residual")
    pruned = _pruned(model, sa.SequentialAttentionSchedule(0.5, end_step=20))
    groups = sa.pruned_layers(pruned)
    assert sorted(group.layer.units for group in groups) == [6, 10, 12]
    batch = channel_models.inputs(model)
    for group in groups:
        group.steps_are_counted = True
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(pruned(batch) ** 2)
    tape.gradient(loss, pruned.trainable_variables)
    sums = [np.asarray(stored(g.pruned_kernels[0].scale_gradient)) for g in groups]
    assert all(np.abs(gradient).max() > 0 for gradient in sums)


def test_a_channel_is_multiplied_once_on_each_path(keras):
    """With attention 2 for a unit, exactly that channel of the features doubles."""
    x = keras.Input((6,))
    y = layers.Dense(4)(x)
    y = layers.Add()([y, layers.Dense(4)(layers.Dense(3)(x))])
    model = keras.Model(x, layers.Dense(2)(y))
    features = keras.Model(x, y)
    channel_models.randomize(model)
    batch = channel_models.inputs(model)
    importance = sa.SoftmaxAttention(activation="identity", clip=None)
    schedule = sa.SequentialAttentionSchedule(0.5, end_step=20)
    kernel, bias = model.layers[-1].get_weights()
    expected = np.asarray(features(batch)) * [1, 2, 1, 1] @ kernel + bias
    pruned = _pruned(model, schedule, importance)
    (group,) = (g for g in sa.pruned_layers(pruned) if g.layer.units == 4)
    group.logits[0].assign(np.array([[1.0], [2.0], [1.0], [1.0]]))
    np.testing.assert_allclose(np.asarray(pruned(batch)), expected, rtol=1e-5)


def test_the_norm_of_a_unit_is_over_all_its_slices(keras):
    model = keras.Sequential([keras.Input((3,)), layers.Dense(4), layers.Dense(2)])
    first, second = (np.asarray(layer.kernel) for layer in model.layers)
    pruned = _pruned(model, sa.SequentialAttentionSchedule(0.5, end_step=20))
    (group,) = sa.pruned_layers(pruned)
    group.layer.measure()
    expected = np.sqrt((first**2).sum(axis=0) + (second**2).sum(axis=1))
    norms = np.asarray(group.layer.norms)[:, 0]
    np.testing.assert_allclose(norms, expected, rtol=1e-5)


@pytest.mark.exhaustive
def test_a_saved_model_still_shares(keras, tmp_path):
    model = channel_models.build(keras, "residual")
    batch = channel_models.inputs(model, rows=16)
    pruned = _pruned(model, sa.SequentialAttentionSchedule(0.5, end_step=20))
    _fit(pruned, batch, epochs=3)
    pruned.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert len(sa.pruned_layers(loaded)) == len(sa.pruned_layers(pruned))
    assert channel_models.difference(pruned, loaded, batch) < 1e-6
    _fit(loaded, batch, epochs=3)
    assert sorted(g.units for g in sa.channel_groups(sa.shrink(loaded))) == [3, 5, 6]


def test_a_copy_that_no_longer_shares_is_refused(keras):
    model = channel_models.build(keras, "residual")
    batch = channel_models.inputs(model)
    pruned = _pruned(model, sa.SequentialAttentionSchedule(0.5, end_step=20))
    copy = keras.models.clone_model(pruned)
    with pytest.raises(ValueError, match="several copies of a group"):
        _fit(copy, batch)


@pytest.mark.parametrize(
    "units, sparsity, multiple, kept",
    [(64, 0.5, 8, 32), (100, 0.5, 8, 48), (12, 0.5, 8, 6), (64, 0.99, 8, 8)]
    + [(100, 0.0, 8, 100), (7, 0.99, 1, 1)],
)
def test_units_are_rounded(units, sparsity, multiple, kept):
    assert int(kept_units(units, sparsity, multiple)) == kept


@pytest.mark.parametrize("target", [0.25, 0.5])
def test_target_flops(keras, target):
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(64, 3, padding="same"),
            layers.Conv2D(48, 3, padding="same"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(10, name="head"),
        ]
    )
    before = sa.channel_groups(model).multiply_adds
    assert before == 64 * (27 * 64 + 9 * 64 * 48) + 480
    pruned = _pruned(model, importance=sa.Magnitude(), target_flops=target)
    lines = []
    sa.summary(pruned, print_fn=lines.append)
    smaller = sa.shrink(pruned)
    after = sa.channel_groups(smaller).multiply_adds
    assert target - 0.05 < after / before <= target
    (line,) = (line for line in lines if line.startswith("sa.shrink leaves"))
    assert f"{after:,} of {before:,} multiply-adds" in line
    assert f"{smaller.count_params():,} of {model.count_params():,}" in line
    assert any(line.startswith("the channels of head stay") for line in lines)


@pytest.mark.parametrize("target", [0.3, 0.6])
def test_target_parameters(keras, target):
    model = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(64),
            layers.BatchNormalization(),
            layers.Dense(48),
            layers.Dense(10),
        ]
    )
    before = model.count_params()
    smaller = sa.shrink(_pruned(model, target_parameters=target))
    assert target - 0.05 < smaller.count_params() / before <= target


def test_a_target_of_a_narrow_network(keras):
    """All groups lose half at the same share, so only some of them take that step."""
    hidden = [layers.Dense(16) for _ in range(6)]
    model = keras.Sequential([keras.Input((16,)), *hidden, layers.Dense(16)])
    smaller = sa.shrink(
        _pruned(model, importance=sa.Magnitude(), round_to=8, target_flops=0.6)
    )
    assert [g.units for g in sa.channel_groups(smaller)].count(8) == 3
    after = sa.channel_groups(smaller).multiply_adds
    assert 0.55 < after / sa.channel_groups(model).multiply_adds <= 0.6


def test_groups_that_are_left_alone_are_named(keras, caplog):
    class Own(keras.layers.Layer):
        def build(self, shape):
            self.kernel = self.add_weight(shape=(shape[-1], 8), name="kernel")
            self.built = True

        def call(self, x):
            return tf.matmul(x, self.kernel)

        def compute_output_shape(self, shape):
            return (*shape[:-1], 8)

        def channel_rule(self, call):
            labels, values = call.along(call.input, -1)
            call.read(self.kernel, 0, labels, values)
            return fixed(call.shape)

    x = keras.Input((4, 4, 3))
    y = layers.Conv2D(6, 1, groups=3, name="grouped")(layers.Conv2D(6, 1)(x))
    y = layers.Conv2D(6, 1, groups=2)(y)  # It ties all groups together.
    y = layers.Flatten()(y)
    y = Own(name="own")(layers.Dense(10, name="read_by_own")(y))
    y = layers.Dense(12, name="pruned")(y)
    model = keras.Model(x, layers.Dense(3)(y))
    pruned = _pruned(model)
    assert [group.layer.units for group in sa.pruned_layers(pruned)] == [12]
    reason = "Own (own), which reads them, is a custom layer without"
    assert f"read_by_own: {reason}" in caplog.text
    assert "conv2d: they can only go all at once" in caplog.text
    lines = []
    sa.summary(pruned, print_fn=lines.append)
    (line,) = (la for la in lines if la.startswith("the channels of read_by_own stay"))
    assert reason in line
    assert not any("fewer than 100" in line for line in lines)


def test_what_is_wrong_is_said(keras):
    model = channel_models.build(keras, "residual")
    with pytest.raises(ValueError, match="`round_to` must be"):
        _pruned(model, round_to=0)
    with pytest.raises(ValueError, match="`target_flops` must be"):
        _pruned(model, target_flops=2)
    with pytest.raises(ValueError, match="`target_parameters` must be"):
        _pruned(model, target_parameters=1)
    with pytest.raises(ValueError, match="not both"):
        _pruned(model, target_flops=0.5, target_parameters=0.5)
    with pytest.raises(ValueError, match="cannot be reached"):
        _pruned(model, target_flops=1e-4)
    with pytest.raises(ValueError, match="PowerPropagation"):
        _pruned(model, importance=sa.PowerPropagation())
    with pytest.raises(ValueError, match="`layers` chooses single layers"):
        _pruned(model, layers={"dense": None})
    with pytest.raises(ValueError, match="needs a whole model"):
        _pruned(layers.Dense(2))
    pruned = _pruned(model)
    assert any(isinstance(layer, ChannelLayer) for layer in pruned.layers)
    with pytest.raises(ValueError, match="pruned already"):
        _pruned(pruned)


def test_scaled_slices_have_the_gradients_of_the_plain_product():
    random = np.random.default_rng(0)
    weight = tf.constant(random.normal(size=(3, 4, 5)), tf.float32)
    values = tf.constant(random.normal(size=(2,)), tf.float32)
    positions, seen = np.array([1, -1, 0, 1]), []
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([weight, values])
        ours = scale_slices(weight, values, 1, positions, seen.append)
        plain = weight * tf.gather(tf.concat([values, [1.0]], 0), [1, 2, 0, 1])[:, None]
        losses = [tf.reduce_sum(product**2) for product in (ours, plain)]
    np.testing.assert_allclose(ours, plain)
    found, expected = (tape.gradient(loss, [weight, values]) for loss in losses)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, tf.convert_to_tensor(other), rtol=1e-5)
    np.testing.assert_allclose(seen[0], tf.convert_to_tensor(expected[1]), rtol=1e-5)


def test_a_model_of_its_own_class_may_hold_the_graph(keras):
    inputs = keras.Input((16,))
    hidden = keras.layers.Dense(32, activation="relu")(inputs)
    graph = keras.Model(inputs, keras.layers.Dense(2)(hidden))
    schedule = sa.OneShotSchedule(0.5, prune_step=1)
    pruned = sa.prune(graph, schedule, block_size="channels")

    class Task(keras.Model):
        def __init__(self):
            super().__init__()
            self.network = pruned

        def call(self, values):
            return self.network(values)

    task = Task()
    task.compile("sgd", "mse")
    x = np.ones((8, 16), "float32")
    task.fit(x, x[:, :2], verbose=0, callbacks=[sa.UpdatePruningStep()])
    lines = []
    sa.summary(task, print_fn=lines.append)
    assert "sa.shrink leaves 288 of 576 multiply-adds" in "\n".join(lines)
    assert sa.shrink(pruned).layers[1].units == 16
