"""Which variables parameter servers hold in parts."""

import tensorflow as tf

from tf_seqattn.experiments import strategies


def test_large_tables_alone_are_shared_out():
    parts = strategies._partitioner(3)
    rows = strategies.TABLE_ROWS
    assert parts(tf.TensorShape([rows, 10]), tf.float32) == [3, 1]
    assert parts(tf.TensorShape([rows - 1, 10]), tf.float32) == [1, 1]
    assert parts(tf.TensorShape([rows]), tf.float32) == [1]
    assert parts(tf.TensorShape([]), tf.int64) == []
    assert strategies._partitioner(1) is None
