"""The command that trains from files to a served model."""

import json

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

import tf_seqattn as sa
from tf_seqattn.criteo import train
from tf_seqattn.criteo.log.in_memory import load_clicks
from tf_seqattn.criteo.models import deploy
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
    assert result["validation_rows"] == 300
    assert not (tmp_path / "converted").exists()


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
