"""Reading converted rows: every row once, its order, shares of workers, a service."""

import numpy as np
import pytest
import tensorflow as tf

from tf_seqattn.criteo.conversion import convert
from tf_seqattn.criteo.log import streaming, units
from tf_seqattn.criteo.log.encoding import Encoding
from tf_seqattn.criteo.log.in_memory import load_clicks
from tf_seqattn.criteo.log.manifest import Manifest
from tf_seqattn.criteo.log.streaming import read_batches


@pytest.fixture(scope="module")
def folder(clicks_file, tmp_path_factory):
    """The rows in eleven files."""
    folder = tmp_path_factory.mktemp("streaming") / "converted"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(units, "_UNIT_BYTES", 70_000)
        convert(clicks_file, folder, Encoding(table_size=64), progress=False)
    assert len(Manifest.load(folder).splits["train"]) > 8
    return folder


@pytest.fixture
def rows(folder):
    return table(load_clicks(folder, "train"))


def table(clicks):
    return np.column_stack([clicks.numeric, clicks.categorical, clicks.labels])


def collect(batches):
    parts = [
        np.column_stack([f["numeric"], f["categorical"], labels])
        for f, labels in batches.as_numpy_iterator()
    ]
    return np.concatenate(parts), [len(part) for part in parts]


def in_order(found):
    return found[np.lexsort(found.T)]


def test_without_a_seed_rows_come_in_the_order_of_time(folder, rows):
    found, sizes = collect(read_batches(folder, "train", 512))
    np.testing.assert_array_equal(found, rows)
    assert sizes == [512] * 5 + [140]
    _, sizes = collect(read_batches(folder, "train", 512, drop_remainder=True))
    assert sizes == [512] * 5


def test_every_pass_has_every_row_once_in_an_order_of_its_own(
    folder, rows, monkeypatch
):
    monkeypatch.setattr(streaming, "_SHUFFLED_ROWS", 700)

    def twice(seed):
        return collect(read_batches(folder, "train", 450, seed).repeat(2))[0]

    found = twice(seed=1)
    passes = found[:2700], found[2700:]
    for one in passes:
        np.testing.assert_array_equal(in_order(one), in_order(rows))
        # Rows of many files meet in a batch.
        assert (one[:450] != rows[:450]).any(axis=1).mean() > 0.95
    assert (passes[0] != passes[1]).any()
    np.testing.assert_array_equal(twice(seed=1), found)
    assert (twice(seed=2) != found).any()


@pytest.mark.parametrize("workers", [2, 3, 40])
def test_workers_share_the_rows(workers, folder, rows):
    parts = []
    for worker in range(workers):
        context = tf.distribute.InputContext(workers, worker, workers)
        batches = read_batches(folder, "train", 40 * workers, 0, context)
        for features, labels in batches.as_numpy_iterator():
            assert len(labels) <= 40
            parts.append(
                np.column_stack([features["numeric"], features["categorical"], labels])
            )
    np.testing.assert_array_equal(in_order(np.concatenate(parts)), in_order(rows))


def test_workers_of_the_data_service_share_the_rows(folder, rows):
    service = tf.data.experimental.service
    dispatcher = service.DispatchServer()
    workers = [
        service.WorkerServer(
            service.WorkerConfig(dispatcher_address=dispatcher.target.split("://")[1])
        )
        for _ in range(2)
    ]
    batches = read_batches(folder, "train", 100, seed=0).apply(
        service.distribute(
            processing_mode=service.ShardingPolicy.DYNAMIC, service=dispatcher.target
        )
    )
    found, _ = collect(batches)
    np.testing.assert_array_equal(in_order(found), in_order(rows))
    del workers


def test_the_vocabulary_is_applied(clicks_file, tmp_path):
    encoding = Encoding(table_size=64, min_count=20)
    convert(clicks_file, tmp_path / "c", encoding, progress=False)
    found, _ = collect(read_batches(tmp_path / "c", "train", 1000))
    np.testing.assert_array_equal(found, table(load_clicks(tmp_path / "c", "train")))


@pytest.mark.parametrize(
    "split, batch_size, message",
    [("test", 5, "split='test'"), ("dev", 5, "'dev'"), ("train", 0, "batch_size=0")],
)
def test_bad_arguments_are_named(split, batch_size, message, folder):
    with pytest.raises(ValueError, match=message):
        read_batches(folder, split, batch_size)
