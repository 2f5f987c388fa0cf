"""Rows that change their owners while a model trains."""

import numpy as np
import pytest
import tensorflow as tf

import tf_seqattn as sa
from tf_seqattn.criteo.models.click_model import ClickModel, build_network
from tf_seqattn.criteo.models.ranking import build_dlrm, ranking_features
from tf_seqattn.sparsity.revise_rows import revise

keras = layers = None  # Of the Keras under test, by the fixture `keras`.
CATEGORIES, FREQUENT = 60, 8
# What a category is worth.
WORTH = np.random.default_rng(7).choice([-1.0, 1.0], CATEGORIES).astype("float32")


def drifting(batches, first):
    """Batches in which eight categories from `first` on come most often."""
    random = np.random.default_rng(first)
    rows = random.integers(0, CATEGORIES, (batches * 32, 1))
    often = random.random(rows.shape) < 0.8
    rows[often] = random.integers(first, first + FREQUENT, often.sum())
    return rows.astype("int32"), WORTH[rows]


def small_model(revise=True, mask_zero=False):
    """Eight of sixty categories have a row of their own: those from 1 to 8."""
    table = layers.Embedding(CATEGORIES, 1, mask_zero=mask_zero, name="table")
    model = keras.Sequential([keras.Input((1,), dtype="int32"), table])
    counts = sa.count_rows(model, [drifting(10, first=1)[0]])
    return sa.prune_rows(model, 0.15, counts, by="frequency", revise=revise)


def fit(model, data, callbacks=(), epochs=1, **options):
    if getattr(model, "optimizer", None) is None:
        model.compile(keras.optimizers.Adam(0.05), "mse", **options)
    model.fit(
        *data, 32, epochs, verbose=0, shuffle=False, callbacks=list(callbacks)
    )  # fmt: skip
    return model


def owners(model):
    numbers = np.asarray(model.get_layer("table").row_numbers)
    return set(np.flatnonzero(np.bincount(numbers)[numbers] == 1).tolist())


def test_what_becomes_frequent_gets_a_row(keras):
    late = drifting(80, first=41)
    losses = {}
    for revised in (False, True):
        keras.utils.set_random_seed(1)
        model = small_model(revised)
        callbacks = [sa.ReviseRows(20)] if revised else []
        fit(model, drifting(40, first=1), callbacks)
        assert set(range(1, 9)) <= owners(model)
        fit(model, late, callbacks)
        wanted = set(range(41, 49))
        assert wanted <= owners(model) if revised else not wanted & owners(model)
        losses[revised] = model.evaluate(*late, verbose=0)
    # What is rare shares a row in both.
    assert losses[True] < 0.3 < 0.6 < losses[False]


def test_the_mean_of_what_loses_its_row_is_shared(keras):
    table = layers.Embedding(5, 1, name="table")
    model = keras.Sequential([keras.Input((1,)), table])
    model.set_weights([np.array([[1.0], [2.0], [3.0], [6.0], [9.0]])])
    model = sa.prune_rows(model, 0.6, {"table": [5, 4, 1, 1, 1]}, "frequency", True)
    layer = model.get_layer("table")
    # Shared by 2, 3 and 4.
    np.testing.assert_allclose(model(np.arange(5)).numpy().ravel(), [1, 2, 6, 6, 6])
    layer.reads.assign([8.0, 1.0, 2.0, 4.0, 0.0])
    assert revise(layer) == 1
    # 3 begins with what it shared, and 1 counts for half as much as 2.
    shared = (1 * 2 + 2 * 6) / 3
    np.testing.assert_allclose(
        model(np.arange(5)).numpy().ravel(), [1, shared, shared, 6, shared]
    )
    np.testing.assert_allclose(np.asarray(layer.reads), [4, 0.5, 1, 2, 0])
    # Nothing is better than what is.
    assert revise(layer) == 0


def test_only_training_counts_and_padding_keeps_its_row(keras):
    model = fit(small_model(mask_zero=True), drifting(4, first=1))
    layer = model.get_layer("table")
    read = np.bincount(drifting(4, first=1)[0].ravel(), minlength=CATEGORIES)
    np.testing.assert_array_equal(np.asarray(layer.reads), read)
    model.evaluate(*drifting(4, first=1), verbose=0)
    model(drifting(4, first=1)[0])
    np.testing.assert_array_equal(np.asarray(layer.reads), read)
    layer.reads.assign(np.arange(CATEGORIES))
    revise(layer)
    assert owners(model) == {0, *range(52, 60)}


