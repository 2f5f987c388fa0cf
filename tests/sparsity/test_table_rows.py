"""Tables with fewer rows."""

import numpy as np
import pytest
import tensorflow as tf

import tf_seqattn as sa
from tf_seqattn.inference import litert
from tf_seqattn.sparsity.shared_rows import SHARED_ROWS
from tf_seqattn.sparsity.table_rows import row_scores

keras = layers = None  # Of the Keras under test, by the fixture `keras`.
ROWS = {"user": 40, "film": 30}


def functional():
    inputs = {name: keras.Input((1,), dtype="int32", name=name) for name in ROWS}
    vectors = [
        layers.Embedding(rows, size, name=f"{name}_table")(inputs[name])
        for (name, rows), size in zip(ROWS.items(), (6, 4), strict=True)
    ]
    joined = layers.Flatten()(layers.Concatenate()(vectors))
    return keras.Model(inputs, layers.Dense(1)(joined))


def batch(rows=64, seed=0):
    """Small numbers come more often."""
    random = np.random.default_rng(seed)
    return {
        name: np.minimum(random.geometric(0.15, (rows, 1)) - 1, size - 1).astype(
            "int32"
        )
        for name, size in ROWS.items()
    }


def counted(model, batches):
    counts = sa.count_rows(model, batches)
    for name, size in ROWS.items():
        read = np.concatenate([b[name].ravel() for b in batches])
        np.testing.assert_array_equal(
            counts[f"{name}_table"], np.bincount(read, minlength=size)
        )
    return counts


def test_what_is_kept_computes_the_same(keras):
    model = functional()
    counts = counted(model, [batch(), batch(seed=1)])
    smaller = sa.prune_rows(model, 0.4, counts, by="frequency")
    tables = [smaller.get_layer(f"{name}_table") for name in ROWS]
    weights = sum(t.rows * t.output_dim for t in tables)
    assert 0.36 * 360 < weights <= 0.4 * 360
    kept = [
        np.bincount(np.asarray(t.row_numbers))[np.asarray(t.row_numbers)] == 1
        for t in tables
    ]
    # The most frequent ones, across both tables.
    least = min(counts[t.name][own].min() for t, own in zip(tables, kept, strict=True))
    most = max(counts[t.name][~own].max() for t, own in zip(tables, kept, strict=True))
    assert least >= most
    rows = batch(200, seed=2)
    own = kept[0][rows["user"][:, 0]] & kept[1][rows["film"][:, 0]]
    assert 20 < own.sum() < 190
    full, small = np.asarray(model(rows)), np.asarray(smaller(rows))
    np.testing.assert_allclose(small[own], full[own], rtol=1e-5)
    assert np.abs(small[~own] - full[~own]).max() > 1e-4


def test_the_shared_row_is_the_mean_of_what_it_stands_for(keras):
    model = keras.Sequential([keras.Input((1,)), layers.Embedding(4, 2, name="table")])
    table = np.array([[9.0, 9.0], [1.0, 0.0], [4.0, 6.0], [9.0, 8.0]])
    model.set_weights([table])
    smaller = sa.prune_rows(model, 0.75, {"table": [10, 1, 2, 10]}, by="frequency")
    found = np.asarray(smaller(np.arange(4)[:, None]))[:, 0]
    mean = (table[1] + 2 * table[2]) / 3
    np.testing.assert_allclose(found, [table[0], mean, mean, table[3]], rtol=1e-6)


@pytest.mark.parametrize("rows", [2**15, 2**15 + 1])
def test_the_number_of_the_last_row_fits(rows, keras):
    layer = SHARED_ROWS[keras](input_dim=3, rows=rows, output_dim=1)
    layer.build()
    table = np.arange(rows, dtype="float32")[:, None]
    layer.set_weights([table, np.array([0, rows - 1, 1])])
    found = np.asarray(layer(np.array([[0, 1, 2]])))
    assert found.ravel().tolist() == [0, rows - 1, 1]


