"""A served model gives for the lines of the log what training saw."""

import numpy as np
import pytest
import tensorflow as tf

import tf_seqattn as sa
from tf_seqattn.criteo.conversion import convert
from tf_seqattn.criteo.log.bad_rows import BadRows
from tf_seqattn.criteo.log.encoding import Encoding
from tf_seqattn.criteo.log.fields import COLUMNS
from tf_seqattn.criteo.log.in_memory import load_clicks
from tf_seqattn.criteo.log.parsing import parse_file
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


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    path = tmp_path_factory.mktemp("serving") / "served"
    export_serving(build_network(64), path, Encoding(table_size=64))
    return tf.saved_model.load(path).signatures["serving_default"]


@pytest.mark.parametrize(
    "name, text",
    [
        ("C3", "not hex"),
        ("C3", "+1f"),
        ("C3", "000000001"),
        ("C3", " 1"),
        ("C3", "1_0"),
        ("C3", "-0"),
        ("C3", "\u0661"),
    ],
)
def test_conversion_and_serving_refuse_the_same_rows(
    name, text, served, clicks_file, tmp_path
):
    lines = clicks_file.read_text().splitlines()[:3]
    expected = served(**raw_features(lines))["probability"].numpy()
    fields = lines[1].split("\t")
    fields[COLUMNS.index(name)] = text
    lines[1] = "\t".join(fields)
    found = served(**raw_features(lines))["probability"].numpy()
    assert np.isnan(found[1])
    np.testing.assert_array_equal(found[[0, 2]], expected[[0, 2]])
    path = tmp_path / "log.txt"
    path.write_text("\n".join(lines) + "\n")
    bad = BadRows(limit=1)
    (rows,) = parse_file(path, bad)
    assert len(rows) == 2 and bad.quoted[0].line == 2
    assert bad.quoted[0].reason == f"bad {name}"


@pytest.mark.parametrize(
    "text", ["+5", " 5", "1_0", "1.5", "inf", "nan", "1" + "0" * 19]
)
def test_counts_are_whole_numbers_in_plain_digits(text, clicks_file, tmp_path):
    fields = clicks_file.read_text().splitlines()[0].split("\t")
    fields[2] = text
    path = tmp_path / "log.txt"
    path.write_text("\t".join(fields) + "\n" + clicks_file.read_text())
    bad = BadRows(limit=1)
    list(parse_file(path, bad))
    assert [(row.line, row.reason) for row in bad.quoted] == [(1, "bad I2")]


def test_an_infinite_count_is_an_error_of_the_request(served, clicks_file):
    raw = raw_features(clicks_file.read_text().splitlines()[:2])
    raw["I2"] = tf.constant([1.0, np.inf], tf.float64)
    with pytest.raises(tf.errors.InvalidArgumentError, match="infinite"):
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
