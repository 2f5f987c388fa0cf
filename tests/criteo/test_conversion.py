"""Conversion: the rows of the file, splits, resuming, bad rows, the manifest."""

import gzip
import json
import logging
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf

from tf_seqattn.criteo import conversion
from tf_seqattn.criteo.conversion import convert, main
from tf_seqattn.criteo.log import units
from tf_seqattn.criteo.log.bad_rows import TooManyBadRows
from tf_seqattn.criteo.log.encoding import Encoding
from tf_seqattn.criteo.log.folder import locked
from tf_seqattn.criteo.log.in_memory import load_clicks
from tf_seqattn.criteo.log.inputs import find_files
from tf_seqattn.criteo.log.manifest import Manifest
from tf_seqattn.criteo.log.synthetic import ClickSource
from tf_seqattn.experiments import command_line

GOOD = "\t".join(["1", *["5"] * 13, *["0000000a"] * 26])
ENCODING = Encoding(table_size=64)


@pytest.fixture
def small_units(monkeypatch):
    """Many units and shards for a file of 700 kB."""
    monkeypatch.setattr(units, "_UNIT_BYTES", 50_000)
    monkeypatch.setattr(units, "_SHARD_ROWS", 100)


def convert_quietly(paths, folder, encoding=ENCODING, **options):
    return convert(paths, folder, encoding, progress=False, **options)


def everything(folder, splits=("train", "validation")):
    parts = [load_clicks(folder, split) for split in splits]
    return np.concatenate(
        [np.column_stack([p.numeric, p.categorical, p.labels]) for p in parts]
    )


def test_the_rows_agree_with_plain_python(clicks_file, clicks):
    lines = [x.split("\t") for x in clicks_file.read_text().splitlines()]
    counts = [[max(int(value or 0), 0) for value in fields[1:14]] for fields in lines]
    ids = [[1 + int(v, 16) % 64 if v else 0 for v in f[14:]] for f in lines]
    np.testing.assert_allclose(clicks.numeric, np.log1p(counts), rtol=1e-6)
    np.testing.assert_array_equal(clicks.categorical, ids)
    np.testing.assert_array_equal(clicks.labels, [int(f[0]) for f in lines])
    assert clicks.numeric.dtype == clicks.labels.dtype == np.float32
    assert clicks.categorical.dtype == np.int32


def test_different_values_get_different_rows(source, clicks):
    """A table no smaller than the values loses none of the signal."""
    assert clicks.categorical.max() <= 64
    for text in source._texts[13:]:
        names = text.drop_nulls().unique().to_list()
        assert len({int(name, 16) % 64 for name in names}) == len(names)


def test_many_units_at_a_time_give_the_same_rows(
    small_units, clicks_file, converted, tmp_path
):
    manifest = convert_quietly(clicks_file, tmp_path / "many", workers=4)
    assert len(manifest.splits["train"]) > 10
    np.testing.assert_array_equal(everything(tmp_path / "many"), everything(converted))
    manifest.verify(progress=False)


@pytest.mark.parametrize("max_rows", [1, 99, 100, 1234, 10_000])
def test_the_first_rows_are_taken(max_rows, small_units, clicks_file, clicks, tmp_path):
    options = {"validation_fraction": 0.2 if max_rows > 1 else 0.0}
    manifest = convert_quietly(
        clicks_file, tmp_path / "few", max_rows=max_rows, test_fraction=0.0, **options
    )
    rows = min(max_rows, 3000)
    held_out = round(rows * options["validation_fraction"])
    assert manifest.rows("validation") == held_out
    splits = [s for s in ("train", "validation") if manifest.rows(s)]
    found = everything(tmp_path / "few", splits)
    np.testing.assert_array_equal(found[:, :13], clicks.numeric[:rows])


def test_time_has_three_parts_and_chance_has_every_row_once(
    small_units, clicks_file, converted, tmp_path
):
    options = {"validation_fraction": 0.2, "test_fraction": 0.1}
    three = ("train", "validation", "test")
    convert_quietly(clicks_file, tmp_path / "time", **options)
    expected = everything(converted)
    np.testing.assert_array_equal(everything(tmp_path / "time", three), expected)
    manifest = convert_quietly(
        clicks_file, tmp_path / "chance", order="random", **options
    )
    rows = [manifest.rows(split) for split in three]
    assert sum(rows) == 3000
    np.testing.assert_allclose(rows, [2100, 600, 300], rtol=0.15)
    found = everything(tmp_path / "chance", three)
    assert (found != expected).any()
    np.testing.assert_array_equal(
        found[np.lexsort(found.T)], expected[np.lexsort(expected.T)]
    )


