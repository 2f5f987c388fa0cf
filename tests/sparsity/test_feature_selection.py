"""Feature selection: what is kept is what matters, and the rest is gone."""

import numpy as np
import pytest

import tf_seqattn as sa

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


def field_model(width=4):
    keras.utils.set_random_seed(0)
    inputs = {f"f{n}": keras.Input((), dtype="int64", name=f"f{n}") for n in range(6)}
    found = [layers.Embedding(TABLE, width, name=f"e{n}")(x)
             for n, x in enumerate(inputs.values())]  # fmt: skip
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
