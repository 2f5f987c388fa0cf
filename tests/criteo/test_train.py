"""The command that trains from files to a served model."""

import json

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

import tf_seqattn as sa
from tf_seqattn.criteo import train
from tf_seqattn.criteo.conversion import convert
from tf_seqattn.criteo.log.encoding import Encoding
from tf_seqattn.criteo.log.in_memory import load_clicks
from tf_seqattn.criteo.models import deploy
from tf_seqattn.criteo.models.best_weights import BestWeights
from tf_seqattn.criteo.models.click_model import ClickModel, build_network
from tf_seqattn.criteo.models.recipes import RECIPES, Recipe
from tf_seqattn.criteo.models.serving import raw_features
from tf_seqattn.inference import litert

COMMON = "--steps 30 --batch-size 64 --table-size 64 --validations 3".split()


def run(clicks_file, output, *arguments):
    return train.main(
        ["--data", str(clicks_file), "--output", str(output), *COMMON, *arguments]
    )


def served_probabilities(output, clicks_file):
    served = tf.saved_model.load(output / "served").signatures["serving_default"]
    lines = clicks_file.read_text().splitlines()[-300:]
    return served(**raw_features(lines))["probability"].numpy()


def test_the_paper_model_is_trained_measured_and_served(clicks_file, tmp_path):
    result = run(clicks_file, tmp_path)
    assert result == json.loads((tmp_path / "result.json").read_text())
    assert result["steps"] == 30 and result["validation_rows"] == 300
    probabilities = served_probabilities(tmp_path, clicks_file)
    rows = load_clicks(tmp_path / "converted", "validation")
    chosen = np.where(rows.labels > 0, probabilities, 1 - probabilities)
    assert -np.log(chosen).mean() == pytest.approx(result["log_loss"], rel=1e-4)
    network = keras.models.load_model(tmp_path / "model.keras")
    logits = network(rows.features())[:, 0]
    np.testing.assert_allclose(tf.sigmoid(logits), probabilities, atol=1e-5)
    kernel = network.get_layer("hidden_1").kernel.numpy()
    assert np.mean(kernel == 0) == pytest.approx(0.9, abs=0.01)
    file = (tmp_path / "perceptron.tflite").read_bytes()
    (outputs,) = litert.run(file, [deploy.embed(network, rows.features())])
    np.testing.assert_allclose(outputs[:, 0], logits, atol=1e-4)
    assert any((tmp_path / "logs").rglob("events*"))


@pytest.mark.slow
@pytest.mark.parametrize("model", ["dlrm", pytest.param("dcn", marks=pytest.mark.slow)])
def test_ranking_models_are_trained_and_served(model, clicks_file, tmp_path):
    arguments = ["--model", model, "--algorithm", "acdc", "--table-rows", "13"]
    result = run(clicks_file, tmp_path, *arguments)
    probabilities = served_probabilities(tmp_path, clicks_file)
    labels = load_clicks(tmp_path / "converted", "validation").labels
    chosen = np.where(labels > 0, probabilities, 1 - probabilities)
    assert -np.log(chosen).mean() == pytest.approx(result["log_loss"], rel=1e-4)


def test_converted_rows_are_trained_on_as_they_are(converted, tmp_path):
    result = run(converted, tmp_path, "--algorithm", "dense")
    assert result["validation_rows"] == 300 and "test_rows" not in result
    assert not (tmp_path / "converted").exists()


