"""The command that trains a model of Keras 3 and keras-rs."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from tf_seqattn.criteo.log.in_memory import load_clicks
from tf_seqattn.criteo.models.best_weights import BestWeights
from tf_seqattn.criteo.models.serving import raw_features

pytest.importorskip("keras_rs", reason="pip install 'tf-seqattn[keras-rs]'")
from tf_seqattn.criteo import keras_rs as command  # noqa: E402


def run(data, output, *arguments):
    common = ["--data", str(data), "--output", str(output), "--batch-size", "64"]
    return command.main([*common, *arguments])


def test_a_model_is_trained_measured_and_served(converted, clicks_file, tmp_path):
    steps = ["--steps", "6", "--validations", "1"]
    result = run(
        converted, tmp_path, "--model", "dcn", "--algorithm", "recommended", *steps
    )
    assert result == json.loads((tmp_path / "result.json").read_text())
    assert result["steps"] == 6 and result["validation_rows"] == 300
    network = keras.models.load_model(tmp_path / "model.keras")
    kernel = network.get_layer("cross_1").dense.kernel.numpy()
    assert np.mean(kernel == 0) == pytest.approx(0.9, abs=0.01)
    assert np.all(network.get_layer("C1").get_weights()[0] != 0)
    rows = load_clicks(converted, "validation")
    probabilities = tf.sigmoid(network(rows.features())[:, 0]).numpy()
    chosen = np.where(rows.labels > 0, probabilities, 1 - probabilities)
    assert -np.log(chosen).mean() == pytest.approx(result["log_loss"], rel=1e-4)
    served = tf.saved_model.load(tmp_path / "served").signatures["serving_default"]
    lines = clicks_file.read_text().splitlines()[-300:]
    outputs = served(**raw_features(lines))["probability"]
    np.testing.assert_allclose(outputs, probabilities, atol=1e-5)
    # The weights alone, without those of the optimizer.
    (data,) = (tmp_path / "served" / "variables").glob("variables.data*")
    assert data.stat().st_size < 1.2 * 4 * network.count_params()
    assert any((tmp_path / "logs").rglob("events*"))
    assert not (tmp_path / "backup").exists()


class PowerFailure(BaseException):
    pass


BARS = "--recipe bars --algorithm recommended --steps 48 --validations 8".split()


@pytest.mark.slow
def test_a_training_that_was_broken_off_ends_where_it_would_have(
    converted, tmp_path, monkeypatch
):
    expected = run(converted, tmp_path / "whole", *BARS)
    end, broken = BestWeights.on_epoch_end, []

    def breaks(self, epoch, logs=None):
        end(self, epoch, logs)
        if epoch == 6 and not broken:
            broken.append(epoch)
            raise PowerFailure

    monkeypatch.setattr(BestWeights, "on_epoch_end", breaks)
    with pytest.raises(PowerFailure):
        run(converted, tmp_path / "broken", *BARS)
    with pytest.raises(ValueError, match="--sparsity: 0.9 then, 0.5 now"):
        run(converted, tmp_path / "broken", *BARS, "--sparsity", "0.5")
    result = run(converted, tmp_path / "broken", *BARS)
    assert result["steps"] == expected["steps"]
    assert result["log_loss"] == expected["log_loss"]
    one, other = (
        keras.models.load_model(tmp_path / name / "model.keras").get_weights()
        for name in ("whole", "broken")
    )
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


def test_what_has_no_dropout_is_named(capsys):
    with pytest.raises(SystemExit):
        command.parse_arguments("--recipe bars --model dcn".split())
    assert "use --model dnn" in capsys.readouterr().err
