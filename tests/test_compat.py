"""tfmot's function with our wrapper inside prunes the same blocks as tfmot."""

import numpy as np
import pytest
import tf_keras
from tensorflow_model_optimization.sparsity import keras as tfmot

import tf_seqattn as sa
from tf_seqattn.compat import prune_low_magnitude

keras = layers = None  # set by the fixture `keras`


def small_model(library):
    library.utils.set_random_seed(1)
    return library.Sequential(
        [library.Input((12,)), library.layers.Dense(24), library.layers.Dense(12)]
    )


def pruned_kernels(model, callback, strip, epochs=1):
    x = np.random.default_rng(0).normal(size=(32, 12)).astype("float32")
    # A rate of 0 leaves the kernels as they are: only the choice of blocks is seen.
    model.compile("sgd", "mse")
    model.optimizer.learning_rate.assign(0.0)
    model.fit(x, x, 4, epochs, verbose=0, callbacks=[callback])
    return [layer.get_weights()[0] for layer in strip(model).layers[-2:]]


@pytest.mark.exhaustive
@pytest.mark.parametrize("pooling", ["AVG", "MAX"])
@pytest.mark.parametrize("block_size", [(1, 1), (2, 3), (4, 4)])
def test_the_same_blocks_as_tfmot(pooling, block_size):
    options = {
        "pruning_schedule": tfmot.ConstantSparsity(0.5, 1, frequency=1),
        "block_size": block_size,
        "block_pooling_type": pooling,
    }
    theirs = pruned_kernels(
        tfmot.prune_low_magnitude(small_model(tf_keras), **options),
        tfmot.UpdatePruningStep(),
        tfmot.strip_pruning,
    )
    ours = pruned_kernels(
        prune_low_magnitude(small_model(tf_keras), **options),
        sa.UpdatePruningStep(),
        sa.strip_pruning,
    )
    for one, other in zip(theirs, ours, strict=True):
        assert 0.3 < np.mean(other == 0) < 0.7
        np.testing.assert_array_equal(one, other)


def test_defaults_prune_half_of_every_kernel(keras):
    model = prune_low_magnitude(small_model(keras))
    kernels = pruned_kernels(model, sa.UpdatePruningStep(), sa.strip_pruning, 13)
    for kernel in kernels:
        assert np.mean(kernel == 0) == pytest.approx(0.5, abs=0.03)


def test_two_of_four(keras):
    model = keras.Sequential([keras.Input((8,)), layers.Dense(4)])
    model = prune_low_magnitude(model, sparsity_m_by_n=(2, 4))
    x = np.ones((16, 8), "float32")
    model.compile("sgd", "mse")
    model.fit(x, x[:, :4], 4, 26, verbose=0, callbacks=[sa.UpdatePruningStep()])
    kernel = sa.strip_pruning(model).layers[-1].get_weights()[0]
    assert (np.count_nonzero(kernel.reshape(2, 4, 4), axis=1) == 2).all()


def test_an_unknown_pooling_is_refused():
    with pytest.raises(ValueError, match="block_pooling_type='MEAN'"):
        prune_low_magnitude(small_model(tf_keras), block_pooling_type="MEAN")


def test_a_layer_without_a_kernel_is_wrapped_as_tfmot_does():
    wrapped = prune_low_magnitude(tf_keras.layers.Dropout(0.4), input_shape=(8,))
    assert isinstance(wrapped, sa.PrunableLayer)
    assert tf_keras.Sequential([wrapped]).input_shape == (None, 8)


def test_pruned_weights_are_zero_in_training_as_in_tfmot():
    model = prune_low_magnitude(small_model(tf_keras), tfmot.ConstantSparsity(0.5, 0))
    model.compile("sgd", "mse")
    x = np.random.default_rng(0).normal(size=(32, 12)).astype("float32")
    model.fit(x, x, 4, 15, verbose=0, callbacks=[sa.UpdatePruningStep()])
    for layer in sa.sparsity.pruned_layers(model):
        kernel = layer.layer.get_weights()[0]
        assert np.mean(kernel == 0) == pytest.approx(0.5, abs=0.03)
