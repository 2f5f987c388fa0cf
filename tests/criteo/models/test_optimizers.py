"""Tables that are updated where they were read."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

import tf_seqattn as sa
from tf_seqattn.criteo.models.click_model import ClickModel, build_network
from tf_seqattn.criteo.models.optimizers import make_optimizer, table_variables

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
