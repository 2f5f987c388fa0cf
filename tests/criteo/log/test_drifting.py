"""Days that follow one another: effects drift, and new values come."""

import functools
import io

import numpy as np
import pytest

from tf_seqattn.criteo.log.drifting import DriftingClicks
from tf_seqattn.criteo.log.synthetic import CLICK_RATE, binary_log_loss

# Those of the fixture `source`.
OPTIONS = {"max_categories": 60}


@pytest.fixture(scope="module")
def days():
    return [DriftingClicks(3, day, 0.3, 0.1, **OPTIONS) for day in (0, 1, 6)]


@functools.cache
def lines(source):
    file = io.BytesIO()
    source.write_rows(file, 0, 3000)
    return [line.split("\t") for line in file.getvalue().decode().splitlines()]


def signal(source):
    return source._signal(source.rows(0, 60_000).levels)


def test_day_0_is_the_source_itself(days, source):
    np.testing.assert_array_equal(signal(days[0]), signal(source))
    assert lines(days[0]) == lines(source)


def test_a_day_is_the_same_again(days):
    again = DriftingClicks(3, 1, 0.3, 0.1, **OPTIONS)
    np.testing.assert_array_equal(signal(again), signal(days[1]))


def test_the_truth_drifts_from_day_to_day(days):
    found = [signal(day) for day in days]
    next_day, after_six = (np.corrcoef(found[0], s)[0, 1] for s in found[1:])
    assert 0.7 < next_day < 0.98
    assert after_six < next_day - 0.2


def test_new_values_come_and_old_ones_go(days):
    # C16 has 60 values; I1 is a count.
    column, count = 29, 1
    first, later = ({line[column] for line in lines(days[i])} for i in (0, 2))
    assert 0.2 < len(later - first) / len(first) < 0.7
    assert [line[count] for line in lines(days[0])] == [
        line[count] for line in lines(days[2])
    ]
    # An empty field stays empty.
    assert [line[36] == "" for line in lines(days[0])] == [
        line[36] == "" for line in lines(days[2])
    ]


def test_click_rate_and_bayes_loss_hold_on_a_later_day(days):
    rows = days[2].rows(300_000, 400_000)
    assert rows.labels.mean() == pytest.approx(CLICK_RATE, abs=0.006)
    loss = binary_log_loss(rows.labels, rows.probabilities)
    assert loss == pytest.approx(days[2].bayes_log_loss, abs=0.006)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"`turn` must be between .*turn=2"):
        DriftingClicks(0, 1, turn=2)
    with pytest.raises(ValueError, match="`day` must be between"):
        DriftingClicks(0, -1)
