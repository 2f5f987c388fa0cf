"""Parameter servers: which variables they hold in parts, how many workers there are."""

import numpy as np
import tensorflow as tf

from tf_seqattn.criteo.models import training
from tf_seqattn.experiments import strategies
from tf_seqattn.sparsity import stripping


def test_large_tables_alone_are_shared_out():
    parts = strategies._partitioner(3)
    rows = strategies.TABLE_ROWS
    assert parts(tf.TensorShape([rows, 10]), tf.float32) == [3, 1]
    assert parts(tf.TensorShape([rows - 1, 10]), tf.float32) == [1, 1]
    assert parts(tf.TensorShape([rows]), tf.float32) == [1]
    assert parts(tf.TensorShape([]), tf.int64) == []
    assert strategies._partitioner(1) is None


def test_workers_of_the_cluster_are_counted_once(monkeypatch):
    names = [
        f"/job:{job}/replica:0/task:{task}/device:{device}:0"
        for job, task in (("chief", 0), ("ps", 0), ("worker", 0), ("worker", 1))
        for device in ("CPU", "GPU")
    ]
    devices = [tf.config.LogicalDevice(name, "CPU") for name in names]
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda: devices)
    assert training._num_workers() == 2


def test_the_parts_of_a_table_are_joined():
    whole = np.arange(10.0).reshape(5, 2)
    parts = [whole[:2], whole[2:4], whole[4:], np.ones(3)]
    joined = stripping._joined(parts, [(5, 2), (3,)])
    np.testing.assert_array_equal(joined[0], whole)
    np.testing.assert_array_equal(joined[1], np.ones(3))
