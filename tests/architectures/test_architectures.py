"""Networks of every family through pruning, packing and export.

`make architectures` runs the same and writes docs/architectures.md.
"""

import collections
import pathlib

import pytest

import tf_seqattn as sa
from tests.architectures import networks, sweep

TABLE = pathlib.Path(__file__).parents[2] / "docs" / "architectures.md"
# Half a minute on one core.
QUICK = {"ViT"}


def test_two_steps_at_least_in_every_phase():
    plan = sweep.schedule()
    steps = collections.Counter(
        segment for step in range(1, sweep.STEPS + 1)
        for segment in plan.segments if segment.start <= step < segment.end
    )  # fmt: skip
    phases = [segment.phase for segment in plan.segments]
    dense, rising, sparse = sa.Phase
    assert phases == [dense, rising, sparse, dense, rising, sparse]
    assert all(steps[segment] >= 2 for segment in plan.segments)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow)
        for name in networks.NAMES
    ],
)
def test_network(name):
    row = sweep.table_row(sweep.run(name))
    assert row in TABLE.read_text().splitlines(), "run `make architectures`"


def test_every_family_is_in_the_table():
    rows = TABLE.read_text().splitlines()
    for name in networks.NAMES:
        assert any(row.startswith(f"| {name} |") for row in rows)
