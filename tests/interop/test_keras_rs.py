"""`FeatureCross` of keras-rs: pruned as a whole, alone and in models."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_seqattn as sa

keras_rs = pytest.importorskip("keras_rs", reason="pip install 'tf-seqattn[keras-rs]'")
FeatureCross = keras_rs.layers.FeatureCross

SCHEDULE = sa.OneShotSchedule(0.75, prune_step=0)
KERNELS = {
    None: {"dense/kernel": (32, 32)},
    8: {"down_proj_dense/kernel": (32, 8), "dense/kernel": (8, 32)},
}


def rows(seed, size=32):
    return np.random.default_rng(seed).normal(size=(6, size)).astype("float32")


def crossed(x0, x, kernels):
    """What a cross computes whose bias is zero."""
    product = x
    for kernel in kernels:
        product = product @ kernel
    return x0 * product + x


@pytest.mark.parametrize("built", ["by its call", "before", "by its shape"])
@pytest.mark.parametrize("rank", KERNELS)
def test_a_cross_is_wrapped_as_a_whole(rank, built):
    cross = FeatureCross(rank)
    x0, x = rows(0), rows(1)
    if built == "before":
        # keras-rs makes the dense layers here, and their kernels in the first call.
        cross.build((None, 32))
    layer = sa.PrunableLayer(cross, SCHEDULE, block_size=(4, 4))
    if built == "by its shape":
        layer.build((None, 32))
    layer(x0, x)
    layer.update_masks(0.75)
    outputs = layer(x0, x)
    found = {p.name: tuple(p.kernel.variable.shape) for p in layer.pruned_kernels}
    assert found == KERNELS[rank]
    for pruned in layer.pruned_kernels:
        assert np.mean(pruned.mask) == 0.25
    kernels = [layer.effective_kernel(p).numpy() for p in layer.pruned_kernels]
    np.testing.assert_allclose(outputs, crossed(x0, x, kernels), atol=1e-5)
    assert not np.allclose(outputs, cross(x0, x), atol=1e-3)
    stripped = sa.strip_pruning(layer)
    assert stripped is cross
    np.testing.assert_allclose(cross(x0, x), outputs, atol=1e-5)
    assert np.mean(cross.dense.kernel.numpy() == 0) == 0.75


def test_one_input_is_crossed_with_itself():
    layer = sa.PrunableLayer(FeatureCross(), SCHEDULE, block_size=(4, 4))
    np.testing.assert_allclose(layer(rows(0)), layer(rows(0), rows(0)), atol=1e-6)


def crossing(rank):
    """Two crosses of 32 numbers, of which 16 are computed."""
    inputs = keras.Input((16,))
    hidden = keras.layers.Dense(16, activation="relu", name="hidden")(inputs)
    first = x = keras.layers.Concatenate()([inputs, hidden])
    for number in (1, 2):
        x = FeatureCross(rank, name=f"cross_{number}")(first, x)
    return keras.Model(inputs, keras.layers.Dense(1, name="head")(x))


@pytest.mark.parametrize("rank", [pytest.param(None, marks=pytest.mark.slow), 8])
def test_a_pruned_model_is_saved_packed_and_exported(rank, tmp_path):
    policy = sa.MinimumBlocks((4, 4), min_blocks=16)
    pruned = sa.prune(crossing(rank), SCHEDULE, (4, 4), pruning_policy=policy)
    names = [layer.layer.name for layer in sa.pruned_layers(pruned)]
    assert names == ["hidden", "cross_1", "cross_2"]
    x = rows(2, 16)
    expected = pruned(x).numpy()
    # It takes the wrapper around the whole layer to load a model that is still pruned.
    pruned.save(tmp_path / "pruned.keras")
    loaded = keras.models.load_model(tmp_path / "pruned.keras")
    np.testing.assert_allclose(loaded(x), expected, atol=1e-5)
    table = {row["layer"]: row for row in sa.summary(loaded, print_fn=lambda _: None)}
    for kernel in KERNELS[rank]:
        assert table[f"cross_1/{kernel}"]["block_sparsity"] == 0.75

    stripped = sa.strip_pruning(loaded)
    stripped.save(tmp_path / "sparse.keras")
    stripped = keras.models.load_model(tmp_path / "sparse.keras")
    np.testing.assert_allclose(stripped(x), expected, atol=1e-5)
    packed = sa.pack(stripped, choose="always")
    assert packed.count_params() < stripped.count_params()
    np.testing.assert_allclose(packed(x), expected, atol=1e-5)
    report = sa.export_tflite(stripped, tmp_path / "m.tflite", choose="always")
    kernels = 1 + 2 * len(KERNELS[rank])
    assert sum(plan.layout == "packed" for plan in report.plans) == kernels
    assert report.differences["no delegate"] < 1e-5 * max(1, report.largest_output)
    sa.export_saved_model(stripped, tmp_path / "served", choose="always")
    served = tf.saved_model.load(tmp_path / "served")
    (outputs,) = served.signatures["serving_default"](tf.constant(x)).values()
    np.testing.assert_allclose(outputs, expected, atol=1e-5)


def test_one_key_chooses_all_crosses():
    layers = {FeatureCross: {"block_size": (8, 8), "min_blocks": 1}}
    policy = sa.MinimumBlocks((4, 4), min_blocks=16)
    pruned = sa.prune(crossing(None), SCHEDULE, (4, 4), None, policy, layers=layers)
    sizes = {p.layer.name: p.block_size for p in sa.pruned_layers(pruned)}
    assert sizes == {"hidden": (4, 4), "cross_1": (8, 8), "cross_2": (8, 8)}


@pytest.mark.parametrize("rank", KERNELS)
def test_channels_go_through_crosses(rank):
    model = crossing(rank)
    groups = {group.name: group for group in sa.channel_groups(model)}
    assert groups["hidden"].units == 16
    assert sum("cross" in name for name in groups["hidden"].layers) == 2 * len(
        KERNELS[rank]
    )
    # What is 0 when it enters a cross is 0 behind it.
    hidden = model.get_layer("hidden")
    kernel, bias = hidden.get_weights()
    kernel[:, 4:12], bias[4:12] = 0, 0
    hidden.set_weights([kernel, bias])
    x = rows(3, 16)
    smaller = sa.shrink(model)
    assert smaller.get_layer("head").kernel.shape == (24, 1)
    assert smaller.get_layer("cross_1").dense.kernel.shape[1] == 24
    np.testing.assert_allclose(smaller(x), model(x), atol=1e-5)
