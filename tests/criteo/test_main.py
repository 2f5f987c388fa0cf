"""The command line from end to end."""

import json

import numpy as np
import pytest
import tf_keras as keras

from tf_seqattn.criteo import click_frontier
from tf_seqattn.criteo.__main__ import main
from tf_seqattn.criteo.models import deploy
from tf_seqattn.inference import litert

OUTPUTS = (
    "frontier/frontier.md",
    "frontier/frontier.png",
    "results.md",
    "results.json",
    "curves.png",
    "schedule.png",
    "mask.png",
    "report.html",
    "dense.keras",
    "sparse.keras",
    "dense.tflite",
    "sparse.tflite",
    "dense_saved_model/saved_model.pb",
    "sparse_saved_model/saved_model.pb",
)


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    folder = tmp_path_factory.mktemp("output")
    arguments = "--rows 3000 --steps 60 --batch-size 64 --table-size 64".split()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(click_frontier, "_WIDTHS", (1.0, 0.5))
        rows = main([*arguments, "--output", str(folder)])
    dense, narrow, gradual, ours = [row.blocks for row in rows[2:]]
    assert (dense, gradual, ours) == ("400 of 400", "40 of 400", "40 of 400")
    assert narrow == "240 of 240"
    return folder


@pytest.mark.parametrize("name", OUTPUTS)
def test_everything_is_left_in_the_output_folder(output, name):
    assert (output / name).stat().st_size > 0


def test_rows_that_can_be_made_again_are_deleted(output):
    assert not (output / "data").exists() and not (output / "converted").exists()


def test_the_results_are_complete(output):
    results = json.loads((output / "results.json").read_text())
    dense, narrow, gradual, sparse = results["table"][-4:]
    # The pruned networks have as many weights as the narrow one, less what was padded.
    assert narrow["weights"] == pytest.approx(sparse["weights"], rel=0.05)
    assert gradual["weights"] == pytest.approx(sparse["weights"], rel=0.05)
    assert sparse["weights"] < 0.75 * dense["weights"]
    assert set(sparse["latencies"]) == {"1", "64"}
    assert results["runs"]["recommended"]["curve_steps"][-1] == 60
    frontier = json.loads((output / "frontier" / "frontier.json").read_text())
    assert frontier["left_out"] == {}
    assert len(frontier["points"]) == 10
    text = (output / "results.md").read_text()
    assert "Fastest at the quality of dense, width 1, float32" in text
    assert "best possible" in text and "40 of 400" in text
    assert any((output / "logs" / "recommended").rglob("events*"))


def test_the_saved_network_is_the_one_in_the_table(output, clicks):
    network = keras.models.load_model(output / "sparse.keras")
    kernel = network.get_layer("hidden_1").kernel.numpy()
    assert (kernel == 0).mean() == pytest.approx(0.9, abs=0.01)
    perceptron = deploy.multilayer_perceptron(network)
    inputs = deploy.embed(network, clicks[:20].features())
    file = (output / "sparse.tflite").read_bytes()
    (outputs,) = litert.run(file, [inputs])
    np.testing.assert_allclose(outputs, perceptron(inputs), atol=1e-4)
    np.testing.assert_allclose(
        perceptron(inputs), network(clicks[:20].features()), atol=1e-5
    )


def test_the_first_layer_of_the_sparse_file_is_packed(output):
    results = json.loads((output / "results.json").read_text())
    dense, _, _, sparse = results["tflite"]
    assert dense.startswith("- dense, dense,")
    assert sparse.startswith("- sparse, packed (hidden_1),")
    sizes = [(output / f"{n}.tflite").stat().st_size for n in ("sparse", "dense")]
    assert sizes[0] < 0.75 * sizes[1]
