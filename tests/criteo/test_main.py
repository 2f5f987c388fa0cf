"""The command line from end to end."""

import json

import numpy as np
import pytest
import tf_keras as keras

from tf_seqattn.criteo import click_frontier
from tf_seqattn.criteo.__main__ import main, start_anew_if_other
from tf_seqattn.inference import litert

SPARSE = "frontier/sequentialattention_blocks_0_9"
OUTPUTS = (
    "curves.png",
    "dense_saved_model/saved_model.pb",
    "frontier/dense_1.keras",
    "frontier/frontier.md",
    "frontier/frontier.png",
    "mask.png",
    "report.html",
    "results.json",
    "results.md",
    "schedule.png",
    "sparse_saved_model/saved_model.pb",
    f"{SPARSE}.keras",
    f"{SPARSE}_float32.tflite",
    f"{SPARSE}_int8.tflite",
)


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    folder = tmp_path_factory.mktemp("output")
    arguments = "--rows 3000 --steps 40 --batch-size 64 --table-size 64".split()
    arguments += ["--sparsities", "0.9"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(click_frontier, "_WIDTHS", (1.0,))
        found = main([*arguments, "--output", str(folder)])
    assert found.left_out == {}
    return folder


@pytest.mark.parametrize("name", OUTPUTS)
def test_everything_is_left_in_the_output_folder(output, name):
    assert (output / name).stat().st_size > 0


def test_rows_that_can_be_made_again_are_deleted(output):
    assert not (output / "data").exists() and not (output / "converted").exists()


def test_the_results_are_complete(output):
    results = json.loads((output / "results.json").read_text())
    points = {(p["family"], p["amount"], p["precision"]): p for p in results["points"]}
    assert len(points) == 10
    blocks = points["SequentialAttention++, blocks", 0.9, "float32"]
    fields = points["SequentialAttention++, fields, 50%", None, "float32"]
    dense = points["dense", 1.0, "float32"]
    assert blocks["bytes"] < 0.5 * dense["bytes"]
    assert fields["bytes"] < 0.9 * dense["bytes"]
    rate, best = results["limits"].values()
    assert all(best < point["quality"] < 1.2 * rate for point in points.values())
    assert results["first_layer"]["blocks_kept"] == 40
    assert results["first_layer"]["blocks"] == 400
    assert len(results["fields_read"]) == 20
    text = (output / "results.md").read_text()
    assert "Fastest at the quality of dense, width 1, float32" in text
    assert "best possible" in text and "Of 400 blocks of the first layer 40" in text
    assert "20 of them" in text


def test_every_training_is_seen(output):
    names = {folder.name for folder in (output / "logs").iterdir()}
    assert {"dense, width 1", "SequentialAttention++, fields, 50%"} <= names
    assert len(names) == 5
    for name in names:
        assert any((output / "logs" / name / "validation").rglob("events*"))
        curve = json.loads((output / "curves" / f"{name}.json").read_text())
        assert curve["steps"][-1] == 40
        assert np.isfinite(curve["losses"]).all()


def test_the_saved_network_is_the_one_in_the_table(output, clicks):
    network = keras.models.load_model(output / f"{SPARSE}.keras")
    for name in ("hidden_1", "hidden_2", "hidden_3"):
        kernel = network.get_layer(name).kernel.numpy()
        assert (kernel == 0).mean() == pytest.approx(0.9, abs=0.01)
    features = clicks[:20].features()
    file = (output / f"{SPARSE}_float32.tflite").read_bytes()
    (outputs,) = litert.run(
        file,
        [features["categorical"], features["numeric"]],
        input_names=["categorical", "numeric"],
    )
    np.testing.assert_allclose(outputs, network(features), atol=1e-4)


def test_other_options_begin_anew_and_say_so(tmp_path, capsys):
    start_anew_if_other(tmp_path, {"steps": 5, "seed": 0})
    (tmp_path / "frontier").mkdir()
    start_anew_if_other(tmp_path, {"steps": 5, "seed": 0})
    assert (tmp_path / "frontier").exists() and not capsys.readouterr().out
    start_anew_if_other(tmp_path, {"steps": 6, "seed": 0})
    assert not (tmp_path / "frontier").exists()
    assert "(steps=5, now 6): training anew" in capsys.readouterr().out