def test_a_training_starts_from_an_earlier_one(clicks_file, tmp_path, capsys):
    counted = ["--min-count", "3"]
    run(clicks_file, tmp_path / "old", *counted)
    old = keras.models.load_model(tmp_path / "old/model.keras")
    more = ["--start", str(tmp_path / "old"), "--support", "keep", *counted]
    # The rate is so low that weights stay what they were.
    run(
        clicks_file,
        tmp_path / "new",
        *more,
        "--first-rate",
        "1e-9",
        "--last-rate",
        "1e-9",
    )
    new = keras.models.load_model(tmp_path / "new/model.keras")
    for name in ("fields", "hidden_1", "hidden_2", "logits"):
        for ours, theirs in zip(
            new.get_layer(name).weights, old.get_layer(name).weights, strict=True
        ):
            np.testing.assert_allclose(ours, theirs, atol=1e-5)
    kernels = [n.get_layer("hidden_1").kernel.numpy() == 0 for n in (old, new)]
    np.testing.assert_array_equal(*kernels)
    assert kernels[0].mean() == pytest.approx(0.9, abs=0.01)
    with pytest.raises(ValueError, match="encoded alike"):
        run(clicks_file, tmp_path / "other", *more, "--numeric", "log3")
    with pytest.raises(SystemExit):
        run(clicks_file, tmp_path / "none", "--start", str(tmp_path))
    assert "has no model.keras" in capsys.readouterr().err


def test_rows_held_out_to_test_are_measured_as_well(clicks_file, tmp_path):
    manifest = convert(
        clicks_file,
        tmp_path / "rows",
        Encoding(table_size=64),
        test_fraction=0.2,
        progress=False,
    )
    network = build_network(64, hidden_units=(4,))
    found = train.measure(network, manifest)
    assert (found["validation_rows"], found["test_rows"]) == (300, 600)
    rows = load_clicks(manifest.folder, "test")
    logits = network(rows.features())[:, 0]
    losses = tf.nn.sigmoid_cross_entropy_with_logits(rows.labels, logits)
    assert found["test_log_loss"] == pytest.approx(np.mean(losses), rel=1e-4)
    assert found["test_auc"] != found["auc"]


def test_a_tampered_shard_is_named_by_the_training(clicks_file, tmp_path):
    encoding = Encoding(table_size=64)
    manifest = convert(clicks_file, tmp_path / "rows", encoding, progress=False)
    path = manifest.paths("train")[0]
    content = bytearray(path.read_bytes())
    content[5000] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"{path.name} is damaged: .*--repair"):
        run(manifest.folder, tmp_path / "again", "--algorithm", "dense")


def test_the_recipe_of_the_paper_is_named():
    recipe = RECIPES["paper"]
    assert recipe.batch_size == 32_768
    steps = recipe.num_steps(33_000_000)
    assert steps == 25 * 1007
    rate = recipe.learning_rate(steps)
    assert float(rate(0)) == pytest.approx(2e-2)
    assert float(rate(steps)) == pytest.approx(3e-4)
    options = train.parse_arguments(
        "--recipe paper --first-rate 0.01 --batch-size 100".split()
    )
    chosen = train.chosen_recipe(options)
    assert chosen == Recipe(100, epochs=25, first_rate=0.01, last_rate=3e-4)


BARS = "--recipe bars --algorithm recommended --steps 48 --validations 8".split()


def test_the_recipe_of_bars_keeps_the_best_sparse_weights(
    clicks_file, tmp_path, monkeypatch
):
    seen = []
    end = BestWeights.on_epoch_end

    def recorded(self, epoch, logs=None):
        seen.append((epoch, logs["val_auc"]))
        end(self, epoch, logs)

    monkeypatch.setattr(BestWeights, "on_epoch_end", recorded)
    result = run(clicks_file, tmp_path, *BARS)
    # The sparsity rises in 24 of 48 steps; no validation before that counts.
    assert seen[0][0] >= 3
    epoch, auc = max(seen, key=lambda pair: pair[1])
    assert result["steps"] == 6 * (epoch + 1)
    assert result["auc"] == pytest.approx(auc, abs=5e-3)
    network = keras.models.load_model(tmp_path / "model.keras")
    kernel = network.get_layer("hidden_1").kernel.numpy()
    assert np.mean(kernel == 0) == pytest.approx(0.9, abs=0.01)
    assert any(isinstance(la, keras.layers.Dropout) for la in network.layers)
    assert network.get_layer("fields").l2 == 1e-5
    assert not (tmp_path / "backup").exists()


def test_bars_wants_a_network_with_dropout(capsys):
    with pytest.raises(SystemExit):
        train.parse_arguments("--recipe bars --model dlrm".split())
    assert "use --model dnn" in capsys.readouterr().err


