"""Feature selection: what is kept is what matters, and the rest is gone."""

import numpy as np
import pytest
import tensorflow as tf

import tf_seqattn as sa
from tf_seqattn.inference import litert

keras = layers = None  # set by the fixture `keras`
ROWS, TABLE = 2048, 20
# The label depends on these alone.
REAL = ("f1", "f4")


def data(seed=0):
    random = np.random.default_rng(seed)
    fields = {f"f{n}": random.integers(0, TABLE, (ROWS,)) for n in range(6)}
    fields["age"] = random.normal(size=(ROWS, 3)).astype("float32")
    effects = random.normal(size=(6, TABLE))
    label = sum(effects[int(name[1:])][fields[name]] for name in REAL)
    return fields, label.astype("float32")[:, None]


def field_model(penalty=None, width=4):
    keras.utils.set_random_seed(0)
    inputs = {f"f{n}": keras.Input((), dtype="int64", name=f"f{n}") for n in range(6)}
    found = [
        layers.Embedding(TABLE, width, embeddings_regularizer=penalty, name=f"e{n}")(x)
        for n, x in enumerate(inputs.values())
    ]
    inputs["age"] = keras.Input((3,), name="age")
    joined = layers.Concatenate()([*found, inputs["age"]])
    hidden = layers.Dense(16, activation="relu")(joined)
    return keras.Model(inputs, layers.Dense(1)(hidden), name="fields")


def trained(model, epochs=12):
    fields, label = data()
    model.compile(keras.optimizers.Adam(0.01), "mse")
    callbacks = [sa.UpdatePruningStep()] if sa.pruned_layers(model) else []
    model.fit(fields, label, 64, epochs, verbose=0, callbacks=callbacks)
    return model


STEPS = 12 * ROWS // 64


def test_the_features_that_matter_are_kept_and_the_others_leave(keras):
    model = trained(sa.select_features(field_model(), keep=2, end_step=STEPS))
    kept = {name for name, places in sa.selected_features(model).items() if places}
    assert kept == set(REAL)
    small = sa.drop_features(model)
    assert set(small.input) == kept
    tables = [w for w in small.weights if tuple(w.shape)[0] == TABLE]
    assert len(tables) == 2
    fields, label = data()
    given = {name: fields[name] for name in small.input}
    expected, found = model.predict(fields, verbose=0), small.predict(given, verbose=0)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.mean((found - label) ** 2) < 0.1 * label.var()


