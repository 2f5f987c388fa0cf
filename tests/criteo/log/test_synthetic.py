"""The generator: every row by its number, and a model that is as described."""

import json

import numpy as np
import pytest

from tf_seqattn.criteo.log.synthetic import (
    CHUNK_ROWS,
    CLICK_RATE,
    FIELDS,
    ClickSource,
    binary_log_loss,
)


def test_rows_do_not_depend_on_how_they_are_asked_for(source):
    start, stop = CHUNK_ROWS - 5, CHUNK_ROWS + 7
    together = source.rows(start, stop)
    again = ClickSource(seed=3, max_categories=60)
    for row in (start, CHUNK_ROWS - 1, CHUNK_ROWS, stop - 1):
        alone = again.rows(row, row + 1)
        for one, many in zip(alone, together, strict=True):
            np.testing.assert_array_equal(one[0], many[row - start])
    assert len(source.rows(5, 5).labels) == 0


def test_another_seed_gives_another_model_and_other_rows(source):
    other = ClickSource(seed=4, max_categories=60)
    assert other.informative_fields != source.informative_fields
    assert (other.rows(0, 100).levels != source.rows(0, 100).levels).any()


def test_click_rate_and_bayes_loss_hold_on_fresh_rows(source):
    rows = source.rows(300_000, 700_000)
    assert rows.labels.mean() == pytest.approx(CLICK_RATE, abs=0.004)
    assert rows.probabilities.mean() == pytest.approx(CLICK_RATE, abs=0.003)
    loss = binary_log_loss(rows.labels, rows.probabilities)
    assert loss == pytest.approx(source.bayes_log_loss, abs=0.004)
    # Any other prediction is worse.
    assert binary_log_loss(rows.labels, rows.probabilities**1.2) > loss
    assert binary_log_loss(rows.labels, np.full(len(rows.labels), CLICK_RATE)) > loss


def test_only_informative_fields_move_the_probability(source):
    rows = source.rows(0, 2000)
    names = [field.name for field in FIELDS]
    # Other values in the columns that carry no signal.
    shuffled = np.roll(rows.levels, 1, axis=0)
    kept = [names.index(name) for name in source.informative_fields]
    shuffled[:, kept] = rows.levels[:, kept]
    np.testing.assert_array_equal(source._signal(shuffled), source._signal(rows.levels))
    for column in kept:
        changed = rows.levels.copy()
        changed[:, column] = np.roll(changed[:, column], 1)
        assert (source._signal(changed) != source._signal(rows.levels)).mean() > 0.1


def test_interactions_matter(source):
    """Log-odds of an additive model would not change by pairs."""
    assert len(source.interacting_pairs) == 24
    additive = ClickSource(seed=3, max_categories=60, interaction_share=0.0)
    for one, is_additive in ((additive, True), (source, False)):
        names = [field.name for field in FIELDS]
        j, k = (names.index(name) for name in one.interacting_pairs[0])
        a = source.rows(0, 1).levels.repeat(4, axis=0)
        b = source.rows(1, 2).levels[0]
        a[1, j] = a[3, j] = b[j]
        a[2, k] = a[3, k] = b[k]
        signal = one._signal(a)
        mixed = signal[0] - signal[1] - signal[2] + signal[3]
        assert (abs(mixed) < 1e-5) == is_additive


def test_the_file_has_the_marks_of_the_kaggle_one(clicks_file):
    rows = [line.split("\t") for line in clicks_file.read_text().splitlines()]
    names = ["label", *(field.name for field in FIELDS)]
    columns = {name: [row[i] for row in rows] for i, name in enumerate(names)}
    assert set(columns["label"]) == {"0", "1"}
    for field in FIELDS:
        empty = np.mean([value == "" for value in columns[field.name]])
        assert empty == pytest.approx(field.missing, abs=0.04), field
    assert min(int(value) for value in columns["I2"]) < 0
    counts = np.array([int(value) for value in columns["I5"] if value])
    assert counts.max() > 50 * np.median(counts)
    values = [value for value in columns["C3"] if value]
    assert all(len(value) == 8 and int(value, 16) >= 0 for value in values)
    # A Zipf tail: the most frequent value far ahead, most values rare.
    frequencies = np.sort(np.unique(values, return_counts=True)[1])[::-1]
    assert frequencies[0] > 5 * frequencies[len(frequencies) // 2]


def test_what_is_known_stands_beside_the_file(source, clicks_file):
    known = json.loads(clicks_file.with_suffix(".json").read_text())
    assert known == {**source.describe(), "rows": 3000}


@pytest.mark.parametrize(
    "argument",
    [
        {"seed": -1},
        {"max_categories": 5000},
        {"informative": 40},
        {"signal": -1.0},
        {"interaction_share": 1.5},
    ],
)
def test_values_out_of_range_are_named(argument):
    with pytest.raises(ValueError, match=f"`{next(iter(argument))}`"):
        ClickSource(**argument)


def test_rows_before_the_first_are_refused(source):
    with pytest.raises(ValueError, match="start=-1"):
        source.rows(-1, 2)
