"""A served model gives for the lines of the log what training saw."""

import numpy as np
import pytest
import tensorflow as tf

import tf_seqattn as sa
from tf_seqattn.criteo.conversion import convert
from tf_seqattn.criteo.log.encoding import Encoding
from tf_seqattn.criteo.log.in_memory import load_clicks
from tf_seqattn.criteo.models.click_model import build_network, prune_first_layer
from tf_seqattn.criteo.models.serving import export_serving, raw_features


@pytest.mark.parametrize(
    "encoding",
    [
        Encoding("log1p", table_size=64),
        Encoding("log3", table_size=64, min_count=15),
        Encoding("bucket", table_size=range(40, 66)),
    ],
    ids=["log1p", "vocabulary", "bucket"],
)
def test_raw_features_give_the_probability_of_training(encoding, clicks_file, tmp_path):
    manifest = convert(clicks_file, tmp_path / "converted", encoding, progress=False)
    network = build_network(manifest.table_sizes, num_numeric=manifest.num_numeric)
    path = export_serving(
        network, tmp_path / "served", manifest.encoding, manifest.vocabulary
    )
    served = tf.saved_model.load(path).signatures["serving_default"]
    lines = clicks_file.read_text().splitlines()[-300:]
    features = load_clicks(manifest.folder, "validation").features()
    expected = tf.sigmoid(network(features))[:, 0]
    found = served(**raw_features(lines))["probability"]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert found.dtype == tf.float32
    # Any number of rows.
    one = served(**raw_features(lines[:1]))["probability"]
    np.testing.assert_allclose(one, expected[:1], atol=1e-6)


def test_a_bad_category_is_an_error_of_the_request(clicks_file, tmp_path):
    path = export_serving(build_network(64), tmp_path / "s", Encoding(table_size=64))
    served = tf.saved_model.load(path).signatures["serving_default"]
    raw = raw_features(clicks_file.read_text().splitlines()[:2])
    raw["C3"] = tf.constant(["ab", "not hex"])
    with pytest.raises(tf.errors.InvalidArgumentError, match="not hex"):
        served(**raw)


def test_what_cannot_be_served_is_refused(tmp_path):
    encoding = Encoding(table_size=64)
    schedule = sa.OneShotSchedule(0.9, prune_step=2)
    with pytest.raises(ValueError, match="strip_pruning"):
        pruned = prune_first_layer(build_network(64), schedule, 20)
        export_serving(pruned, tmp_path / "s", encoding)
    with pytest.raises(ValueError, match="`vocabulary` must be given"):
        export_serving(build_network(64), tmp_path / "s", Encoding(min_count=2))
    assert not (tmp_path / "s").exists()