@pytest.mark.slow
def test_bars_ends_where_it_would_have(clicks_file, tmp_path, monkeypatch):
    expected = run(clicks_file, tmp_path / "whole", *BARS)
    end, broken = BestWeights.on_epoch_end, []

    def breaks(self, epoch, logs=None):
        end(self, epoch, logs)
        if epoch == 6 and not broken:
            broken.append(epoch)
            raise PowerFailure

    monkeypatch.setattr(BestWeights, "on_epoch_end", breaks)
    with pytest.raises(PowerFailure):
        run(clicks_file, tmp_path / "broken", *BARS)
    result = run(clicks_file, tmp_path / "broken", *BARS)
    assert result["steps"] == expected["steps"]
    assert result["log_loss"] == expected["log_loss"]
    pairs = zip(weights(tmp_path / "broken"), weights(tmp_path / "whole"), strict=True)
    for one, other in pairs:
        np.testing.assert_array_equal(one, other)


@pytest.fixture
def small():
    model = keras.Sequential([keras.layers.Dense(1, input_shape=(2,))])
    model.stop_training = False
    return model


def test_best_weights_stop_and_are_restored_by_another_process(small, tmp_path):
    def after(best, epoch, auc):
        best.set_model(small)
        small.set_weights([np.full((2, 1), epoch), np.zeros(1)])
        best.on_epoch_end(epoch, {"val_auc": auc})
        return small.stop_training

    best = BestWeights(tmp_path, patience=2)
    assert not after(best, 0, 0.6)
    assert not after(best, 1, 0.7)
    assert not after(best, 2, 0.65)
    # Killed, and epoch 2 again.
    best = BestWeights(tmp_path, patience=2)
    assert not after(best, 2, 0.65)
    assert after(best, 3, 0.7)
    again = BestWeights(tmp_path, patience=2)
    assert again.state == {"epoch": 1, "auc": 0.7, "stopped": True}
    again.restore(small)
    np.testing.assert_array_equal(small.get_weights()[0], np.ones((2, 1)))
    assert [p.name for p in tmp_path.glob("*.h5")] == ["best-1.weights.h5"]


def test_tables_are_held_small_by_l2():
    model = ClickModel(build_network(table_size=8, l2=0.5))
    few = {"numeric": tf.ones((2, 13)), "categorical": tf.zeros((2, 26), tf.int32)}
    model(few)
    fields = model.network.get_layer("fields")
    squares = sum(np.sum(np.square(w)) for w in (fields.tables, fields.directions))
    assert float(sum(model.losses)) == pytest.approx(0.25 * squares, rel=1e-5)


def test_only_some_fields_are_kept(clicks_file, tmp_path, capsys):
    result = run(clicks_file, tmp_path, "--fields", "7", "--algorithm", "recommended")
    network = keras.models.load_model(tmp_path / "model.keras")
    assert len(result["fields"]) == 7 == len(set(result["fields"]))
    fields = network.get_layer("fields")
    assert fields.num_numeric == sum(name[0] == "I" for name in result["fields"])
    assert fields.tables.shape[0] == 65 * sum(n[0] == "C" for n in result["fields"])
    assert network.get_layer("hidden_1").kernel.shape == (70, 400)
    rows = load_clicks(tmp_path / "converted", "validation")
    logits = network(rows.features())[:, 0]
    probabilities = served_probabilities(tmp_path, clicks_file)
    np.testing.assert_allclose(tf.sigmoid(logits), probabilities, atol=1e-5)
    file = (tmp_path / "perceptron.tflite").read_bytes()
    (outputs,) = litert.run(file, [deploy.embed(network, rows.features())])
    np.testing.assert_allclose(outputs[:, 0], logits, atol=1e-4)
    for wrong in ("--model dcn", "--algorithm dense", "--block-size 20"):
        with pytest.raises(SystemExit):
            train.parse_arguments(["--fields", "7", *wrong.split()])
        assert f"--fields 7 {wrong}" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        train.parse_arguments(["--fields", "39"])
    assert "some of the 39 fields" in capsys.readouterr().err