def test_importance_is_what_the_outputs_lose():
    rows = np.array([[0.0, 0.0], [0.0, 4.0], [0.0, 0.1]])
    read = np.array([10.0, 1.0, 3.0])
    mean = (read[:, None] * rows).sum(0) / read.sum()
    expected = read * np.square(rows - mean).sum(1)
    np.testing.assert_allclose(row_scores(rows, read, "importance"), expected)
    np.testing.assert_allclose(row_scores(rows, read, "norm"), [0, 4, 0.1])


def test_it_trains_saves_and_reaches_tflite(keras, tmp_path):
    model = functional()
    data = batch()
    smaller = sa.prune_rows(model, 0.4, sa.count_rows(model, [data]))
    before = [np.array(w) for w in smaller.get_weights()]
    smaller.compile("sgd", "mse")
    smaller.fit(data, np.ones(64), 16, verbose=0)
    numbers = [w for w in before if w.dtype.kind == "i"]
    after = [w for w in smaller.get_weights() if w.dtype.kind == "i"]
    assert len(numbers) == 2
    for one, other in zip(numbers, after, strict=True):
        np.testing.assert_array_equal(one, other)
    assert any(
        np.abs(a - b).max() > 1e-4
        for a, b in zip(before, smaller.get_weights(), strict=True)
    )
    smaller.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    expected = np.asarray(smaller(data))
    np.testing.assert_allclose(np.asarray(loaded(data)), expected, rtol=1e-5)
    sa.export_tflite(smaller, tmp_path / "small.tflite", representative_dataset=[data])
    (found,) = litert.run(
        (tmp_path / "small.tflite").read_bytes(),
        [data[name] for name in ROWS],
        input_names=list(ROWS),
    )
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_penalty_on_a_table_stays(keras):
    table = layers.Embedding(
        20, 4, embeddings_regularizer=keras.regularizers.L2(0.5), name="table"
    )
    model = keras.Sequential([keras.Input((1,)), table])
    smaller = sa.prune_rows(model, 0.5, by="norm")
    for one in (smaller, keras.models.clone_model(smaller)):
        squares = np.sum(np.square(np.asarray(one.get_layer("table").embeddings)))
        assert float(sum(one.losses)) == pytest.approx(0.5 * squares, rel=1e-5)


def test_a_subclassed_model_is_changed_in_place_and_padding_stays(keras):
    class Tagger(keras.Model):
        def __init__(self):
            super().__init__()
            self.table = layers.Embedding(20, 4, mask_zero=True, name="table")
            self.memory = layers.LSTM(5, name="memory")

        def call(self, x):
            return self.memory(self.table(x))

    model = Tagger()
    x = np.array([[3, 5, 0, 0], [4, 5, 6, 7]], "int32")
    model(x)
    before = np.asarray(model(x))
    smaller = sa.prune_rows(model, 0.5, sa.count_rows(model, [x]), by="frequency")
    assert smaller is model and model.table.rows < 12
    np.testing.assert_allclose(np.asarray(model(x)), before, atol=1e-6)


def test_bad_input_is_named(keras):
    model = functional()
    counts = {"user_table": np.ones(40), "film_table": np.ones(30)}
    with pytest.raises(ValueError, match=r"keep=1.5"):
        sa.prune_rows(model, 1.5, counts)
    with pytest.raises(ValueError, match=r"by='size'"):
        sa.prune_rows(model, 0.5, counts, by="size")
    with pytest.raises(ValueError, match="'film_table' is read: `sa.count_rows"):
        sa.prune_rows(model, 0.5, {"user_table": np.ones(40)})
    with pytest.raises(ValueError, match="must be 30 numbers"):
        sa.prune_rows(model, 0.5, {**counts, "film_table": np.ones(3)})
    dense = keras.Sequential([keras.Input((2,)), layers.Dense(1)])
    with pytest.raises(ValueError, match="`keras.layers.Embedding` layers"):
        sa.count_rows(dense, [tf.ones((1, 2))])
