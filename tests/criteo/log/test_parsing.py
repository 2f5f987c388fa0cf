"""The parser against a plain Python one; bad rows; ranges of bytes; broken files."""

import gzip
import shutil

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from tf_seqattn.criteo.log import parsing
from tf_seqattn.criteo.log.bad_rows import BadRows, TooManyBadRows, describe
from tf_seqattn.criteo.log.fields import CATEGORICAL_NAMES, NUMERIC_NAMES
from tf_seqattn.criteo.log.parsing import lines_before, parse_file

GOOD = "\t".join(["1", *["5"] * 13, *["0000000a"] * 26])


def parse(path, limit=100, **options):
    bad = BadRows(limit)
    blocks = list(parse_file(path, bad, **options))
    return (pl.concat(blocks) if blocks else None), bad


def test_the_parser_agrees_with_plain_python(clicks_file):
    values, bad = parse(clicks_file)
    assert bad.count == 0
    expected = [line.split("\t") for line in clicks_file.read_text().splitlines()]
    for column, name in enumerate(values.columns):
        base = 16 if name in CATEGORICAL_NAMES else 10
        texts = [fields[column] for fields in expected]
        assert values[name].to_list() == [
            int(text, base) if text else None for text in texts
        ]


@pytest.mark.parametrize(
    "block_bytes", [pytest.param(777, marks=pytest.mark.slow), 100_000]
)
@pytest.mark.parametrize("compressed", [False, True])
def test_blocks_of_any_size_give_the_same_rows(
    block_bytes, compressed, clicks_file, tmp_path, monkeypatch
):
    whole, _ = parse(clicks_file)
    path = clicks_file
    if compressed:
        path = tmp_path / "train.txt.gz"
        with open(clicks_file, "rb") as plain, gzip.open(path, "wb") as packed:
            shutil.copyfileobj(plain, packed)
    monkeypatch.setattr(parsing, "_BLOCK_BYTES", block_bytes)
    moved = []
    values, _ = parse(path, progress=moved.append)
    assert_frame_equal(values, whole)
    assert sum(moved) == path.stat().st_size


@pytest.mark.parametrize("step", [100, 1000, 12_345])
def test_ranges_of_bytes_give_every_line_once(step, clicks_file, tmp_path):
    path = tmp_path / "few.txt"
    path.write_text("".join(clicks_file.read_text().splitlines(True)[:60]))
    whole, _ = parse(path)
    size = path.stat().st_size
    parts = [
        parse(path, start=start, stop=min(start + step, size))[0]
        for start in range(0, size, step)
    ]
    assert_frame_equal(pl.concat(part for part in parts if part is not None), whole)


def test_lines_before_a_byte_are_those_that_begin_before_it(tmp_path):
    path = tmp_path / "lines.txt"
    path.write_text("ab\ncd\nef\n")
    assert [lines_before(path, start) for start in range(8)] == [
        *(0, 1, 1, 1, 2, 2, 2, 3)
    ]


def with_field(index, value):
    fields = GOOD.split("\t")
    fields[index] = value
    return "\t".join(fields)


@pytest.mark.parametrize(
    "line, reason",
    [
        (GOOD.rsplit("\t", 1)[0], "39 columns instead of 40"),
        (GOOD + "\tff", "41 columns instead of 40"),
        ("", "1 columns instead of 40"),
        (with_field(0, "2"), "bad label"),
        (with_field(0, ""), "bad label"),
        (with_field(3, "x"), "bad I3"),
        (with_field(5, "1.5"), "bad I5"),
        (with_field(16, "xyz"), "bad C3"),
        (with_field(39, "123456789"), "bad C26"),
    ],
)
def test_bad_rows_are_counted_and_quoted(line, reason, tmp_path):
    path = tmp_path / "train.txt"
    path.write_bytes(f"{GOOD}\n{line}\n{GOOD}\n".encode())
    values, bad = parse(path)
    assert len(values) == 2 and bad.count == 1
    assert bad.quoted[0].line == 2
    assert reason in bad.quoted[0].reason
    with pytest.raises(TooManyBadRows):
        parse(path, limit=0)


def test_numbers_of_lines_are_right_after_other_bad_lines(tmp_path):
    path = tmp_path / "train.txt"
    path.write_text("\n".join([GOOD, "short", GOOD, with_field(0, "7"), GOOD]))
    _, bad = parse(path)
    assert [(row.line, row.reason) for row in bad.quoted] == [
        (2, "1 columns instead of 40"),
        (4, "bad label"),
    ]


def test_long_lines_and_many_are_shortened():
    bad = BadRows(limit=100)
    for line in range(1, 9):
        bad.add(line, b"x" * 1000, "too long")
    assert bad.count == 8 and len(bad.quoted) == 5
    assert len(bad.quoted[0].text) == 80
    assert describe(1, 5, ["a:1: b"]).startswith("1 bad row left out (max_bad_rows=5)")


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_last_line_without_its_end_is_read(end, tmp_path):
    path = tmp_path / "train.txt"
    path.write_bytes(f"{GOOD}{end}{GOOD}".encode())
    values, bad = parse(path)
    assert len(values) == 2 and bad.count == 0


def test_an_empty_file_is_told_of(tmp_path):
    path = tmp_path / "train.txt"
    path.touch()
    values, bad = parse(path)
    assert values is None
    assert bad.quoted[0].reason == "an empty file"


@pytest.mark.parametrize("cut", [0.3, 0.9])
def test_rows_before_the_break_of_a_compressed_file_are_kept(
    cut, clicks_file, tmp_path
):
    whole, _ = parse(clicks_file)
    content = gzip.compress(clicks_file.read_bytes())
    path = tmp_path / "train.txt.gz"
    path.write_bytes(content[: int(cut * len(content))])
    values, bad = parse(path)
    assert bad.count == 1
    assert "break off here" in bad.quoted[0].reason
    assert bad.quoted[0].line == len(values) + 1
    assert 0.5 * cut * len(whole) < len(values) < len(whole)
    assert_frame_equal(values, whole[: len(values)])


def test_a_file_that_is_not_compressed_after_all_is_told_of(tmp_path):
    path = tmp_path / "train.txt.gz"
    path.write_text(f"{GOOD}\n")
    values, bad = parse(path)
    assert values is None
    assert "Not a gzipped file" in bad.quoted[0].reason


def test_there_are_13_counts_and_26_categories():
    assert NUMERIC_NAMES[-1] == "I13" and CATEGORICAL_NAMES[-1] == "C26"
