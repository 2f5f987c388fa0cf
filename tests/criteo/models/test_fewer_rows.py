"""Click models whose tables lose rows: `sa.prune_rows`."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

import tf_seqattn as sa
from tf_seqattn.criteo.log.vocabulary import Vocabulary
from tf_seqattn.criteo.models.click_model import (
    ClickModel,
    build_network,
    prune_first_layer,
)
from tf_seqattn.criteo.models.ranking import build_dlrm, ranking_features
from tf_seqattn.criteo.models.warm_start import start_from
from tf_seqattn.criteo.models.without_fields import without_fields
from tf_seqattn.inference import litert

# Each table has one row more, that of empty fields.
SIZES = (40, 3, 60)
FIRST = np.array([0, 41, 45])
ROWS = sum(SIZES) + len(SIZES)


def features(rows=64, seed=0):
    """Small numbers come more often."""
    random = np.random.default_rng(seed)
    values = [np.minimum(random.geometric(0.15, rows) - 1, size) for size in SIZES]
    return {
        "numeric": random.normal(size=(rows, 13)).astype("float32"),
        "categorical": np.stack(values, axis=1).astype("int32"),
    }


def network(hidden=(16,), sizes=SIZES):
    made = build_network(sizes, 4, hidden)
    random = np.random.default_rng(0)
    made.set_weights([random.normal(0, 0.3, w.shape) for w in made.get_weights()])
    return made


def fewer(model, keep=0.3, by="importance"):
    return sa.prune_rows(model, keep, sa.count_rows(model, [features()]), by)


def test_each_table_shares_a_row_of_its_own():
    whole = network()
    counts = sa.count_rows(whole, [features(), features(seed=1)])["fields"]
    read = np.concatenate([features(seed=s)["categorical"] for s in (0, 1)]) + FIRST
    np.testing.assert_array_equal(counts, np.bincount(read.ravel(), minlength=ROWS))
    smaller = sa.prune_rows(whole, 0.3, {"fields": counts}, by="frequency")
    fields = smaller.get_layer("fields")
    assert 0.25 * ROWS < len(fields.tables.numpy()) <= 0.3 * ROWS
    before = whole.get_layer("fields").tables.numpy()
    numbers = fields.row_numbers.numpy()
    own = np.bincount(numbers)[numbers] == 1
    assert counts[own].min() >= counts[~own].max()
    expected = before.copy()
    for part in np.split(np.arange(ROWS), FIRST[1:]):
        shared = part[~own[part]]
        if len(shared):
            expected[shared] = np.average(before[shared], 0, counts[shared] + 1e-9)
    np.testing.assert_allclose(fields.whole_tables(), expected, atol=1e-5)
    # The lookup reads what `whole_tables` shows.
    twin = network()
    twin.get_layer("fields").tables.assign(expected)
    np.testing.assert_allclose(smaller(features()), twin(features()), atol=1e-5)


def test_it_is_smaller_in_training_in_files_and_when_served(tmp_path):
    data, smaller = features(), fewer(network(sizes=(40, 3, 9000)))
    numbers = smaller.get_layer("fields").row_numbers.numpy()
    table = smaller.get_layer("fields").tables.numpy()
    model = ClickModel(smaller)
    model.compile(keras.optimizers.Adam(1e-2))
    batches = tf.data.Dataset.from_tensors((data, np.ones(64, "float32"))).repeat(3)
    model.fit(batches, verbose=0)
    assert np.abs(smaller.get_layer("fields").tables.numpy() - table).max() > 1e-3
    np.testing.assert_array_equal(smaller.get_layer("fields").row_numbers, numbers)
    slots = [v.shape for v in model.optimizer.variables if v.shape.rank == 2]
    assert table.shape in slots and (9046, 4) not in slots
    expected = smaller(data).numpy()

    smaller.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded(data), expected, rtol=1e-5)
    sa.export_saved_model(smaller, tmp_path / "served")
    file = tmp_path / "model.tflite"
    sa.export_tflite(smaller, file, "dense", representative_dataset=[data])
    files = [*tmp_path.glob("served/variables/*.data*"), tmp_path / "model.keras", file]
    # The whole tables alone have 145 kB.
    assert all(
        9046 * 4 * 4 * 0.3 < f.stat().st_size < 9046 * 4 * 4 * 0.7 for f in files
    )
    served = tf.saved_model.load(tmp_path / "served").signatures["serving_default"]
    (answer,) = served(**{n: tf.constant(v) for n, v in data.items()}).values()
    np.testing.assert_allclose(answer, expected, rtol=1e-4, atol=1e-5)
    (answer,) = litert.run(
        file.read_bytes(), list(data.values()), input_names=list(data)
    )
    np.testing.assert_allclose(answer, expected, rtol=1e-4, atol=1e-5)


def test_models_of_tfrs_are_changed_in_place():
    model = build_dlrm(SIZES, 8, (16,), (16,))
    data = ranking_features(features())
    expected = model(data).numpy()
    table = model._embedding_layer.tables.numpy()
    counts = sa.count_rows(model, [data])
    assert sa.prune_rows(model, 0.3, counts) is model
    layer = model._embedding_layer
    assert len(layer.tables.numpy()) <= 0.3 * ROWS
    kept = np.abs(layer.whole_tables().numpy() - table).max(axis=1) < 1e-6
    known = kept[features()["categorical"] + FIRST].all(axis=1)
    assert 10 < known.sum() < 64
    found = model(data).numpy()
    np.testing.assert_allclose(found[known], expected[known], atol=1e-5)
    assert np.abs(found[~known] - expected[~known]).max() > 1e-6


def test_blocks_are_pruned_next():
    smaller = fewer(network(hidden=(40,)))
    pruned = prune_first_layer(smaller, sa.OneShotSchedule(0.5, prune_step=0), 8)
    stripped = sa.strip_pruning(pruned)
    for name in ("tables", "row_numbers"):
        found, wanted = (
            getattr(m.get_layer("fields"), name) for m in (stripped, smaller)
        )
        np.testing.assert_array_equal(found, wanted)
    assert np.mean(stripped.get_layer("hidden_1").kernel == 0) == pytest.approx(0.5)


def test_the_next_day_starts_from_fewer_rows():
    smaller = fewer(network())
    tables = smaller.get_layer("fields").whole_tables().numpy()
    same = build_network(SIZES, 4, (16,))
    start_from(same, smaller)
    np.testing.assert_allclose(same(features()), smaller(features()), atol=1e-5)
    # Columns of 2, 1 and 3 frequent values beside "empty" and "rare".
    old = Vocabulary([np.arange(1, size) for size in SIZES], [99] * 3)
    few = [np.array([1, 39]), np.array([2]), np.array([5, 6, 50])]
    new = Vocabulary(few, [99] * 3)
    today = build_network(new.table_sizes, 4, (16,))
    start_from(today, smaller, old, new)
    wanted = [[0, 1, 2, 40], [0, 1, 3], [0, 1, 6, 7, 51]]
    rows = np.concatenate([np.add(r, f) for r, f in zip(wanted, FIRST, strict=True)])
    np.testing.assert_array_equal(today.get_layer("fields").tables, tables[rows])


def test_fields_leave_after_rows():
    smaller = fewer(network(hidden=(8,)))
    kernel = smaller.get_layer("hidden_1").kernel
    # The counts but the first, and the table of three values, are read no more.
    read = np.isin(np.arange(16), [0, 13, 15])
    kernel.assign(kernel * np.repeat(read, 4)[:, None].astype("float32"))
    found = without_fields(smaller)
    np.testing.assert_allclose(found(features()), smaller(features()), atol=1e-5)
    before, after = (
        len(m.get_layer("fields").tables.numpy()) for m in (smaller, found)
    )
    numbers = smaller.get_layer("fields").row_numbers.numpy()
    assert before - after == len(np.unique(numbers[41:45]))


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="12 of 424 weights. Received: keep=0.01"):
        fewer(network(), keep=0.01)
    with pytest.raises(ValueError, match="whose rows are not shared yet"):
        fewer(fewer(network()))
    tables = build_dlrm(SIZES, 8, (16,), (16,), prunable_tables=True)
    tables(ranking_features(features(2)))
    schedule = sa.OneShotSchedule(0.5, prune_step=0)
    tables._embedding_layer = sa.prune(tables._embedding_layer, schedule, (4, 8))
    with pytest.raises(ValueError, match="pruned by blocks: .*`sa.strip_pruning"):
        sa.prune_rows(tables, 0.5, by="norm")
