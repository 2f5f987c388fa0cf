"""Choices for single layers: `layers` of `sa.prune`, and several calls of it."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

import tf_seqattn as sa

pytestmark = pytest.mark.usefixtures("keras")
ALL = sa.PruningPolicy()
SCHEDULE = sa.OneShotSchedule(0.5, prune_step=0)


def model_of_three():
    return keras.Sequential(
        [
            keras.layers.Conv2D(8, 2, input_shape=(3, 3, 8), name="conv"),
            keras.layers.GlobalAveragePooling2D(name="pool"),
            keras.layers.Dense(16, name="dense_a"),
            keras.layers.Dense(16, name="dense_b"),
        ]
    )


def prune(model=None, **arguments):
    arguments = {"block_size": (2, 2), "importance": sa.Magnitude()} | arguments
    arguments.setdefault("pruning_policy", ALL)
    return sa.prune(model or model_of_three(), SCHEDULE, **arguments)


def wrappers(model):
    return {found.layer.name: found for found in sa.pruned_layers(model)}


def test_each_layer_follows_its_most_specific_key():
    found = wrappers(
        prune(
            layers={
                keras.layers.Layer: {"block_size": (8, 4)},
                "dense_*": {"importance": sa.PowerPropagation()},
                "dense_b": {"sparsity": 0.75, "balanced": True},
            }
        )
    )
    conv, dense_a, dense_b = (found[n] for n in ("conv", "dense_a", "dense_b"))
    assert conv.block_size == (8, 4) and conv.importance == sa.Magnitude()
    # One key only: a class is ignored where a glob matches.
    assert dense_a.block_size == (2, 2)
    assert dense_a.importance == sa.PowerPropagation()
    assert dense_b.balanced and not dense_a.balanced
    assert dense_b.importance == sa.Magnitude()
    kept = [float(np.mean(layer.masks[0].numpy())) for layer in (dense_a, dense_b)]
    assert kept == [0.5, 0.25]


def test_schedule_pattern_and_none():
    own = sa.OneShotSchedule(0.5, prune_step=7)
    found = wrappers(
        prune(
            layers={
                "conv": None,
                "dense_a": {"pruning_schedule": own},
                "dense_b": {"pattern": "2:4"},
            }
        )
    )
    assert set(found) == {"dense_a", "dense_b"}
    assert found["dense_a"].pruning_schedule == own
    assert found["dense_b"].pattern == sa.NofM("2:4") and found[
        "dense_b"
    ].block_size == (1, 1)
    found = wrappers(
        prune(
            block_size=(16, 16), pattern="2:4", layers={"conv": {"block_size": (4, 4)}}
        )
    )
    assert found["conv"].pattern is None and found["conv"].block_size == (4, 4)


def test_the_default_policy_counts_the_blocks_of_the_layer():
    found = wrappers(
        prune(pruning_policy=None, layers={"conv": {"block_size": (1, 2)}})
    )
    assert set(found) == {"conv"}  # 32 x 4 blocks; the others have fewer than 100.
    assert found["conv"].min_blocks == sa.MinimumBlocks((1, 2)).min_blocks


def test_a_single_layer_and_a_list():
    layer = keras.layers.Dense(8, name="dense_a")
    assert prune(layer, layers={"dense_a": {"block_size": (4, 4)}}).block_size == (4, 4)
    first, second = prune(
        [keras.layers.Dense(8, name="one"), keras.layers.Dense(8, name="two")],
        layers={"t*": None},
    )
    assert isinstance(first, sa.PrunableLayer) and second.name == "two"


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ({"dense_c": {}}, "'dense_c', which matches no layer; the model has 'dense_"),
        ({"con": None}, "the model has 'conv'"),
        ({"pool": {}}, "no layer to prune; 'pool': .* has no weights"),
        ({"dense_a": {"blocksize": (2, 2)}}, "'blocksize'; did you mean 'block_size'"),
        ({"dense_a": {"sparsity": 90}}, r"layers\['dense_a'\]\['sparsity'\]=90"),
        ({"dense_a": (2, 2)}, "must be None.* or a mapping"),
        ({3: {}}, "A key of `layers`.*Received: 3"),
        ([("dense_a", {})], "`layers` must map"),
    ],
)
def test_a_wrong_entry_is_named(layers, message):
    with pytest.raises(ValueError, match=message):
        prune(layers=layers)


def test_a_key_of_layers_that_are_left_alone():
    with pytest.raises(ValueError, match="left alone, such as 'conv': .*fewer than"):
        prune(pruning_policy=None, layers={"conv": {"block_size": (8, 8)}})


# Several calls.


def subclassed():
    class Two(keras.Model):
        def __init__(self):
            super().__init__()
            self.one = keras.layers.Dense(8, name="one")
            self.two = keras.layers.Dense(8, name="two")

        def call(self, inputs):
            return self.two(self.one(inputs))

    model = Two()
    model(tf.ones((1, 8)))
    return model


@pytest.mark.parametrize("make", [model_of_three, subclassed])
def test_a_wrapped_layer_stays_as_it_is(make):
    model = make()
    names = [la.name for la in model.layers if la.weights]
    x = np.random.default_rng(0).normal(size=(2, 3, 3, 8)).astype("float32")
    x = x if make is model_of_three else x[:, 0, 0]
    first = prune(model, layers={name: None for name in names[1:]})
    before = wrappers(first)
    second = prune(first, block_size=(4, 4))
    after = wrappers(second)
    assert set(before) == {names[0]} and set(after) == set(names)
    assert after[names[0]] is before[names[0]]
    assert after[names[0]].block_size == (2, 2)
    assert after[names[1]].block_size == (4, 4)
    expected = second(x)
    assert float(tf.reduce_max(tf.abs(expected))) > 0
    np.testing.assert_allclose(sa.strip_pruning(second)(x), expected, rtol=1e-5)


def test_layers_that_are_wrapped_before_the_model_is_made():
    layer = prune(keras.layers.Dense(8, input_shape=(8,), name="one"))
    assert prune(layer) is layer
    model = keras.Sequential([layer, keras.layers.Dense(8, name="two")])
    assert model.built
    found = wrappers(prune(model, block_size=(4, 4)))
    sizes = {name: wrapper.block_size for name, wrapper in found.items()}
    assert sizes == {"one": (2, 2), "two": (4, 4)}
    with pytest.raises(ValueError, match="is pruned already"):
        prune(model, layers={"prunable_one": {}})


# Layers without a kernel.


@pytest.mark.parametrize("name", ["MaxPooling2D", "BatchNormalization", "Dropout"])
def test_a_layer_without_a_kernel_is_wrapped_as_it_is(name):
    kind = getattr(keras.layers, name)
    layer = kind(0.5) if name == "Dropout" else kind()
    wrapped = sa.prune(layer, SCHEDULE, (2, 2), input_shape=(4, 4, 3))
    model = keras.Sequential([wrapped, keras.layers.Flatten(), keras.layers.Dense(4)])
    assert model.built and not wrapped.pruned_kernels
    x = np.random.default_rng(0).normal(size=(2, 4, 4, 3)).astype("float32")
    np.testing.assert_allclose(wrapped(x), layer(x))
    (reason,) = wrapped.left_dense.values()
    assert name in reason
    assert sa.summary(model, print_fn=str)[0]["left_alone"] == reason
    restored = type(model).from_config(model.get_config())
    assert isinstance(restored.layers[0], sa.PrunableLayer)
    assert type(sa.strip_pruning(model).layers[0]) is kind


def test_a_custom_layer_without_kernels_is_still_refused():
    class Own(keras.layers.Layer):
        pass

    with pytest.raises(ValueError, match="get_prunable_weights"):
        sa.PrunableLayer(Own(), SCHEDULE)


# More kernels.


@pytest.mark.exhaustive
@pytest.mark.parametrize("implementation", [1, 2, 3])
@pytest.mark.parametrize("name", ["LocallyConnected1D", "LocallyConnected2D"])
def test_locally_connected_layers(name, implementation, keras):
    kind = getattr(keras.layers, name, None)
    if kind is None:
        pytest.skip("Keras 3 has no such layer")
    layer = kind(4, 2, implementation=implementation)
    shape = (6, 2) if name.endswith("1D") else (4, 4, 2)
    pruned = prune(layer, input_shape=shape)
    model = keras.Sequential([pruned])
    if implementation == 3:
        assert not pruned.pruned_kernels and "no kernel" in str(pruned.left_dense)
        return
    (kernel,) = pruned.pruned_kernels
    pruned.update_masks(0.5)
    assert abs(float(np.mean(kernel.mask.numpy())) - 0.5) < 0.1
    x = np.random.default_rng(0).normal(size=(2, *shape)).astype("float32")
    expected = model(x)
    assert float(tf.reduce_max(tf.abs(expected))) > 0
    np.testing.assert_allclose(sa.strip_pruning(model)(x), expected, rtol=1e-5)
    assert not np.allclose(layer(x), expected)


@pytest.mark.parametrize("name", ["DepthwiseConv1D", "DepthwiseConv2D"])
def test_a_pattern_in_a_depthwise_kernel(name):
    layer = getattr(keras.layers, name)(4, depth_multiplier=2)
    shape = (2, 8, 8, 3) if name.endswith("2D") else (2, 8, 3)
    layer.build(shape)
    schedule = sa.OneShotSchedule(0.5, prune_step=0)
    pruned = sa.prune(layer, schedule, importance=sa.Magnitude(), pattern="2:4")
    pruned.build(shape)
    (kernel,) = pruned.pruned_kernels
    window = 16 if name.endswith("2D") else 4
    assert kernel.grid.matrix_shape == (window, 6)
    groups = kernel.mask.numpy().reshape(window // 4, 4, 6)
    assert (groups.sum(axis=1) == 2).all()
    x = np.random.default_rng(0).normal(size=shape).astype("float32")
    expected = pruned(x)
    assert not np.allclose(expected, layer(x))
    np.testing.assert_allclose(sa.strip_pruning(pruned)(x), expected, rtol=1e-5)
    # There are no blocks.
    blocks = sa.PrunableLayer(getattr(keras.layers, name)(3), schedule)
    blocks.build(shape)
    assert "contracts no channels" in str(blocks.left_dense)
