"""One layer is pruned at a time, and the model is restored afterwards."""

import sys

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

import tf_seqattn as sa

layers = keras.layers
BLOCK = (4, 4)


@pytest.fixture
def model():
    model = keras.Sequential(
        [
            layers.Dense(40, input_shape=(40,), name="first"),
            layers.Dense(40, activation="relu", name="second"),
            layers.Dense(3, name="small"),
        ]
    )
    model.compile(loss="mse", metrics=["mae"])
    return model


@pytest.fixture
def data():
    random = np.random.default_rng(0)
    return tuple(random.normal(size=(32, n)).astype("float32") for n in (40, 3))


def test_values_are_those_of_the_model_with_one_layer_pruned(model, data):
    before = [w.numpy() for w in model.weights]
    found = sa.sensitivity(model, data, (0.9, 0.5), BLOCK, verbose=0)
    assert found.sparsities == (0.5, 0.9)
    assert found.blocks == {"first": 100, "second": 100}
    for weight, value in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(weight, value)
    assert found.dense == model.evaluate(*data, verbose=0, return_dict=True)
    # The same by `prune`.
    pruned = sa.prune(
        model,
        sa.OneShotSchedule(0.5, prune_step=0),
        BLOCK,
        importance=sa.Magnitude(),
        sparsity={"first": 0.0, "second": 0.9},
    )
    sparse = sa.strip_pruning(pruned)
    sparse.compile(loss="mse", metrics=["mae"])
    expected = sparse.evaluate(*data, verbose=0, return_dict=True)
    assert found.layers["second"][1] == pytest.approx(expected)
    assert expected["loss"] != found.dense["loss"]


@pytest.mark.parametrize("importance", [sa.SoftmaxAttention(), sa.PowerPropagation()])
def test_any_importance_ranks(model, data, importance):
    found = sa.sensitivity(model, data, (0.5,), BLOCK, importance, verbose=0)
    by_norm = sa.sensitivity(model, data, (0.5,), BLOCK, verbose=0)
    # Untrained logits rank by the norm.
    assert found.layers == by_norm.layers


def test_own_evaluation_and_a_data_set(model, data):
    found = sa.sensitivity(
        model,
        None,
        (0.5,),
        BLOCK,
        evaluate=lambda m: tf.reduce_sum(m(data[0])),
        verbose=0,
    )
    assert list(found.dense) == ["result"]
    dataset = tf.data.Dataset.from_tensor_slices(data).batch(32)
    by_dataset = sa.sensitivity(model, dataset, (0.5,), BLOCK, verbose=0)
    by_arrays = sa.sensitivity(model, data, (0.5,), BLOCK, verbose=0)
    assert by_dataset.dense == pytest.approx(by_arrays.dense)


def test_weights_are_restored_when_an_evaluation_fails(model):
    before = [w.numpy() for w in model.weights]
    calls = []

    def evaluate(_):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return 0.0

    with pytest.raises(KeyboardInterrupt):
        sa.sensitivity(model, None, (0.5, 0.9), BLOCK, evaluate=evaluate, verbose=0)
    for weight, value in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(weight, value)


def test_table_progress_and_curves(model, data, capsys):
    found = sa.sensitivity(model, data, (0.5, 0.9), BLOCK)
    assert "4/4" in capsys.readouterr().out
    lines = str(found).splitlines()
    assert lines[0].startswith("loss with one layer pruned")
    assert lines[1].split() == ["layer", "blocks", "50%", "90%"]
    assert [line.split()[0] for line in lines[3:]] == ["none", "first", "second"]
    assert "mae" in found.table("mae")
    axes = found.plot("mae")
    assert axes.get_ylabel() == "mae"
    assert [t.get_text() for t in axes.get_legend().get_texts()] == [
        "first", "second", "dense",
    ]  # fmt: skip
    with pytest.raises(ValueError, match=r"metric='auc'"):
        found.plot("auc")


def test_without_matplotlib_the_error_says_what_to_install(model, data, monkeypatch):
    found = sa.sensitivity(model, data, (0.5,), BLOCK, verbose=0)
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(ImportError, match="pip install matplotlib"):
        found.plot()


def test_errors(model, data):
    with pytest.raises(ValueError, match=r"sparsities=\(1.0,\)"):
        sa.sensitivity(model, data, (1.0,), BLOCK)
    with pytest.raises(ValueError, match="an iterator"):
        sa.sensitivity(model, iter([data]), (0.5,), BLOCK)
    with pytest.raises(ValueError, match="is pruned already"):
        pruned = sa.prune(model, sa.OneShotSchedule(0.5, 1), BLOCK)
        sa.sensitivity(pruned, data, (0.5,), BLOCK)
    plain = keras.Sequential([layers.Dense(40, input_shape=(40,))])
    with pytest.raises(ValueError, match="has no loss.*evaluate"):
        sa.sensitivity(plain, data, (0.5,), BLOCK)