def test_weight_decay_reaches_kernels_and_logits(converted, tmp_path, capsys):
    common = ["--data", str(converted), "--output", str(tmp_path), "--steps", "3"]
    common += ["--batch-size", "64", "--algorithm", "seqattn", "--validations", "1"]
    plain = train.chosen_recipe(train.parse_arguments(common))
    assert plain.weight_decay == RECIPES["paper"].weight_decay == 0.0
    options = train.parse_arguments([*common, "--weight-decay", "0.2"])
    manifest = train.open_rows(options)
    model, _ = train.train(options, manifest, tf.distribute.get_strategy())
    assert model.optimizer.weight_decay == 0.2
    (pruned,) = sa.pruned_layers(model)[0].pruned_kernels
    pruned.logits.assign(np.full(pruned.logits.shape, 2.0))
    model({"numeric": tf.ones((1, 13)), "categorical": tf.zeros((1, 26), tf.int32)})
    assert float(sum(model.losses)) == pytest.approx(0.1 * 4 * 20 * 20)
    with pytest.raises(SystemExit):
        both = ["--weight-decay", "0.2", "--table-optimizer", "adagrad"]
        train.parse_arguments([*common, *both])
    assert "--weight-decay wants --table-optimizer adam" in capsys.readouterr().err


def test_more_rows_in_a_batch_than_there_are_is_named(clicks_file, tmp_path):
    with pytest.raises(ValueError, match="batch_size=100000"):
        run(clicks_file, tmp_path, "--batch-size", "100000")


def test_a_recipe_has_steps_or_epochs():
    with pytest.raises(ValueError, match="one of `epochs` and `steps`"):
        Recipe(100)


class PowerFailure(BaseException):
    pass


def weights(output):
    return keras.models.load_model(output / "model.keras").get_weights()


@pytest.fixture(scope="module")
def whole(clicks_file, tmp_path_factory):
    """An undisturbed training, of a number of steps that three do not divide."""
    output = tmp_path_factory.mktemp("whole")
    return run(clicks_file, output, "--steps", "31"), weights(output)


def test_a_training_that_was_broken_off_ends_where_it_would_have(
    whole, clicks_file, tmp_path, monkeypatch
):
    epochs = []
    end = sa.PruningSummaries.on_epoch_end

    def broken(self, epoch, logs=None):
        epochs.append(epoch)
        if epochs == [0, 1]:
            raise PowerFailure
        end(self, epoch, logs)

    monkeypatch.setattr(sa.PruningSummaries, "on_epoch_end", broken)
    steps = ["--steps", "31"]
    with pytest.raises(PowerFailure):
        run(clicks_file, tmp_path, *steps)
    with pytest.raises(ValueError, match="--sparsity: 0.9 then, 0.95 now"):
        run(clicks_file, tmp_path, *steps, "--sparsity", "0.95")
    result = run(clicks_file, tmp_path, *steps)
    assert epochs == [0, 1, 1, 2]
    expected, expected_weights = whole
    assert result["steps"] == 31
    assert result["log_loss"] == expected["log_loss"]
    for one, other in zip(weights(tmp_path), expected_weights, strict=True):
        np.testing.assert_array_equal(one, other)
    assert not (tmp_path / "backup").exists()


@pytest.mark.slow
def test_a_finished_training_survives_a_broken_export(
    whole, clicks_file, tmp_path, monkeypatch
):
    steps = []
    begin = sa.UpdatePruningStep.on_train_batch_begin
    monkeypatch.setattr(
        sa.UpdatePruningStep,
        "on_train_batch_begin",
        lambda self, batch, logs=None: (steps.append(batch), begin(self, batch, logs)),
    )
    with monkeypatch.context() as patch:

        def full(*_, **__):
            raise OSError(28, "No space left on device")

        patch.setattr(train.deploy, "export", full)
        with pytest.raises(OSError, match="No space left"):
            run(clicks_file, tmp_path, "--steps", "31")
    assert len(steps) == 31 and (tmp_path / "served").exists()
    result = run(clicks_file, tmp_path, "--steps", "31")
    assert len(steps) == 31
    assert result["log_loss"] == whole[0]["log_loss"]
    assert (tmp_path / "result.json").exists()
