"""The network, the TFRS model around it, and pruning its first layer."""

import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

import tf_seqattn as sa
from tf_seqattn.criteo.log.in_memory import training_batches
from tf_seqattn.criteo.models.click_model import (
    ClickModel,
    FieldEmbedding,
    build_network,
    prune_first_layer,
)


def test_the_network_is_the_one_of_the_paper(clicks):
    network = build_network(64)
    dense = [la for la in network.layers if isinstance(la, keras.layers.Dense)]
    assert [tuple(la.kernel.shape) for la in dense] == [
        (390, 400),
        (400, 400),
        (400, 400),
        (400, 1),
    ]
    assert network(clicks[:5].features()).shape == (5, 1)


def test_fields_are_embedded_as_described(clicks):
    rows = clicks[:7]
    layer = build_network(64).get_layer("fields")
    embedded = layer((rows.numeric, rows.categorical)).numpy()
    directions, offsets, tables = (w.numpy() for w in layer.weights)
    i, c = 3, 20
    expected = rows.numeric[:, i, None] * directions[i] + offsets[i]
    np.testing.assert_allclose(embedded[:, 30:40], expected, rtol=1e-5, atol=1e-6)
    expected = tables[c * 65 + rows.categorical[:, c]]
    first = (13 + c) * 10
    np.testing.assert_allclose(embedded[:, first : first + 10], expected, rtol=1e-6)


def test_a_step_of_fit_lowers_the_loss_of_its_batch(clicks):
    keras.utils.set_random_seed(0)
    model = ClickModel(build_network(64))
    model.compile(optimizer=keras.optimizers.Adam(2e-3))
    batch = training_batches(clicks, 512, seed=0).take(1)
    before = float(model.compute_loss(next(iter(batch))))
    history = model.fit(batch.repeat(5), verbose=0).history
    assert {"loss", "auc"} <= set(history)
    assert float(model.compute_loss(next(iter(batch)))) < before


def test_only_the_first_layer_is_pruned_and_stripping_keeps_the_function(clicks):
    network = build_network(64)
    schedule = sa.OneShotSchedule(0.9, prune_step=2)
    pruned = prune_first_layer(network, schedule, 20, sa.Magnitude())
    assert [la.layer.name for la in sa.pruned_layers(pruned)] == ["hidden_1"]
    model = ClickModel(pruned)
    model.compile(optimizer=keras.optimizers.Adam(2e-3))
    model.fit(
        training_batches(clicks, 256, seed=0),
        steps_per_epoch=3,
        callbacks=[sa.UpdatePruningStep()],
        verbose=0,
    )
    stripped = sa.strip_pruning(pruned)
    features = clicks[:50].features()
    np.testing.assert_allclose(stripped(features), pruned(features), atol=1e-5)
    kernel = stripped.get_layer("hidden_1").kernel.numpy()
    blocks = np.pad(kernel, ((0, 10), (0, 0))).reshape(20, 20, 20, 20)
    assert (np.abs(blocks).sum(axis=(1, 3)) > 0).sum() == 40


def test_the_network_is_saved_and_loaded_without_tfrs(clicks, tmp_path):
    network = build_network(64)
    network.save(tmp_path / "clicks.keras")
    loaded = keras.models.load_model(tmp_path / "clicks.keras")
    features = clicks[:9].features()
    np.testing.assert_array_equal(loaded(features), network(features))


@pytest.mark.parametrize("keras_3_first", [False, True])
def test_tf_keras_becomes_keras_2_or_the_error_says_why(keras_3_first):
    program = "import tensorflow as tf\n"
    if keras_3_first:
        program += "tf.keras.version()\n"
    program += "import tf_seqattn.criteo, tf_keras\n"
    program += "assert tf.keras.Model is tf_keras.Model\n"
    environment = {"TF_CPP_MIN_LOG_LEVEL": "3", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True
    )
    if keras_3_first:
        assert "TF_USE_LEGACY_KERAS=1" in done.stderr.splitlines()[-1]
    else:
        assert done.returncode == 0, done.stderr


def test_rows_are_counted_beyond_two_billion():
    few = tf.constant([[3, 4]])
    small, large = FieldEmbedding([9, 9]), FieldEmbedding([2**31 - 10, 9])
    assert small.rows_of(few).dtype == tf.int32
    assert small.rows_of(few).numpy().tolist() == [[3, 14]]
    assert large.rows_of(few).numpy().tolist() == [[3, 2**31 - 9 + 4]]
