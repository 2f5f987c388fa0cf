"""The reader against a plain Python one; bad rows; the split; the batches."""

import gzip
import logging
import math
import shutil

import numpy as np
import pytest

from tf_seqattn.criteo.data import (
    parse_criteo,
    read_criteo,
    split_by_time,
    training_batches,
    validation_batches,
)

GOOD = "\t".join(["1", *["5"] * 13, *["0000000a"] * 26])


def plain_parse(path, table_size):
    """The same preprocessing, value by value."""
    numeric, categorical, labels = [], [], []
    for line in path.read_text().splitlines():
        label, *fields = line.split("\t")
        labels.append(int(label))
        counts = [max(int(value or 0), 0) for value in fields[:13]]
        numeric.append([math.log(count + 1) for count in counts])
        categorical.append(
            [1 + int(value, 16) % table_size if value else 0 for value in fields[13:]]
        )
    return numeric, categorical, labels


@pytest.mark.parametrize("table_size", [64, 7])
def test_the_reader_agrees_with_plain_python(clicks_file, table_size):
    clicks = parse_criteo(clicks_file, table_size, progress=False)
    numeric, categorical, labels = plain_parse(clicks_file, table_size)
    np.testing.assert_allclose(clicks.numeric, numeric, rtol=1e-6)
    np.testing.assert_array_equal(clicks.categorical, categorical)
    np.testing.assert_array_equal(clicks.labels, labels)
    assert clicks.numeric.dtype == clicks.labels.dtype == np.float32
    assert clicks.categorical.dtype == np.int32
    assert clicks.bad_rows == 0


def test_blocks_of_any_size_give_the_same_rows(clicks_file, clicks, monkeypatch):
    monkeypatch.setattr("tf_seqattn.criteo.data._BLOCK_BYTES", 777)
    few = parse_criteo(clicks_file, 64, max_rows=100, progress=False)
    np.testing.assert_array_equal(few.numeric, clicks.numeric[:100])
    np.testing.assert_array_equal(few.categorical, clicks.categorical[:100])


def test_different_values_get_different_rows(source, clicks):
    """A table no smaller than the values loses none of the signal."""
    for column in range(26):
        assert clicks.categorical[:, column].max() <= 64
    texts = source._texts[13:]
    for text in texts:
        names = text.drop_nulls().unique().to_list()
        assert len({int(name, 16) % 64 for name in names}) == len(names)


def test_compressed_files_are_read(clicks_file, clicks, tmp_path):
    path = tmp_path / "train.txt.gz"
    with open(clicks_file, "rb") as plain, gzip.open(path, "wb") as packed:
        shutil.copyfileobj(plain, packed)
    read = parse_criteo(path, 64, progress=False)
    np.testing.assert_array_equal(read.numeric, clicks.numeric)


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
def test_bad_rows_are_counted_and_quoted(line, reason, tmp_path, caplog):
    path = tmp_path / "train.txt"
    path.write_bytes(f"{GOOD}\n{line}\n{GOOD}\n".encode())
    with caplog.at_level(logging.WARNING, "tf_seqattn"):
        clicks = parse_criteo(path, progress=False)
    assert len(clicks) == 2 and clicks.bad_rows == 1
    assert f"{path}:2: {reason}" in caplog.text
    with pytest.raises(ValueError, match="max_bad_rows=0") as error:
        parse_criteo(path, max_bad_rows=0, progress=False)
    assert f"{path}:2: {reason}" in str(error.value)


def test_numbers_of_lines_are_right_after_other_bad_lines(tmp_path, caplog):
    path = tmp_path / "train.txt"
    path.write_text("\n".join([GOOD, "short", GOOD, with_field(0, "7"), GOOD]))
    assert parse_criteo(path, progress=False).bad_rows == 2
    assert f"{path}:2: 1 columns" in caplog.text
    assert f"{path}:4: bad label" in caplog.text


@pytest.mark.parametrize("content", ["", "\n", "short\n"])
def test_a_file_without_rows_is_an_error(content, tmp_path):
    path = tmp_path / "train.txt"
    path.write_text(content)
    with pytest.raises(ValueError, match="no row that can be read"):
        parse_criteo(path, progress=False)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_last_line_without_its_end_is_read(end, tmp_path):
    path = tmp_path / "train.txt"
    path.write_bytes(f"{GOOD}{end}{GOOD}".encode())
    assert len(parse_criteo(path, progress=False)) == 2


def test_arrays_are_kept_until_the_file_changes(tmp_path, monkeypatch):
    path = tmp_path / "train.txt"
    path.write_text(f"{GOOD}\n")
    assert len(read_criteo(path, progress=False)) == 1
    with monkeypatch.context() as patch:
        patch.setattr("tf_seqattn.criteo.data.parse_criteo", None)
        assert len(read_criteo(path, progress=False)) == 1
    assert read_criteo(path, table_size=3, progress=False).categorical[0, 0] == 2
    path.write_text(f"{GOOD}\n{GOOD}\n")
    assert len(read_criteo(path, table_size=3, progress=False)) == 2


def test_bad_rows_are_told_of_when_the_arrays_are_reused(tmp_path, caplog):
    path = tmp_path / "train.txt"
    path.write_text(f"{GOOD}\nshort\n")
    read_criteo(path, progress=False)
    caplog.clear()
    assert read_criteo(path, progress=False).bad_rows == 1
    assert "1 bad rows" in caplog.text
    with pytest.raises(ValueError, match="max_bad_rows=0"):
        read_criteo(path, max_bad_rows=0, progress=False)


def test_the_last_rows_are_for_validation(clicks):
    training, validation = split_by_time(clicks, 0.1)
    assert (len(training), len(validation)) == (2700, 300)
    np.testing.assert_array_equal(validation.numeric, clicks.numeric[-300:])
    for fraction in (0.0, 1.0):
        with pytest.raises(ValueError, match="validation_fraction"):
            split_by_time(clicks, fraction)


def rows_of(batches, count):
    taken = [(f["numeric"], f["categorical"], y) for f, y in batches.take(count)]
    return [np.concatenate(column) for column in zip(*taken, strict=True)]


def test_a_pass_has_every_row_once_in_an_order_of_its_own(clicks):
    few = clicks[:120]
    batches = training_batches(few, 40, seed=5)
    numeric, categorical, labels = rows_of(batches, 6)
    everything = np.column_stack([numeric, categorical, labels])
    expected = np.column_stack([few.numeric, few.categorical, few.labels])
    in_order = np.lexsort(expected.T)
    passes = everything[:120], everything[120:]
    for one in passes:
        np.testing.assert_array_equal(one[np.lexsort(one.T)], expected[in_order])
    assert (passes[0] != passes[1]).any()
    np.testing.assert_array_equal(
        rows_of(training_batches(few, 40, seed=5), 3)[0], numeric[:120]
    )
    assert (rows_of(training_batches(few, 40, seed=6), 3)[0] != numeric[:120]).any()


def test_validation_has_every_row_in_order(clicks):
    batches = validation_batches(clicks, batch_size=1024)
    assert len(batches) == 3
    numeric, categorical, labels = rows_of(batches, 9)
    np.testing.assert_array_equal(numeric, clicks.numeric)
    np.testing.assert_array_equal(categorical, clicks.categorical)
    np.testing.assert_array_equal(labels, clicks.labels)


def test_a_batch_larger_than_the_data_is_refused(clicks):
    with pytest.raises(ValueError, match="`batch_size`"):
        training_batches(clicks[:10], 11, seed=0)