def test_a_day_can_be_held_out_and_days_are_sorted_by_number(tmp_path):
    for day in (0, 1, 2, 10):
        fields = GOOD.split("\t")
        fields[1] = str(day)
        content = ("\t".join(fields) + "\n").encode()
        (tmp_path / f"day_{day}.gz").write_bytes(gzip.compress(content))
    pattern = str(tmp_path / "day_*.gz")
    assert [path.name for path in find_files(pattern)] == [
        "day_0.gz",
        "day_1.gz",
        "day_2.gz",
        "day_10.gz",
    ]
    manifest = convert_quietly(
        [tmp_path / f"day_{day}.gz" for day in (0, 1, 2)],
        tmp_path / "converted",
        Encoding("raw"),
        validation_fraction=0.0,
        validation_paths=tmp_path / "day_10.gz",
    )
    assert load_clicks(manifest.folder, "train").numeric[:, 0].tolist() == [0, 1, 2]
    assert load_clicks(manifest.folder, "validation").numeric[:, 0].tolist() == [10]


def test_a_finished_conversion_is_reused_and_another_refused(clicks_file, tmp_path):
    folder = tmp_path / "converted"
    first = convert_quietly(clicks_file, folder)
    changed = first.paths("train")[0].stat().st_mtime_ns
    assert convert_quietly(clicks_file, folder) == first
    assert first.paths("train")[0].stat().st_mtime_ns == changed
    with pytest.raises(ValueError, match=r"encoding: .*64.*128[\s\S]*overwrite=True"):
        convert_quietly(clicks_file, folder, Encoding(table_size=128))
    assert Manifest.load(folder) == first
    again = convert_quietly(
        clicks_file, folder, Encoding(table_size=128), overwrite=True
    )
    assert again.table_sizes == (128,) * 26
    assert load_clicks(folder, "train").categorical.max() > 64


def test_other_files_in_the_folder_are_left_alone(clicks_file, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="`folder` must be new"):
        convert_quietly(clicks_file, tmp_path, overwrite=True)
    assert os.listdir(tmp_path) == ["thesis.txt"]


def test_what_was_done_before_an_error_is_not_done_again(
    small_units, clicks_file, converted, tmp_path, monkeypatch
):
    folder, done = tmp_path / "converted", []
    write = units.write_shard

    def failing(path, rows):
        if len(done) == 7:
            raise OSError("no space left on device")
        done.append(path.name)
        return write(path, rows)

    monkeypatch.setattr(units, "write_shard", failing)
    with pytest.raises(OSError, match="no space"):
        convert_quietly(clicks_file, folder, workers=1)
    with pytest.raises(FileNotFoundError, match="interrupted"):
        Manifest.load(folder)
    finished = len(os.listdir(folder / "units"))
    assert finished > 0
    again = []
    monkeypatch.setattr(
        units,
        "write_shard",
        lambda path, rows: again.append(1) or write(path, rows),
    )
    manifest = convert_quietly(clicks_file, folder, workers=1)
    assert len(again) < len(manifest.splits["train"])
    np.testing.assert_array_equal(everything(folder), everything(converted))


@pytest.mark.slow
def test_a_killed_conversion_goes_on(tmp_path):
    path, folder = tmp_path / "clicks.txt", tmp_path / "converted"
    ClickSource(seed=3, max_categories=60).write_tsv(path, 60_000, progress=False)
    script = (
        "import sys, tf_seqattn.criteo.conversion as c\n"
        "import tf_seqattn.criteo.log.units as u\n"
        "u._UNIT_BYTES = 200_000\n"
        "c.main(sys.argv[1:])\n"
    )
    arguments = ["--data", path, "--output", folder, "--workers", "1"]
    command = [sys.executable, "-c", script, *map(str, arguments)]
    running = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    done = folder / "units"
    while not (done.exists() and len(list(done.glob("*.json"))) >= 3):
        assert running.poll() is None
        time.sleep(0.01)
    running.send_signal(signal.SIGKILL)
    running.wait()
    assert not (folder / "manifest.json").exists()
    before = {p.name: p.stat().st_mtime_ns for p in (folder / "shards").iterdir()}
    subprocess.run(command, check=True, capture_output=True)
    after = {p.name: p.stat().st_mtime_ns for p in (folder / "shards").iterdir()}
    untouched = [name for name in before if before[name] == after.get(name)]
    assert len(untouched) >= 3
    convert_quietly(path, tmp_path / "whole", Encoding(table_size=2**20))
    np.testing.assert_array_equal(everything(folder), everything(tmp_path / "whole"))


