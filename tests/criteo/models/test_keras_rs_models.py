"""The click models of keras-rs: those of TFRS, on the same converted rows."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tf_seqattn as sa
from tf_seqattn.criteo.log.encoding import Encoding
from tf_seqattn.criteo.log.streaming import read_batches
from tf_seqattn.criteo.models.click_model import build_network
from tf_seqattn.criteo.models.ranking import build_dcn, build_dlrm, ranking_features
from tf_seqattn.criteo.models.serving import export_serving

pytest.importorskip("keras_rs", reason="pip install 'tf-seqattn[keras-rs]'")
from tf_seqattn.criteo.models import keras_rs_models  # noqa: E402

SMALL = {"dimension": 8, "bottom_units": (32,), "top_units": (32, 16)}
CROSSES = {"cross_layers": 2}


def features(clicks, count=50):
    return {
        "numeric": clicks.numeric[:count],
        "categorical": clicks.categorical[:count],
    }


def give_weights(model, tables, rest):
    """Sets tables `(26, rows, dimension)`, and the other weights by names of layers."""
    for number, table in enumerate(tables, start=1):
        (held,) = (
            layer
            for layer in model._flatten_layers()
            if isinstance(layer, keras.layers.Embedding) and layer.name == f"C{number}"
        )
        held.set_weights([table])
    for name, weights in rest.items():
        model.get_layer(name).set_weights(weights)


def randomized(weights, seed=0):
    """Biases, too, that are not zero."""
    generator = np.random.default_rng(seed)
    for weight in weights:
        weight.assign(generator.normal(0, 0.2, weight.shape))


def of_tfrs(kind, clicks, **options):
    """A TFRS model, and its weights under the names of the model of keras-rs."""
    make = {"dcn": build_dcn, "dlrm": build_dlrm}[kind]
    model = make(64, **SMALL, **options)
    model(ranking_features(features(clicks)))
    randomized(model.trainable_variables)
    parts = {
        "bottom": model._bottom_stack._sublayers,
        "top": model._top_stack._sublayers,
    }
    rest = {
        f"{part}_{number}": layer.get_weights()
        for part, layers in parts.items()
        for number, layer in enumerate(layers, start=1)
    }
    rest["logits"] = rest.pop("top_3")
    if kind == "dcn":
        crosses = model._feature_interaction.layers[-1].crosses
        for number, cross in enumerate(crosses, start=1):
            rest[f"cross_{number}"] = cross.get_weights()
    return model, model._embedding_layer.tables.numpy().reshape(26, -1, 8), rest


@pytest.mark.parametrize(
    "kind, options, distributed",
    [
        ("dcn", CROSSES, False),
        ("dcn", {**CROSSES, "projection_dim": 16}, True),
        ("dlrm", {}, False),
        ("dlrm", {}, True),
    ],
)
def test_the_model_is_that_of_tfrs(kind, options, distributed, clicks):
    other, tables, rest = of_tfrs(kind, clicks, **options)
    make = {"dcn": keras_rs_models.build_dcn, "dlrm": keras_rs_models.build_dlrm}[kind]
    model = make(64, **SMALL, **options, distributed=distributed)
    before = model(features(clicks))
    give_weights(model, tables, rest)
    outputs = model(features(clicks))
    assert not np.allclose(outputs, before, atol=1e-2)
    expected = other(ranking_features(features(clicks))).numpy()
    np.testing.assert_allclose(outputs[:, 0], expected, rtol=1e-4, atol=1e-4)


def test_the_paper_model_is_that_of_keras_2(clicks):
    other = build_network(64, hidden_units=(32, 16))
    randomized(other.trainable_variables)
    fields = other.get_layer("fields")
    names = ("hidden_1", "hidden_2", "logits")
    rest = {name: other.get_layer(name).get_weights() for name in names}
    rest["counts"] = [fields.directions.numpy(), fields.offsets.numpy()]
    model = keras_rs_models.build_dnn(64, hidden_units=(32, 16))
    give_weights(model, fields.tables.numpy().reshape(26, -1, 10), rest)
    expected = other(features(clicks))
    outputs = model(features(clicks))
    np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-4)


def test_counts_in_buckets_have_tables():
    model = keras_rs_models.build_dnn([3] * 39, hidden_units=(4,), num_numeric=0)
    rows = {"numeric": np.zeros((2, 0)), "categorical": np.zeros((2, 39), "int32")}
    assert model(rows).shape == (2, 1)
    assert model.get_layer("I13").input_dim == 4


def test_tables_of_dropped_fields_leave(clicks):
    model = keras_rs_models.build_dnn(64, hidden_units=(16,))
    fields = ["numeric", *(f"C{number}" for number in range(1, 27))]
    selecting = sa.select_features(model, 8, end_step=100, features=fields)
    sa.pruned_layers(selecting)[0].update_masks(1 - 8 / 27)
    small = sa.drop_features(selecting)
    assert sum(tuple(w.shape) == (65, 10) for w in small.weights) in (7, 8)
    rows = features(clicks)
    found = small({name: rows[name] for name in small.input})
    np.testing.assert_allclose(found, selecting(rows), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("distributed", [False, True])
def test_every_export_equals_the_masked_model(distributed, clicks, tmp_path):
    model = keras_rs_models.build_dcn(
        64, **SMALL, cross_layers=1, distributed=distributed
    )
    schedule = sa.OneShotSchedule(0.8, prune_step=0)
    pruned = sa.prune(model, schedule, block_size=(8, 8))
    names = [layer.layer.name for layer in sa.pruned_layers(pruned)]
    assert names == ["cross_1", "top_1"]
    x = features(clicks, 64)
    expected = pruned(x).numpy()
    stripped = sa.strip_pruning(pruned)
    kernel = stripped.get_layer("cross_1").dense.kernel.numpy()
    assert np.mean(kernel == 0) == pytest.approx(0.8, abs=0.01)
    stripped.save(tmp_path / "sparse.keras")
    loaded = keras.models.load_model(tmp_path / "sparse.keras")
    np.testing.assert_allclose(loaded(x), expected, atol=1e-6)
    for smaller in (sa.pack(stripped, choose="always"), sa.shrink(stripped)):
        np.testing.assert_allclose(smaller(x), expected, atol=1e-6)
    report = sa.export_tflite(stripped, tmp_path / "m.tflite", choose="always")
    assert [p.layout for p in report.plans].count("packed") == 2
    assert report.differences["no delegate"] < 1e-6


@pytest.mark.parametrize("distributed", [False, True])
def test_channels_of_a_dlrm_are_pruned_and_removed(distributed, clicks, tmp_path):
    model = keras_rs_models.build_dlrm(64, **SMALL, distributed=distributed)
    # What a dot product sums over stays, and so do the tables.
    groups = sa.channel_groups(model)
    assert [group.name for group in groups] == ["bottom_1", "top_1", "top_2"]
    assert "sums over them" in groups.frozen["bottom_2"]
    schedule = sa.OneShotSchedule(0.5, prune_step=0)
    pruned = sa.prune(model, schedule, block_size="channels")
    with pytest.raises(ValueError, match="still pruned"):
        export_serving(pruned, tmp_path, Encoding(table_size=64))
    x = features(clicks)
    expected = pruned(x).numpy()
    smaller = sa.shrink(sa.strip_pruning(pruned))
    assert smaller.get_layer("top_1").units == 16
    np.testing.assert_allclose(smaller(x), expected, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("distributed", [False, True])
def test_plain_fit_trains_it_on_converted_rows(
    distributed, converted, clicks, tmp_path
):
    model = keras_rs_models.build_dlrm(64, **SMALL, distributed=distributed)
    # Tables, too, where they are large enough.
    schedule = sa.SequentialAttentionSchedule(0.5, end_step=20)
    policy = sa.MinimumBlocks((13, 8), min_blocks=5)
    pruned = sa.prune(model, schedule, block_size=(13, 8), pruning_policy=policy)
    names = {layer.layer.name for layer in sa.pruned_layers(pruned)}
    assert {"C1", "C26", "top_1"} < names
    pruned.compile(
        keras.optimizers.Adam(1e-2),
        keras.losses.BinaryCrossentropy(from_logits=True),
        metrics=[keras.metrics.AUC(from_logits=True, name="auc")],
    )
    batches = read_batches(converted, "train", 135, seed=0)
    callbacks = [sa.UpdatePruningStep()]
    history = pruned.fit(batches, epochs=2, verbose=0, callbacks=callbacks).history
    assert history["auc"][1] > max(0.5, history["auc"][0])
    x = features(clicks)
    expected = pruned(x).numpy()
    stripped = sa.strip_pruning(pruned)
    np.testing.assert_allclose(stripped(x), expected, atol=1e-5)
    tables = [la for la in stripped._flatten_layers() if la.name == "C1"]
    assert np.mean(tables[0].get_weights()[0] == 0) == pytest.approx(0.4, abs=0.25)
    sa.export_saved_model(stripped, tmp_path / "served", choose="always")
    served = tf.saved_model.load(tmp_path / "served").signatures["serving_default"]
    (outputs,) = served(**{name: tf.constant(x[name]) for name in x}).values()
    np.testing.assert_allclose(outputs, expected, atol=1e-5)