def test_it_goes_on_where_it_was_saved(keras, tmp_path):
    # 25 steps an epoch, so that the fourth revision is due after two in each of 40.
    data = drifting(25, first=41)
    whole = fit(small_model(), data, [sa.ReviseRows(40)], epochs=4)
    keras.utils.set_random_seed(0)
    part = fit(small_model(), data, [sa.ReviseRows(40)], epochs=1)
    part.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    keras.utils.set_random_seed(0)
    fit(loaded, data, [sa.ReviseRows(40)], epochs=3)
    assert owners(loaded) == owners(whole) >= set(range(41, 49))
    for one, other in zip(loaded.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    fixed = sa.fix_rows(loaded)
    assert len(loaded.weights) - len(fixed.weights) == 2
    rows = drifting(3, first=41)[0]
    np.testing.assert_array_equal(np.asarray(fixed(rows)), np.asarray(loaded(rows)))


def test_several_steps_in_an_execution_are_revised_once(keras):
    model = small_model()
    callbacks = [sa.ReviseRows(10)]
    fit(model, drifting(20, first=41), callbacks, steps_per_execution=4)
    layer = model.get_layer("table")
    assert int(np.asarray(layer.steps_counted)) == 20
    # Halved once, after step 12; that of step 20 is due.
    ones = drifting(20, first=41)[0].reshape(20, 32)
    expected = sum(
        np.bincount(rows, minlength=CATEGORIES) * (0.5 if step < 12 else 1.0)
        for step, rows in enumerate(ones)
    )
    np.testing.assert_allclose(np.asarray(layer.reads), expected)


def test_click_models_have_a_budget_for_each_table():
    import tf_keras

    sizes = (30, 3, 40)
    random = np.random.default_rng(0)
    data = {
        "numeric": np.zeros((64, 13), "float32"),
        "categorical": np.stack([random.integers(0, s, 64) for s in sizes], 1),
    }
    data["categorical"] = data["categorical"].astype("int32")
    network = build_network(sizes, 4, (8,))
    counts = np.concatenate([100 - np.arange(size + 1) for size in sizes])
    small = sa.prune_rows(network, 0.4, {"fields": counts}, "frequency", revise=True)
    before = small.get_layer("fields").row_numbers.numpy()
    model = ClickModel(small)
    model.compile(tf_keras.optimizers.Adam(1e-3))
    batches = tf.data.Dataset.from_tensors((data, np.ones(64, "float32"))).repeat(3)
    model.fit(batches, verbose=0, callbacks=[sa.ReviseRows(2)])
    fields = small.get_layer("fields")
    first = np.array([0, 31, 35])
    read = np.bincount((data["categorical"] + first).ravel(), minlength=76)
    # Halved after the second of three steps.
    np.testing.assert_allclose(fields.reads.numpy(), read * 2)
    after = fields.row_numbers.numpy()
    assert (before != after).any()
    for part in np.split(np.arange(76), first[1:]):
        assert set(before[part]) == set(after[part])
        own = np.bincount(after)[after[part]] == 1
        if not own.all():
            assert read[part][own].min() >= read[part][~own].max()
    fixed = sa.fix_rows(small)
    np.testing.assert_array_equal(fixed(data), small(data))
    assert fixed.get_layer("fields").reads is None

    dlrm = build_dlrm(sizes, 8, (16,), (16,))
    features = ranking_features(data)
    dlrm(features)
    sa.prune_rows(dlrm, 0.4, sa.count_rows(dlrm, [features]), revise=True)
    dlrm(features, training=True)
    np.testing.assert_array_equal(dlrm._embedding_layer.reads, read)
    expected = dlrm(features).numpy()
    np.testing.assert_array_equal(sa.fix_rows(dlrm)(features), expected)


def test_bad_input_is_named(keras):
    with pytest.raises(ValueError, match="every=0"):
        sa.ReviseRows(0)
    plain = small_model(revise=False)
    with pytest.raises(ValueError, match="`sa.prune_rows\\(..., revise=True\\)`"):
        fit(plain, drifting(1, first=1), [sa.ReviseRows(5)])
    with pytest.raises(ValueError, match="revise=True"):
        sa.fix_rows(plain)