def test_bad_rows_are_told_with_file_and_line(
    small_units, clicks_file, tmp_path, caplog
):
    lines = clicks_file.read_text().splitlines()
    lines[2000] = "short"
    lines[2500] = lines[2500] + "\textra"
    path = tmp_path / "train.txt"
    path.write_text("\n".join(lines) + "\n")
    (tmp_path / "empty.txt").touch()
    with caplog.at_level(logging.WARNING, "tf_seqattn"):
        manifest = convert_quietly([path, tmp_path / "empty.txt"], tmp_path / "c")
    assert manifest.bad_rows == 3
    assert manifest.rows("train") + manifest.rows("validation") == 2998
    for text in (
        f"{path}:2001: 1 columns instead of 40: 'short'",
        f"{path}:2501: 41 columns instead of 40",
        "empty.txt:1: an empty file",
    ):
        assert text in caplog.text and text in "\n".join(manifest.bad_row_quotes)
    caplog.clear()
    convert_quietly([path, tmp_path / "empty.txt"], tmp_path / "c")
    assert f"{path}:2001" in caplog.text


@pytest.mark.parametrize("limit", [0, 1])
def test_too_many_bad_rows_are_an_error_that_quotes_them(
    limit, small_units, clicks_file, tmp_path
):
    lines = clicks_file.read_text().splitlines()
    lines[1000] = lines[2000] = "short"
    path = tmp_path / "train.txt"
    path.write_text("\n".join(lines) + "\n")
    folder = tmp_path / "converted"
    with pytest.raises(TooManyBadRows, match=f"max_bad_rows={limit}") as error:
        convert_quietly(path, folder, max_bad_rows=limit)
    assert f"{path}:{1001 if limit == 0 else 2001}: 1 columns" in str(error.value)
    # Raised, it goes on.
    assert convert_quietly(path, folder, max_bad_rows=2).bad_rows == 2
    with pytest.raises(TooManyBadRows):
        convert_quietly(path, folder, max_bad_rows=1)


@pytest.mark.parametrize("content", ["", "\n", "short\n"])
def test_a_file_without_rows_is_an_error(content, tmp_path):
    path = tmp_path / "train.txt"
    path.write_text(content)
    with pytest.raises(ValueError, match="no row that can be read"):
        convert_quietly(path, tmp_path / "converted")


def test_the_vocabulary_counts_training_rows_alone(tmp_path):
    def line(word):
        return "\t".join(["0", *["1"] * 13, *[word] * 26])

    path = tmp_path / "train.txt"
    path.write_text("\n".join(map(line, ["a", "a", "b", "", "b", "b", "c", "a"])))
    manifest = convert_quietly(
        path,
        tmp_path / "converted",
        Encoding(table_size=1000, min_count=2),
        validation_fraction=0.5,
    )
    assert manifest.table_sizes == (2,) * 26
    ids = [load_clicks(manifest.folder, s).categorical for s in ("train", "validation")]
    assert ids[0][:, 0].tolist() == [2, 2, 1, 0]
    assert ids[1][:, 25].tolist() == [1, 1, 1, 2]


@pytest.fixture
def finished(small_units, clicks_file, tmp_path):
    """A conversion of many shards, with a vocabulary, that a test may damage."""
    encoding = Encoding(table_size=64, min_count=20)
    return convert_quietly(clicks_file, tmp_path / "converted", encoding)


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def cut_at_a_record(path):
    records = [
        len(record) + 16
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator()
    ]
    with open(path, "r+b") as file:
        file.truncate(path.stat().st_size - records[-1])


def empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize(
    "damage, error",
    [
        (pathlib.Path.unlink, FileNotFoundError),
        (empty, ValueError),
        (cut_at_a_record, ValueError),
    ],
)
def test_a_missing_or_cut_shard_is_noticed_without_verifying(damage, error, finished):
    path = finished.paths("train")[1]
    damage(path)
    with pytest.raises(error, match=rf"{path.name}[\s\S]*--repair"):
        load_clicks(finished.folder, "train")


