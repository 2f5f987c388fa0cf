"""Channels ranked by the scales of batch normalizations."""

import numpy as np
import pytest
import tf_keras as keras

import tf_seqattn as sa

layers = keras.layers
# Every test runs on Keras 2 and on Keras 3.
pytestmark = pytest.mark.usefixtures("keras")


def network():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(16, 3, padding="same", use_bias=False, name="first")(inputs)
    x = layers.ReLU()(layers.BatchNormalization(name="norm")(x))
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.Dense(12, activation="relu", name="hidden")(x)
    return keras.Model(inputs, layers.Dense(4, name="last")(x))


def set_scales(model, scales):
    norm = model.get_layer("norm")
    norm.set_weights([scales, *norm.get_weights()[1:]])


def prune(model):
    schedule = sa.OneShotSchedule(0.5, prune_step=0)
    scale = sa.NormalizationScale()
    return sa.prune(model, schedule, "channels", scale, round_to=1)


def test_the_smallest_scales_go_and_the_outputs_stay(tmp_path, caplog):
    model = network()
    scales = np.random.default_rng(0).permutation(np.linspace(-1.0, 1.6, 16))
    set_scales(model, scales.astype("float32"))
    kernel = model.get_layer("first").kernel.numpy()
    pruned = prune(model)
    # Nothing scales the hidden units.
    assert "No batch normalization scales the channels of hidden" in caplog.text
    x = np.random.default_rng(1).normal(size=(5, 8, 8, 3)).astype("float32")
    expected = np.asarray(pruned(x))
    assert np.ptp(expected) > 1e-2
    pruned.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    np.testing.assert_allclose(loaded(x), expected, atol=1e-6)
    smaller = sa.shrink(pruned)
    largest = np.sort(np.argsort(np.abs(scales))[8:])
    np.testing.assert_array_equal(
        smaller.get_layer("first").kernel.numpy(), kernel[..., largest]
    )
    assert smaller.get_layer("hidden").units == 12
    np.testing.assert_allclose(smaller(x), expected, atol=1e-5)


def test_a_penalty_decides_while_training():
    model = network()
    model.get_layer("norm").gamma_regularizer = keras.regularizers.L1(0.1)
    schedule = sa.OneShotSchedule(0.5, prune_step=30)
    pruned = sa.prune(model, schedule, "channels", sa.NormalizationScale())
    pruned.compile(keras.optimizers.Adam(0.01), "mse")
    random = np.random.default_rng(0)
    x = random.normal(size=(160, 8, 8, 3)).astype("float32")
    pruned.fit(
        x,
        x.mean((1, 2))[:, [0, 1, 2, 0]],
        batch_size=16,
        epochs=4,
        verbose=0,
        callbacks=[sa.UpdatePruningStep()],
    )
    units = sa.pruned_layers(pruned)[0]
    norms = np.asarray(units.layer.norms)[:, 0]
    kept = np.asarray(units.pruned_kernels[0].mask)[:, 0] > 0
    assert kept.sum() == 8 and norms[kept].min() >= norms[~kept].max()
    assert np.ptp(norms) > 1e-3
    assert sa.shrink(pruned).get_layer("first").filters == 8


def test_blocks_have_no_scale():
    with pytest.raises(ValueError, match='ranks whole channels: give `block_size="ch'):
        sa.prune(
            network(),
            sa.OneShotSchedule(0.5, prune_step=0),
            (4, 4),
            sa.NormalizationScale(),
            pruning_policy=sa.PruningPolicy(),
        )
