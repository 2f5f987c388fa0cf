"""Tables that are updated where they were read."""

import keras as keras3
import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

import tf_seqattn as sa
from tf_seqattn.criteo.models.click_model import (
    ClickModel,
    build_network,
    prune_first_layer,
)
from tf_seqattn.criteo.models.optimizers import (
    decay_kernels,
    make_optimizer,
    table_variables,
)

ROWS = 50


def model_and_batch():
    keras.utils.set_random_seed(0)
    model = ClickModel(build_network(ROWS, dimension=4, hidden_units=(32, 32)))
    random = np.random.default_rng(0)
    features = {
        "numeric": tf.constant(random.normal(size=(64, 13)), tf.float32),
        "categorical": tf.constant(random.integers(0, 5, (64, 26)), tf.int32),
    }
    model(features)
    return model, (features, tf.constant(random.integers(0, 2, 64), tf.float32))


def rows_that_moved(table_optimizer):
    """After two batches, of which only the first reads the rows from 0 to 4."""
    model, (features, labels) = model_and_batch()
    model.compile(make_optimizer(model, 1e-2, table_optimizer))
    model.train_on_batch(features, labels)
    (tables,) = table_variables(model)
    before = tables.numpy()
    later = {**features, "categorical": features["categorical"] + 20}
    model.train_on_batch(later, labels)
    moved = np.abs(tables.numpy() - before).max(axis=1).reshape(26, ROWS + 1)
    return moved[:, :5].max(), moved[:, 20:25].max(), moved[:, 30:].max()


def test_adagrad_moves_the_rows_of_the_batch_alone():
    before, now, never = rows_that_moved("adagrad")
    assert before == 0 and never == 0 and now > 1e-4


def test_adam_goes_on_moving_rows_of_earlier_batches():
    before, now, never = rows_that_moved("adam")
    assert before > 1e-4 and now > 1e-4 and never == 0


def test_weight_decay_takes_from_kernels_alone():
    model, _ = model_and_batch()
    importance = sa.SoftmaxAttention.paper()
    schedule = sa.OneShotSchedule(0.5, prune_step=9)
    model.network = prune_first_layer(model.network, schedule, 8, importance)
    for variable in model.trainable_variables:
        variable.assign(tf.ones_like(variable))
    optimizer = make_optimizer(model, 0.1, weight_decay=0.5)
    variables = model.trainable_variables
    optimizer.apply_gradients([(tf.zeros_like(v), v) for v in variables])
    found = {v.name: set(np.unique(v.numpy()).tolist()) for v in variables}
    kernels = {name for name, values in found.items() if values != {1.0}}
    # Two hidden layers and the last one; tables, biases and logits stay.
    assert len(kernels) == 3 and all("/kernel" in name for name in kernels)
    assert sa.pruned_layers(model)[0].pruned_kernels[0].logits.name not in kernels
    for name in kernels:
        np.testing.assert_allclose(list(found[name]), [1 - 0.1 * 0.5])
    with pytest.raises(ValueError, match="`weight_decay` wants .*weight_decay=0.5"):
        make_optimizer(model, 0.1, "adagrad", weight_decay=0.5)


def test_weight_decay_takes_from_kernels_of_keras_3_alone():
    dense = keras3.layers.Dense(16, name="hidden_1")
    model = keras3.Sequential([keras3.Input((8,)), dense])
    schedule = sa.OneShotSchedule(0.5, prune_step=9)
    policy = sa.PruningPolicy()
    importance = sa.SoftmaxAttention.paper()
    model = sa.prune(model, schedule, (4, 4), importance, policy)
    optimizer = keras3.optimizers.Adam(0.1, weight_decay=0.5)
    decay_kernels(optimizer, model)
    variables = model.trainable_variables
    assert len(variables) == 3
    for variable in variables:
        variable.assign(tf.ones(variable.shape))
    optimizer.apply([tf.zeros(v.shape) for v in variables], variables)
    found = {tuple(v.shape): np.unique(v.numpy()).tolist() for v in variables}
    wanted = {(8, 16): [pytest.approx(0.95)], (16,): [1.0], (2, 4): [1.0]}
    assert found == wanted


def test_both_optimizers_are_reset_and_learn():
    model, (features, labels) = model_and_batch()
    schedule = sa.ACDCSchedule(0.5, end_step=80, cycles=2)
    model.network = sa.prune(
        model.network, schedule, (8, 1), pruning_policy=sa.PruningPolicy()
    )
    model.compile(make_optimizer(model, 1e-2, "adagrad"))
    assert sa.pruned_layers(model)
    data = tf.data.Dataset.from_tensors((features, labels)).repeat(80)
    history = model.fit(data, verbose=0, callbacks=[sa.UpdatePruningStep()])
    adam, adagrad = model.optimizer.optimizers
    assert 0 < int(adam.iterations) < 80 and 0 < int(adagrad.iterations) < 80
    assert history.history["loss"][-1] < 0.69


def test_another_optimizer_is_refused():
    model, _ = model_and_batch()
    with pytest.raises(ValueError, match="table_optimizer='lazy'"):
        make_optimizer(model, 1e-2, "lazy")