def test_a_tampered_file_is_found_by_its_checksum(finished):
    flip_a_bit(finished.paths("train")[1])
    with pytest.raises(ValueError, match="checksum differs.*--repair"):
        finished.verify(progress=False)
    name = finished.paths("train")[1].name
    with pytest.raises(ValueError, match=rf"{name} is damaged: .*--repair"):
        load_clicks(finished.folder, "train")


def damage_shards(folder):
    # The last one is a piece: the split goes through its unit.
    names = Manifest.read(folder).splits
    flip_a_bit(folder / "shards" / names["train"][1].name)
    (folder / "shards" / names["train"][-1].name).unlink()
    cut_at_a_record(folder / "shards" / names["validation"][0].name)


def damage_the_vocabulary(folder):
    empty(folder / "vocabulary.npz")


def damage_the_request(folder):
    empty(folder / "request.json")


def damage_the_manifest(folder):
    empty(folder / "manifest.json")


def damage_both(folder):
    empty(folder / "request.json")
    (folder / "manifest.json").write_text('{"splits": []}')


@pytest.mark.parametrize(
    "damage",
    [
        damage_shards,
        damage_the_vocabulary,
        damage_the_request,
        damage_the_manifest,
        damage_both,
    ],
)
def test_the_advice_for_damaged_data_works(damage, finished, clicks_file):
    folder, encoding = finished.folder, finished.encoding
    manifest = (folder / "manifest.json").read_bytes()
    for options in ({"repair": True}, {"overwrite": True}):
        damage(folder)
        with pytest.raises((ValueError, FileNotFoundError), match="--repair"):
            convert_quietly(clicks_file, folder, encoding).verify(progress=False)
        repaired = convert_quietly(clicks_file, folder, encoding, **options)
        repaired.verify(progress=False)
        assert (folder / "manifest.json").read_bytes() == manifest


def test_a_repair_leaves_whole_shards_alone(finished, clicks_file):
    changed = {p: p.stat().st_mtime_ns for p in (finished.folder / "shards").iterdir()}
    damaged = finished.paths("train")[1]
    flip_a_bit(damaged)
    convert_quietly(clicks_file, finished.folder, finished.encoding, repair=True)
    again = {p for p, time in changed.items() if p.stat().st_mtime_ns != time}
    assert again == {damaged}


def test_overwriting_begins_anew(finished, clicks_file):
    path = finished.paths("train")[0]
    changed = path.stat().st_mtime_ns
    options = {"overwrite": "other"}
    convert_quietly(clicks_file, finished.folder, finished.encoding, **options)
    assert path.stat().st_mtime_ns == changed
    convert_quietly(clicks_file, finished.folder, finished.encoding, overwrite=True)
    assert path.stat().st_mtime_ns > changed


def test_a_damaged_note_of_a_unit_is_made_again(
    small_units, clicks_file, converted, tmp_path, monkeypatch
):
    folder = tmp_path / "converted"
    with monkeypatch.context() as patch:
        patch.setattr(conversion, "decide_splits", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            convert_quietly(clicks_file, folder)
    notes = sorted((folder / "units").iterdir())
    empty(notes[0])
    notes[1].write_text("[]")
    empty(next((folder / "shards").glob("000002*")))
    convert_quietly(clicks_file, folder)
    np.testing.assert_array_equal(everything(folder), everything(converted))


def test_nothing_is_deleted_where_a_link_leads(finished, clicks_file, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(finished.folder)
    with pytest.raises(ValueError, match="symbolic link"):
        convert_quietly(clicks_file, link, finished.encoding, overwrite=True)
    Manifest.load(link).verify(progress=False)
    shards = finished.folder / "shards"
    shards.rename(tmp_path / "elsewhere")
    shards.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="symbolic link"):
        convert_quietly(clicks_file, finished.folder, overwrite=True)
    assert len(list((tmp_path / "elsewhere").iterdir())) > 10


def test_a_folder_with_other_files_is_not_overwritten(finished, clicks_file):
    (finished.folder / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="has 'notes.txt'"):
        convert_quietly(clicks_file, finished.folder, overwrite=True)
    Manifest.load(finished.folder).verify(progress=False)


def test_two_conversions_into_one_folder_are_refused(clicks_file, tmp_path):
    with locked(tmp_path / "converted"):
        with pytest.raises(ValueError, match="Another process is converting"):
            convert_quietly(clicks_file, tmp_path / "converted")
    convert_quietly(clicks_file, tmp_path / "converted")


def test_the_same_rows_give_the_same_bytes(small_units, clicks_file, tmp_path):
    script = (
        "import sys, tf_seqattn.criteo.conversion as c\n"
        "import tf_seqattn.criteo.log.units as u\n"
        "u._UNIT_BYTES, u._SHARD_ROWS = 50_000, 100\n"
        "c.main(sys.argv[1:])\n"
    )
    arguments = ["--data", clicks_file, "--output", tmp_path / "a", "--workers", "1"]
    arguments += ["--table-size", "64"]
    subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        check=True,
        capture_output=True,
    )
    there = convert_quietly(clicks_file, tmp_path / "b", workers=4)
    assert Manifest.load(tmp_path / "a").splits == there.splits