@pytest.mark.exhaustive
def test_a_cross_that_matters_is_selected(keras):
    """The label is the sign of a product, which no field tells alone."""
    random = np.random.default_rng(3)
    fields = {name: random.integers(0, TABLE, (ROWS,)) for name in ("a", "b", "c", "d")}
    signs = random.permuted(np.repeat([-1.0, 1.0], TABLE // 2))
    label = (signs[fields["a"]] * signs[fields["b"]]).astype("float32")[:, None]
    inputs = {name: keras.Input((), dtype="int64", name=name) for name in fields}
    vectors = {
        name: layers.Embedding(TABLE, 4, name=f"e_{name}")(x)
        for name, x in inputs.items()
    }
    pairs = [("a", "b"), ("a", "c"), ("b", "c"), ("c", "d")]
    crosses = [
        layers.Multiply(name=f"{one}_times_{two}")([vectors[one], vectors[two]])
        for one, two in pairs
    ]
    joined = layers.Concatenate()([*vectors.values(), *crosses])
    # Linear in the features, so that only a cross can tell.
    model = keras.Model(inputs, layers.Dense(1)(joined))
    names = [f"e_{name}" for name in fields] + [f"{a}_times_{b}" for a, b in pairs]
    model = sa.select_features(model, keep=1, end_step=5 * ROWS // 64, features=names)
    model.compile(keras.optimizers.Adam(0.02), "mse")
    callbacks = [sa.UpdatePruningStep()]
    model.fit(fields, label, 64, 5, verbose=0, callbacks=callbacks)
    kept = [name for name, places in sa.selected_features(model).items() if places]
    assert kept == ["a_times_b"]
    small = sa.drop_features(model)
    given = {name: fields[name] for name in ("a", "b")}
    assert set(small.input) == set(given)
    assert np.mean((small.predict(given, verbose=0) - label) ** 2) < 0.1


def test_dimensions_share_out_the_width_of_the_tables(keras):
    model = field_model(width=4)
    model = trained(sa.select_features(model, 6, STEPS, by="dimension"))
    kept = sa.selected_features(model)
    assert sum(map(len, kept.values())) == 6
    assert len(kept["f1"]) >= 1 and len(kept["f4"]) >= 1
    small = sa.drop_features(model)
    widths = {w.shape[1] for w in small.weights if tuple(w.shape)[0] == TABLE}
    assert widths <= {len(places) for places in kept.values()}
    fields, _ = data()
    given = {name: fields[name] for name in small.input}
    expected, found = model.predict(fields, verbose=0), small.predict(given, verbose=0)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_gate_changes_nothing_before_training(keras):
    model = field_model()
    fields, _ = data()
    selecting = sa.select_features(model, keep=0.5, end_step=100)
    expected = model.predict(fields, verbose=0)
    np.testing.assert_allclose(
        selecting.predict(fields, verbose=0), expected, atol=1e-6
    )
    # A gate is no kernel of blocks: its weights learn at the optimizer's rate.
    (gate,) = sa.pruned_layers(selecting)
    gate.update_masks(tf.constant(0.5))
    assert gate.rate_gain(gate.pruned_kernels[0]) is None


def test_a_loaded_model_is_selected_from_as_well(keras, tmp_path):
    model = sa.select_features(field_model(), keep=3, end_step=100)
    sa.pruned_layers(model)[0].update_masks(0.5)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert sa.selected_features(loaded) == sa.selected_features(model)
    small = sa.drop_features(loaded)
    fields, _ = data()
    given = {name: fields[name] for name in small.input}
    np.testing.assert_allclose(
        small.predict(given, verbose=0), model.predict(fields, verbose=0), atol=1e-5
    )


def test_named_layers_and_what_is_read_beside_them(keras):
    a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b")
    cross = layers.Multiply(name="cross")([a, b])
    side = layers.Dense(2)(layers.Concatenate()([a, cross, b]))
    model = keras.Model([a, b], layers.Add()([side, layers.Dense(2)(a)]))
    selecting = sa.select_features(model, 2, 100, features=["b", "a", "cross"])
    assert list(sa.selected_features(selecting)) == ["b", "a", "cross"]
    x = [np.random.default_rng(n).normal(size=(5, 4)).astype("float32") for n in (0, 1)]
    np.testing.assert_allclose(selecting(x), model(x), atol=1e-6)
    sa.pruned_layers(selecting)[0].update_masks(0.34)
    small = sa.drop_features(selecting)
    np.testing.assert_allclose(small(x), selecting(x), atol=1e-6)


def test_what_is_left_is_smaller_where_it_is_served(keras, tmp_path):
    wide = keras.Input((), dtype="int32", name="wide")
    narrow = keras.Input((), dtype="int32", name="narrow")
    vectors = [
        layers.Embedding(4000, 8)(wide),
        layers.Embedding(TABLE, 8)(narrow),
    ]
    outputs = layers.Dense(1)(layers.Concatenate()(vectors))
    model = keras.Model({"wide": wide, "narrow": narrow}, outputs)
    selecting = sa.select_features(model, keep=1, end_step=100)
    gate = sa.pruned_layers(selecting)[0]
    names = list(sa.selected_features(selecting))
    gate.layer.kernel.assign([[0.1 if name == "wide" else 1.0] for name in names])
    gate.update_masks(0.5)
    small = sa.drop_features(selecting)
    rows = {"narrow": np.arange(TABLE, dtype="int32")}
    expected = np.asarray(small(rows))
    sa.export_saved_model(small, tmp_path / "served")
    served = tf.saved_model.load(tmp_path / "served").signatures["serving_default"]
    (found,) = served(narrow=tf.constant(rows["narrow"])).values()
    np.testing.assert_allclose(found, expected, atol=1e-6)
    file = tmp_path / "small.tflite"
    sa.export_tflite(small, file, representative_dataset=[rows])
    (found,) = litert.run(file.read_bytes(), [*rows.values()], input_names=[*rows])
    np.testing.assert_allclose(found, expected, atol=1e-6)
    # The table that went has 128 kB.
    written = [file, *tmp_path.glob("served/variables/*.data*")]
    assert len(written) == 2 and all(f.stat().st_size < 20_000 for f in written)


def test_numbers_in_buckets_compete_as_their_vectors(keras):
    """A gate on the number itself would move it into other buckets."""
    inputs = {name: keras.Input((1,), name=name) for name in ("age", "price")}
    bucket = layers.Discretization(bin_boundaries=[-1.0, 0.0, 1.0])(inputs["age"])
    vector = layers.Flatten()(layers.Embedding(4, 5)(bucket))
    joined = layers.Concatenate()([vector, inputs["price"]])
    model = keras.Model(inputs, layers.Dense(1)(joined))
    selecting = sa.select_features(model, keep=1, end_step=100)
    sizes = {name: len(d) for name, d in sa.selected_features(selecting).items()}
    assert sizes == {"age": 5, "price": 1}
    gate = sa.pruned_layers(selecting)[0]
    gate.layer.kernel.assign([[1.0 if name == "age" else 0.1] for name in sizes])
    gate.update_masks(0.5)
    small = sa.drop_features(selecting)
    x = {name: np.linspace(-2, 2, 9, dtype="float32")[:, None] for name in inputs}
    found = np.asarray(small({"age": x["age"]}))
    np.testing.assert_allclose(found, np.asarray(selecting(x)), atol=1e-6)
    assert len(np.unique(found.round(4))) == 4


def test_padding_stays_padding_behind_the_gate(keras, tmp_path):
    history = keras.Input((6,), dtype="int32", name="history")
    hour = keras.Input((1,), dtype="int32", name="hour")
    films = layers.Embedding(TABLE, 4, mask_zero=True)(history)
    hours = layers.Flatten()(layers.Embedding(24, 4)(hour))
    joined = layers.Concatenate()([layers.GlobalAveragePooling1D()(films), hours])
    model = keras.Model([history, hour], layers.Dense(1)(joined))
    x = [np.array([[3, 5, 0, 0, 0, 0], [1, 2, 3, 4, 5, 6]]), np.array([[1], [2]])]
    x = [part.astype("int32") for part in x]
    selecting = sa.select_features(model, 7, end_step=100, by="dimension")
    expected = np.asarray(model(x))
    np.testing.assert_allclose(np.asarray(selecting(x)), expected, atol=1e-6)
    gate = sa.pruned_layers(selecting)[0]
    # One dimension of the history goes.
    gate.layer.kernel.assign([[0.1], *[[1.0]] * 7])
    gate.update_masks(0.125)
    small = sa.drop_features(selecting)
    assert any(tuple(w.shape) == (TABLE, 3) for w in small.weights)
    small.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    expected = np.asarray(selecting(x))
    for one in (small, loaded):
        np.testing.assert_allclose(np.asarray(one(x)), expected, atol=1e-6)


def test_a_table_of_several_features_stays_one(keras):
    names = ("seen", "item", "hour")
    inputs = {name: keras.Input((), dtype="int32", name=name) for name in names}
    films = layers.Embedding(TABLE, 4)
    vectors = [films(inputs["seen"]), films(inputs["item"])]
    vectors.append(layers.Embedding(24, 4)(inputs["hour"]))
    model = keras.Model(inputs, layers.Dense(1)(layers.Concatenate()(vectors)))
    selecting = sa.select_features(model, keep=2, end_step=100)
    gate = sa.pruned_layers(selecting)[0]
    scales = {"seen": 0.9, "item": 1.2, "hour": 0.1}
    chosen = sa.selected_features(selecting)
    gate.layer.kernel.assign([[scales[name]] for name in chosen])
    gate.update_masks(0.34)
    small = sa.drop_features(selecting)
    assert sum(tuple(w.shape) == (TABLE, 4) for w in small.weights) == 1
    x = {name: np.arange(8, dtype="int32") for name in names}
    found = small({name: x[name] for name in small.input})
    np.testing.assert_allclose(np.asarray(found), np.asarray(selecting(x)), atol=1e-6)


def test_the_penalty_on_a_table_stays(keras):
    model = field_model(keras.regularizers.L2(0.5))
    selecting = sa.select_features(model, keep=3, end_step=100)
    sa.pruned_layers(selecting)[0].update_masks(0.57)
    small = sa.drop_features(selecting)
    tables = [w for w in small.get_weights() if len(w) == TABLE]
    expected = 0.5 * sum(np.sum(np.square(table)) for table in tables)
    assert len(tables) >= 2
    assert float(sum(small.losses)) == pytest.approx(expected, rel=1e-5)


def test_other_tables_of_an_input_are_told_of(keras, caplog):
    inputs = {name: keras.Input((), dtype="int32", name=name) for name in "ab"}
    deep = [layers.Embedding(TABLE, 4, name=f"deep_{n}")(x) for n, x in inputs.items()]
    wide = layers.Embedding(TABLE, 1, name="wide_b")(inputs["b"])
    sums = layers.Add()([layers.Dense(1)(layers.Concatenate()(deep)), wide])
    model = keras.Model(inputs, sums)
    sa.select_features(model, keep=1, end_step=100)
    assert "stay when the features go: b. " in caplog.text
    caplog.clear()
    every = ["deep_a", "deep_b", "wide_b"]
    selecting = sa.select_features(model, keep=1, end_step=100, features=every)
    gate = sa.pruned_layers(selecting)[0]
    gate.layer.kernel.assign([[1.0], [0.1], [0.1]])
    gate.update_masks(0.67)
    assert set(sa.drop_features(selecting).input) == {"a"}
    sa.select_features(field_model(), keep=1, end_step=100)
    assert not caplog.text


@pytest.mark.parametrize("keep", [0, 7, 1.0, 0.0, -1])
def test_keeping_all_or_nothing_is_refused(keras, keep):
    with pytest.raises(ValueError, match="`keep`"):
        sa.select_features(field_model(), keep, end_step=10)


def test_bad_input_is_named(keras):
    model = field_model()
    with pytest.raises(ValueError, match="nosuch"):
        sa.select_features(model, 2, 10, features=["nosuch", "f1"])
    with pytest.raises(ValueError, match="`by`"):
        sa.select_features(model, 2, 10, by="row")
    with pytest.raises(ValueError, match="select_features"):
        sa.selected_features(model)
    with pytest.raises(ValueError, match="functional"):
        sa.select_features(keras.Sequential([layers.Dense(1)]), 2, 10)
