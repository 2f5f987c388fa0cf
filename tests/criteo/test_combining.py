"""Joining conversions: the rows of days and parts, the window, the vocabulary."""

import numpy as np
import pytest

from tf_seqattn.criteo import combining, conversion
from tf_seqattn.criteo.combining import combine
from tf_seqattn.criteo.conversion import convert
from tf_seqattn.criteo.log import units
from tf_seqattn.criteo.log.encoding import Encoding
from tf_seqattn.criteo.log.in_memory import load_clicks
from tf_seqattn.criteo.log.manifest import Manifest

ENCODING = Encoding(table_size=64)


def rows_of(folder, split):
    clicks = load_clicks(folder, split)
    return np.column_stack([clicks.numeric, clicks.categorical, clicks.labels])


@pytest.fixture(scope="module")
def days(clicks_file, tmp_path_factory):
    """Three days of 1000 rows each."""
    folder = tmp_path_factory.mktemp("days")
    lines = clicks_file.read_text().splitlines(keepends=True)
    for day in range(3):
        log = folder / f"log_{day}"
        log.write_text("".join(lines[1000 * day : 1000 * day + 1000]))
        convert(log, folder / f"day_{day}", ENCODING, progress=False)
    return [folder / f"day_{day}" for day in range(3)]


@pytest.fixture(scope="module")
def every_row(converted):
    """The 3000 rows of one conversion, in order."""
    return np.concatenate([rows_of(converted, s) for s in ("train", "validation")])


def test_the_last_day_is_held_out_as_a_whole(days, every_row, tmp_path):
    manifest = combine(days, tmp_path / "all", validation_parts=1, progress=False)
    manifest.verify(progress=False)
    np.testing.assert_array_equal(rows_of(tmp_path / "all", "train"), every_row[:2000])
    np.testing.assert_array_equal(
        rows_of(tmp_path / "all", "validation"), every_row[2000:]
    )


def test_or_the_last_share_of_all_rows(days, every_row, tmp_path):
    combine(days, tmp_path / "all", validation_fraction=0.05, progress=False)
    np.testing.assert_array_equal(
        rows_of(tmp_path / "all", "validation"), every_row[-150:]
    )
    np.testing.assert_array_equal(rows_of(tmp_path / "all", "train"), every_row[:-150])


def test_no_row_is_copied_and_the_days_stay(days, tmp_path):
    before = [(day / "manifest.json").read_bytes() for day in days]
    manifest = combine(days, tmp_path / "all", progress=False)
    shards = [p.stat().st_ino for d in days for p in Manifest.load(d).paths("train")]
    assert {path.stat().st_ino for path in manifest.paths("train")} >= set(shards)
    assert before == [(day / "manifest.json").read_bytes() for day in days]


def test_without_hard_links_rows_are_copied(days, every_row, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("another disk")

    monkeypatch.setattr(combining.os, "link", fail)
    combine(days, tmp_path / "all", progress=False)
    np.testing.assert_array_equal(rows_of(tmp_path / "all", "train"), every_row)


def test_a_window_counts_its_own_vocabulary(days, every_row, tmp_path):
    manifest = combine(days[1:], tmp_path / "window", min_count=4, progress=False)
    window = every_row[1000:, 13:39].astype(int)
    for column, size in enumerate(manifest.table_sizes):
        values, counts = np.unique(window[:, column], return_counts=True)
        frequent = values[(counts >= 4) & (values > 0)]
        # One more: the row that the rare ones share.
        assert size == len(frequent) + 1


def test_parts_of_one_log_make_the_whole(clicks_file, every_row, tmp_path, monkeypatch):
    monkeypatch.setattr(units, "_UNIT_BYTES", 50_000)
    folders = [tmp_path / f"part_{number}" for number in (1, 2, 3)]
    for number, folder in enumerate(folders, start=1):
        arguments = ["--data", str(clicks_file), "--output", str(folder)]
        arguments += ["--part", f"{number}/3", "--table-size", "64"]
        conversion.main(arguments)
    assert min(Manifest.load(folder).rows("train") for folder in folders) > 500
    manifest = combining.main(
        ["--parts", *map(str, folders), "--output", str(tmp_path / "all")]
        + ["--validation-fraction", "0.1"]
    )
    assert manifest.rows("train") == 2700
    found = np.concatenate(
        [rows_of(tmp_path / "all", s) for s in ("train", "validation")]
    )
    np.testing.assert_array_equal(found, every_row)


def test_a_damaged_shard_of_a_part_is_repaired(
    clicks_file, every_row, tmp_path, monkeypatch
):
    monkeypatch.setattr(units, "_UNIT_BYTES", 50_000)
    folder = tmp_path / "part"
    options = {"part": (2, 3), "progress": False}
    manifest = convert(clicks_file, folder, ENCODING, **options)
    before = rows_of(folder, "train")
    manifest.paths("train")[0].unlink()
    convert(clicks_file, folder, ENCODING, repair=True, **options)
    np.testing.assert_array_equal(rows_of(folder, "train"), before)


@pytest.mark.parametrize(
    ("part", "message"), [((0, 2), "1/2 to 2/2"), ((3, 2), "3/2"), ((1, 99), "1 here")]
)
def test_a_part_that_is_none_is_an_error(part, message, clicks_file, tmp_path):
    with pytest.raises(ValueError, match=message):
        convert(clicks_file, tmp_path / "part", ENCODING, part=part, progress=False)


def test_what_does_not_go_together_is_an_error(days, clicks_file, tmp_path):
    wide = tmp_path / "wide"
    convert(clicks_file, wide, Encoding(table_size=32), progress=False)
    chance = tmp_path / "chance"
    convert(clicks_file, chance, ENCODING, order="random", progress=False)
    for parts, options, message in (
        ([days[0], wide], {}, "one encoding"),
        ([days[0], days[0]], {}, "twice"),
        ([days[0], chance], {}, "all by chance"),
        ([chance], {"validation_fraction": 0.1}, "drawn by chance"),
        (days, {"validation_parts": 3}, "validation_parts=3 of 3"),
        (days, {"validation_parts": 1, "validation_fraction": 0.1}, "=0.1"),
        ([], {}, "at least one"),
    ):
        with pytest.raises(ValueError, match=message):
            combine(parts, tmp_path / "all", progress=False, **options)
    assert not (tmp_path / "all").exists()


def test_another_window_needs_overwrite(days, every_row, tmp_path):
    folder = tmp_path / "window"
    combine(days[:2], folder, progress=False)
    first = (folder / "manifest.json").read_bytes()
    assert combine(days[:2], folder, progress=False).rows("train") == 2000
    assert (folder / "manifest.json").read_bytes() == first
    with pytest.raises(ValueError, match=r"another conversion[\s\S]*parts"):
        combine(days[1:], folder, progress=False)
    combine(days[1:], folder, overwrite=True, progress=False)
    np.testing.assert_array_equal(rows_of(folder, "train"), every_row[1000:])
    with pytest.raises(ValueError, match="another conversion"):
        combine(days, days[0], progress=False)
    assert Manifest.load(days[0]).rows("train") == 900
