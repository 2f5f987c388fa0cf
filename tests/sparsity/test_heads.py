"""Whole heads of attention layers are pruned, and nothing else."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

import tf_seqattn as sa
from tf_seqattn.sparsity.policies import MinimumBlocks
from tf_seqattn.sparsity.wrapper import PrunableLayer

layers = keras.layers
# Every test runs on Keras 2 and on Keras 3.
pytestmark = pytest.mark.usefixtures("keras")


def attention_model(heads=6, key_dim=4, value_dim=None):
    x = keras.Input((5, 16))
    y = layers.Dense(16, name="first")(x)
    y = layers.MultiHeadAttention(heads, key_dim, value_dim, name="attention")(y, y)
    return keras.Model(x, layers.Dense(1, name="last")(y))


def prune_at_once(model, sparsity, **options):
    return sa.prune(
        model,
        sa.OneShotSchedule(sparsity, prune_step=0),
        block_size="heads",
        importance=sa.Magnitude(),
        **options,
    )


def test_the_weakest_heads_are_pruned_and_the_rest_left_alone(caplog):
    model = attention_model()
    output = model.get_layer("attention")._output_dense
    kernel = np.ones((6, 4, 16), "float32")
    kernel[[1, 4]] = 0.1
    output.set_weights([kernel, np.zeros(16)])
    with caplog.at_level("INFO", "tf_seqattn"):
        pruned = prune_at_once(model, 1 / 3)
    assert "first: Dense has no attention heads" in caplog.text
    (wrapper,) = sa.pruned_layers(pruned)
    (found,) = wrapper.pruned_kernels
    assert found.name == "output/kernel" and found.grid.shape == (6, 1)
    np.testing.assert_array_equal(found.mask.numpy()[:, 0], [1, 0, 1, 1, 0, 1])
    assert set(wrapper.left_dense) == {"query/kernel", "key/kernel", "value/kernel"}
    x = np.random.default_rng(0).normal(size=(3, 5, 16)).astype("float32")
    stripped = sa.strip_pruning(pruned)
    kernel[[1, 4]] = 0
    output.set_weights([kernel, np.zeros(16)])
    np.testing.assert_allclose(stripped(x), model(x), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(pruned(x), model(x), rtol=1e-5, atol=1e-6)


def test_a_head_is_of_the_size_of_its_values():
    (wrapper,) = sa.pruned_layers(prune_at_once(attention_model(value_dim=3), 0.5))
    assert wrapper.pruned_kernels[0].grid.block_size == (3, 16)


def test_training_through_all_phases_and_saving(tmp_path):
    schedule = sa.SequentialAttentionSchedule(0.5, end_step=20, cycles=2)
    pruned = sa.prune(attention_model(), schedule, block_size="heads")
    pruned.compile("adam", "mse")
    x = np.random.default_rng(0).normal(size=(80, 5, 16)).astype("float32")
    logs = sa.PruningSummaries(str(tmp_path / "logs"))
    y = x[..., :1]
    pruned.fit(x, y, batch_size=4, verbose=0, callbacks=[sa.UpdatePruningStep(), logs])
    (wrapper,) = sa.pruned_layers(pruned)
    assert wrapper.masks[0].numpy().sum() == 3
    assert wrapper.logits[0].shape == (6, 1)
    pruned.save(tmp_path / "pruned.keras")
    loaded = keras.models.load_model(tmp_path / "pruned.keras")
    assert sa.pruned_layers(loaded)[0].block_size == "heads"
    np.testing.assert_allclose(loaded(x), pruned(x), rtol=1e-5, atol=1e-6)
    lines = []
    sa.summary(pruned, print_fn=lines.append)
    text = "\n".join(lines)
    assert "6 of 4 x 16" in text and "it is removed with its heads" in text


def test_allocation_and_sensitivity_know_heads():
    model = attention_model()
    targets = sa.global_allocation(model, 0.5, block_size="heads")
    assert set(targets) == {"attention"}
    model.compile(loss="mse")
    x = np.ones((4, 5, 16), "float32")
    found = sa.sensitivity(model, (x, x[..., :1]), (0.5,), "heads", verbose=0)
    assert found.blocks == {"attention": 6}


def test_grouped_queries_have_heads_of_queries(keras):
    if keras.__name__ != "keras":
        pytest.skip("Keras 2 has no GroupQueryAttention")
    x = keras.Input((5, 16))
    y = layers.GroupQueryAttention(4, 8, 2, name="attention")(x, x)
    (wrapper,) = sa.pruned_layers(prune_at_once(keras.Model(x, y), 0.5))
    assert wrapper.pruned_kernels[0].grid.shape == (8, 1)


def test_a_layer_without_heads_is_refused():
    schedule = sa.OneShotSchedule(0.5, prune_step=0)
    with pytest.raises(ValueError, match="'first': Dense has no attention heads"):
        PrunableLayer(layers.Dense(4, name="first"), schedule, block_size="heads")
    with pytest.raises(ValueError, match="\"heads\".*block_size='head'"):
        PrunableLayer(layers.Dense(4), schedule, block_size="head")
    with pytest.raises(ValueError, match="has no layer to prune by blocks of heads"):
        dense = keras.Sequential([keras.Input((4,)), layers.Dense(4)])
        sa.uniform_allocation(dense, 0.5, "heads")
    with pytest.raises(ValueError, match="leave out `block_size`"):
        attention = layers.MultiHeadAttention(2, 2)
        sa.prune(attention, schedule, block_size="heads", pattern="2:4")


def test_a_single_head_is_left_alone():
    policy = MinimumBlocks("heads")
    model = attention_model(heads=1)
    layer = model.get_layer("attention")
    assert not policy.allow_pruning(layer)
    assert policy.reason(layer) == "output/kernel has 1 blocks, fewer than 2"
    custom = layers.Dense(3)
    custom.build((None, 2))
    assert policy.reason(custom) == "Dense has no attention heads"
    assert not tf.nest.flatten(sa.pruned_layers(prune_at_once(model, 0.5)))
