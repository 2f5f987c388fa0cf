"""Converted rows in memory, and the batches made of them."""

import numpy as np
import pytest

from tf_seqattn.criteo.log.in_memory import (
    load_clicks,
    training_batches,
    validation_batches,
)


def test_the_last_rows_are_for_validation(converted, clicks):
    parts = [load_clicks(converted, split) for split in ("train", "validation")]
    assert [len(part) for part in parts] == [2700, 300]
    np.testing.assert_array_equal(parts[1].numeric, clicks.numeric[-300:])


def test_an_empty_split_is_an_error(converted):
    with pytest.raises(ValueError, match="split='test'"):
        load_clicks(converted, "test")


def rows_of(batches, count):
    taken = [(f["numeric"], f["categorical"], y) for f, y in batches.take(count)]
    return [np.concatenate(column) for column in zip(*taken, strict=True)]


def test_a_pass_has_every_row_once_in_an_order_of_its_own(clicks):
    few = clicks[:120]
    batches = training_batches(few, 40, seed=5)
    numeric, categorical, labels = rows_of(batches, 6)
    everything = np.column_stack([numeric, categorical, labels])
    expected = np.column_stack([few.numeric, few.categorical, few.labels])
    in_order = np.lexsort(expected.T)
    passes = everything[:120], everything[120:]
    for one in passes:
        np.testing.assert_array_equal(one[np.lexsort(one.T)], expected[in_order])
    assert (passes[0] != passes[1]).any()
    np.testing.assert_array_equal(
        rows_of(training_batches(few, 40, seed=5), 3)[0], numeric[:120]
    )
    assert (rows_of(training_batches(few, 40, seed=6), 3)[0] != numeric[:120]).any()


def test_validation_has_every_row_in_order(clicks):
    batches = validation_batches(clicks, batch_size=1024)
    assert len(batches) == 3
    numeric, categorical, labels = rows_of(batches, 9)
    np.testing.assert_array_equal(numeric, clicks.numeric)
    np.testing.assert_array_equal(categorical, clicks.categorical)
    np.testing.assert_array_equal(labels, clicks.labels)


def test_a_batch_larger_than_the_data_is_refused(clicks):
    with pytest.raises(ValueError, match="`batch_size`"):
        training_batches(clicks[:10], 11, seed=0)
