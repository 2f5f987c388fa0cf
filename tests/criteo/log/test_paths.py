"""Reading over `tf.io.gfile`, from the file system that TensorFlow keeps in memory."""

import gzip
import pathlib
import uuid

import numpy as np
import pytest
import tensorflow as tf

from tf_seqattn.criteo import train
from tf_seqattn.criteo.combining import combine
from tf_seqattn.criteo.conversion import convert
from tf_seqattn.criteo.log.encoding import Encoding
from tf_seqattn.criteo.log.in_memory import load_clicks
from tf_seqattn.criteo.log.inputs import find_files
from tf_seqattn.criteo.log.manifest import Manifest
from tf_seqattn.criteo.log.paths import RemotePath, as_path
from tf_seqattn.criteo.log.streaming import read_batches
from tf_seqattn.criteo.models.click_model import build_network
from tf_seqattn.criteo.models.warm_start import (
    MODEL_FILE,
    load_earlier,
    save_encoding,
)

ENCODING = Encoding(table_size=64, min_count=2)


@pytest.fixture
def bucket():
    """An address of its own."""
    address = f"ram://{uuid.uuid4().hex}"
    tf.io.gfile.makedirs(address)
    return address


def upload(source: pathlib.Path, address: str):
    for path in source.rglob("*"):
        target = f"{address}/{path.relative_to(source)}"
        if path.is_dir():
            tf.io.gfile.makedirs(target)
        elif path.name != "lock":
            tf.io.gfile.copy(str(path), target)


def rows_of(folder):
    parts = [load_clicks(folder, split) for split in ("train", "validation")]
    return np.concatenate([np.column_stack([p.numeric, p.categorical]) for p in parts])


def test_logs_are_converted_from_afar(clicks_file, bucket, tmp_path):
    lines = clicks_file.read_bytes().splitlines(keepends=True)
    with tf.io.gfile.GFile(f"{bucket}/day_0", "wb") as file:
        file.write(b"".join(lines[:2000]))
    with tf.io.gfile.GFile(f"{bucket}/day_1.gz", "wb") as file:
        file.write(gzip.compress(b"".join(lines[2000:])))
    found = find_files(f"{bucket}/day_*")
    assert [path.name for path in found] == ["day_0", "day_1.gz"]
    convert(f"{bucket}/day_*", tmp_path / "far", ENCODING, progress=False)
    convert(clicks_file, tmp_path / "near", ENCODING, progress=False)
    np.testing.assert_array_equal(rows_of(tmp_path / "far"), rows_of(tmp_path / "near"))
    # A second call finds its own request again.
    convert(f"{bucket}/day_*", tmp_path / "far", ENCODING, progress=False)


def test_converted_rows_are_read_from_afar(clicks_file, bucket, tmp_path):
    near = tmp_path / "near"
    convert(clicks_file, near, ENCODING, progress=False)
    upload(near, f"{bucket}/rows")
    far = f"{bucket}/rows"
    np.testing.assert_array_equal(rows_of(far), rows_of(near))
    Manifest.load(far).verify(progress=False)
    ours, theirs = (read_batches(f, "train", 512, seed=1) for f in (far, near))
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one[0]["categorical"], other[0]["categorical"])
    assert train.is_conversion([far]) and not train.is_conversion([bucket])
    joined = combine([far], tmp_path / "joined", min_count=0, progress=False)
    assert joined.rows("train") == 3000
    tf.io.gfile.remove(str(Manifest.load(far).paths("train")[0]))
    with pytest.raises(FileNotFoundError, match=f"{bucket}/rows/shards/.*missing"):
        Manifest.load(far)


def test_a_model_to_start_from_is_read_from_afar(clicks_file, bucket, tmp_path):
    manifest = convert(clicks_file, tmp_path / "rows", ENCODING, progress=False)
    near, far = tmp_path / "model", f"{bucket}/model"
    network = build_network(manifest.table_sizes, hidden_units=(4,))
    near.mkdir()
    network.save(near / MODEL_FILE)
    save_encoding(near, manifest)
    with pytest.raises(SystemExit):
        train.parse_arguments(["--start", far])
    upload(near, far)
    options = train.parse_arguments(["--start", far])
    earlier = load_earlier(options.start, manifest)
    for ours, theirs in zip(earlier.network.weights, network.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_array_equal(earlier.vocabulary.rows, manifest.vocabulary.rows)


def test_writing_stays_on_the_local_disk(clicks_file, bucket):
    with pytest.raises(ValueError, match="`folder` must be on a local disk"):
        convert(clicks_file, f"{bucket}/rows", ENCODING, progress=False)
    with pytest.raises(FileNotFoundError, match=f"No file matches {bucket}/nothing"):
        find_files(f"{bucket}/nothing*")


def test_a_path_keeps_its_scheme():
    path = as_path("gs://bucket/a//b")
    assert isinstance(path, RemotePath) and as_path(path) is path
    assert str(path / "c") == "gs://bucket/a/b/c"
    assert str(path.with_name("d.txt")) == "gs://bucket/a/d.txt"
    assert path.suffix == "" and (path / "x.gz").suffix == ".gz"
    assert isinstance(as_path("a/b"), pathlib.Path)
    with pytest.raises(ValueError, match="mode='w'"):
        path.open("w")
