"""Channels of random architectures are removed without a change of the outputs."""

import hypothesis
import numpy as np
import pytest
import tensorflow as tf

import tf_seqattn as sa
from tests import channel_models, random_models

_ROWS = 4
_SETTINGS = {"suppress_health_check": list(hypothesis.HealthCheck)}


def _outputs(model, values):
    given = [tf.constant(value) for value in values]
    found = model(given if len(given) > 1 else given[0])
    return [np.asarray(output) for output in tf.nest.flatten(found)]


def _assert_same(model, smaller, values):
    for ours, theirs in zip(
        _outputs(model, values), _outputs(smaller, values), strict=True
    ):
        scale = np.abs(ours).max() + 1e-3
        np.testing.assert_allclose(theirs / scale, ours / scale, atol=2e-5)


def _check(keras, architecture):
    """What nothing reads is removed."""
    model = random_models.build(keras, architecture)
    values = random_models.batch(architecture, _ROWS)
    left = channel_models.silence(model)
    smaller = sa.shrink(model)
    assert sorted((g.name, g.units) for g in sa.channel_groups(smaller)) == left
    _assert_same(model, smaller, values)


def _check_pruned(keras, architecture):
    """Half of every group is removed."""
    model = random_models.build(keras, architecture)
    values = random_models.batch(architecture, _ROWS)
    units = sorted(group.units for group in sa.channel_groups(model))
    schedule = sa.OneShotSchedule(0.5, prune_step=0)
    pruned = sa.prune(model, schedule, "channels", sa.Magnitude(), round_to=1)
    smaller = sa.shrink(pruned)
    left = sorted(group.units for group in sa.channel_groups(smaller))
    assert left == sorted(max(1, round(number / 2)) for number in units)
    _assert_same(pruned, smaller, values)


@hypothesis.settings(max_examples=5, derandomize=True, **_SETTINGS)
@hypothesis.given(architecture=random_models.architectures())
def test_what_nothing_reads_is_removed(keras, architecture):
    _check(keras, architecture)


@pytest.mark.slow
@hypothesis.settings(max_examples=60, **_SETTINGS)
@hypothesis.given(architecture=random_models.architectures())
def test_many_random_architectures(keras, architecture):
    _check(keras, architecture)
    _check_pruned(keras, architecture)


@pytest.mark.parametrize("kind", ["gated", "grouped", "transposed"])
def test_each_stage_of_images(keras, kind):
    stages = [random_models.Stage(name, 8, "relu") for name in ("conv", kind, "conv")]
    branch = random_models.Branch("image", tuple(stages))
    architecture = random_models.Architecture((branch,), 1, "float32")
    _check(keras, architecture)
    _check_pruned(keras, architecture)


def test_a_wrong_removal_from_a_random_architecture_shows(keras, monkeypatch):
    stages = [random_models.Stage("conv", width, "tanh") for width in (8, 12)]
    branch = random_models.Branch("image", tuple(stages))
    channel_models.remove_neighbours(monkeypatch)
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        _check(keras, random_models.Architecture((branch,), 2, "float32"))
