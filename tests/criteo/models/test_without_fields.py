"""Fields that leave a click model."""

import numpy as np
import pytest
import tensorflow as tf

import tf_seqattn as sa
from tf_seqattn.criteo.models.click_model import build_network
from tf_seqattn.criteo.models.without_fields import (
    fields_read,
    names_of_kept_fields,
    prune_fields,
    without_fields,
)

SIZES = tuple(range(3, 29))


def network_that_reads(fields):
    network = build_network(SIZES, hidden_units=(8, 6))
    random = np.random.default_rng(0)
    for variable in network.weights:
        variable.assign(random.normal(size=variable.shape))
    kernel = network.get_layer("hidden_1").kernel
    is_read = np.isin(np.arange(39), fields).astype("float32")
    kernel.assign(kernel * np.repeat(is_read, 10)[:, None])
    return network


@pytest.mark.parametrize("fields", [[0, 5, 13, 20, 38], [2, 4], [14, 30]])
def test_the_outputs_stay_and_the_tables_go(fields):
    network = network_that_reads(fields)
    assert fields_read(network) == fields
    smaller = without_fields(network)
    random = np.random.default_rng(1)
    features = {
        "numeric": random.normal(size=(64, 13)).astype("float32"),
        "categorical": random.integers(0, np.add(SIZES, 1), (64, 26)).astype("int32"),
    }
    expected = network(features).numpy()
    assert np.std(expected) > 0.1
    np.testing.assert_allclose(smaller(features), expected, rtol=1e-4, atol=1e-4)
    tables = smaller.get_layer("fields").tables
    assert tables.shape[0] == sum(SIZES[f - 13] + 1 for f in fields if f >= 13)
    assert smaller.get_layer("hidden_1").kernel.shape == (10 * len(fields), 8)


def test_whole_fields_are_pruned():
    schedule = sa.SequentialAttentionSchedule(0.5, end_step=4)
    network = prune_fields(build_network(20, hidden_units=(8,)), schedule)
    network.compile("adam", "mse")
    random = np.random.default_rng(0)
    data = tf.data.Dataset.from_tensors(
        (
            {
                "numeric": random.normal(size=(8, 13)).astype("float32"),
                "categorical": random.integers(0, 20, (8, 26)).astype("int32"),
            },
            np.ones((8, 1), "float32"),
        )
    ).repeat(4)
    network.fit(data, callbacks=[sa.UpdatePruningStep()], verbose=0)
    stripped = sa.strip_pruning(network)
    assert len(fields_read(stripped)) == 20
    names = names_of_kept_fields(without_fields(stripped))
    assert len(names) == 20 and names[0][0] == "I" and names[-1][0] == "C"


def test_counts_in_buckets_have_their_names():
    network = build_network([5] * 39, num_numeric=0, hidden_units=(8,))
    kernel = network.get_layer("hidden_1").kernel
    is_read = np.isin(np.arange(39), [1, 12, 13, 38]).astype("float32")
    kernel.assign(kernel * np.repeat(is_read, 10)[:, None])
    found = names_of_kept_fields(without_fields(network))
    assert found == ["I2", "I13", "C1", "C26"]


def test_a_network_that_reads_nothing_is_refused():
    with pytest.raises(ValueError, match="`network` must read a field"):
        without_fields(network_that_reads([]))
