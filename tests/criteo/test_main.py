"""The command line from end to end, and the check of TFLite files."""

import json

import numpy as np
import pytest
import tf_keras as keras

from tf_seqattn.criteo import deploy
from tf_seqattn.criteo.__main__ import main
from tf_seqattn.criteo.model import build_network

OUTPUTS = (
    "results.md",
    "results.json",
    "curves.png",
    "schedule.png",
    "mask.png",
    "dense.keras",
    "sparse.keras",
    "dense.tflite",
    "sparse.tflite",
    "dense_saved_model/saved_model.pb",
    "sparse_saved_model/saved_model.pb",
    "data/clicks.txt",
    "data/clicks.json",
)


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    folder = tmp_path_factory.mktemp("output")
    arguments = "--rows 3000 --steps 60 --batch-size 64 --table-size 64".split()
    rows = main([*arguments, "--output", str(folder)])
    assert [row.blocks for row in rows] == [None, None, "400 of 400", "40 of 400"]
    return folder


@pytest.mark.parametrize("name", OUTPUTS)
def test_everything_is_left_in_the_output_folder(output, name):
    assert (output / name).stat().st_size > 0


def test_the_results_are_complete(output):
    results = json.loads((output / "results.json").read_text())
    dense, sparse = results["table"][-2:]
    assert sparse["weights"] < 0.75 * dense["weights"]
    assert set(sparse["latencies"]) == {"1", "64"}
    assert results["runs"]["seqattn"]["curve_steps"][-1] == 60
    text = (output / "results.md").read_text()
    assert "best possible" in text and "40 of 400" in text
    assert any((output / "logs" / "seqattn").rglob("events*"))


def test_the_saved_network_is_the_one_in_the_table(output, clicks):
    network = keras.models.load_model(output / "sparse.keras")
    kernel = network.get_layer("hidden_1").kernel.numpy()
    assert (kernel == 0).mean() == pytest.approx(0.9, abs=0.01)
    perceptron = deploy.multilayer_perceptron(network)
    inputs = deploy.embed(network, clicks[:20].features())
    file = (output / "sparse.tflite").read_bytes()
    np.testing.assert_allclose(deploy.run(file, inputs), perceptron(inputs), atol=1e-4)
    np.testing.assert_allclose(
        perceptron(inputs), network(clicks[:20].features()), atol=1e-5
    )


def test_a_sparse_file_that_drops_inputs_is_found_out(clicks):
    """390 inputs are no multiple of 4: the converter loses the last two."""
    network = build_network(64)
    hidden = network.get_layer("hidden_1")
    kernel = hidden.kernel.numpy() * 10
    kernel[:380] = 0
    hidden.kernel.assign(kernel)
    features = {
        "numeric": clicks.numeric[:50],
        "categorical": clicks.categorical[:50],
    }
    fields = network.get_layer("fields")
    fields.tables.assign(fields.tables * 50)
    attempts = deploy.export(network, features, sparse=True)
    assert [attempt.right for attempt in attempts] == [False, True]
    assert "padded to a multiple of 4" in attempts[-1].name
    [attempt] = deploy.export(network, features, sparse=False)
    assert attempt.right and len(attempt.file) > len(attempts[-1].file)