def test_a_line_that_is_not_utf_8_is_a_bad_row(small_units, clicks_file, tmp_path):
    lines = clicks_file.read_bytes().splitlines(True)
    lines[2000] = lines[2000].replace(b"\t", b"\t\xff", 1)
    path = tmp_path / "train.txt"
    path.write_bytes(b"".join(lines))
    manifest = convert_quietly(path, tmp_path / "converted")
    assert manifest.bad_rows == 1
    assert f"{path}:2001: not UTF-8 text" in manifest.bad_row_quotes[0]
    assert manifest.rows("train") + manifest.rows("validation") == 2999


@pytest.mark.parametrize(
    "encoding, message",
    [("utf-16", "is UTF-16"), ("utf-8-sig", "byte-order mark"), ("utf-32", "UTF-32")],
)
@pytest.mark.parametrize("compressed", [False, True])
def test_other_encodings_of_text_are_named(encoding, message, compressed, tmp_path):
    content = f"{GOOD}\n".encode(encoding)
    path = tmp_path / ("train.txt.gz" if compressed else "train.txt")
    path.write_bytes(gzip.compress(content) if compressed else content)
    with pytest.raises(ValueError, match=message):
        convert_quietly(path, tmp_path / "converted")
    assert not (tmp_path / "converted").exists()


def test_a_folder_in_place_of_a_file_is_named(tmp_path):
    with pytest.raises(ValueError, match="is a folder"):
        convert_quietly(tmp_path, tmp_path / "converted")


@pytest.mark.parametrize(
    "options, message",
    [
        ({"order": "size"}, "order='size'"),
        ({"validation_fraction": 1.0}, "validation_fraction=1.0"),
        ({"validation_fraction": -0.1}, "validation_fraction=-0.1"),
        ({"validation_fraction": 0.6, "test_fraction": 0.5}, "test_fraction=0.5"),
        ({"max_bad_rows": -1}, "max_bad_rows=-1"),
        ({"max_rows": 0}, "max_rows=0"),
        ({"max_rows": 5, "order": "random"}, "order='random'"),
        ({"validation_paths": __file__}, "`validation_fraction` must be 0"),
    ],
)
def test_bad_options_are_named(options, message, clicks_file, tmp_path):
    with pytest.raises(ValueError, match=message):
        convert_quietly(clicks_file, tmp_path / "converted", **options)
    assert not (tmp_path / "converted").exists()


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing_"):
        convert_quietly(tmp_path / "nothing_*.gz", tmp_path / "converted")
    with pytest.raises(FileNotFoundError, match=r"conversion --data FILES"):
        Manifest.load(tmp_path)


def test_the_command_converts_and_verifies(clicks_file, tmp_path, capsys):
    arguments = ["--data", clicks_file, "--output", tmp_path / "c", "--verify"]
    arguments += ["--table-size", 64, "--validation-fraction", 0.5]
    main([str(argument) for argument in arguments])
    assert "train: 1,500 rows in 1 files" in capsys.readouterr().out
    request = json.loads((tmp_path / "c" / "manifest.json").read_text())["request"]
    assert pathlib.Path(request["files"][0]["path"]) == clicks_file
    (tmp_path / "c" / "manifest.json").write_text("")
    with pytest.raises(SystemExit, match=r"error: .* is damaged.*--repair"):
        command_line.run(lambda: main([str(argument) for argument in arguments]))
    main([*map(str, arguments), "--repair"])
