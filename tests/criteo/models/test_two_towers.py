"""A two-tower model of TFRS without channels that nothing reads."""

import numpy as np
import tensorflow as tf
import tensorflow_recommenders as tfrs
import tf_keras as keras

import tf_seqattn as sa
from tests import channel_models


class TwoTowers(tfrs.Model):
    """The products of what two towers make of a user and of a film."""

    def __init__(self):
        super().__init__()
        self.query = self.tower(50)
        self.candidate = self.tower(30)

    def tower(self, rows):
        return keras.Sequential(
            [
                keras.layers.Embedding(rows, 8),
                keras.layers.Dense(16, "relu"),
                keras.layers.Dense(12),
            ]
        )

    def call(self, features):
        query = self.query(features["user"])
        candidate = self.candidate(features["film"])
        return tf.reduce_sum(query * candidate, axis=1)


def _model_and_batch():
    model = TwoTowers()
    random = np.random.default_rng(0)
    batch = {
        "user": tf.constant(random.integers(0, 50, 16), tf.int32),
        "film": tf.constant(random.integers(0, 30, 16), tf.int32),
    }
    model(batch)
    channel_models.randomize(model)
    return model, batch


def _difference():
    """How far the outputs of the shrunk model are from those of the full one."""
    model, batch = _model_and_batch()
    groups = sa.channel_groups(model)
    # Each tower's table and hidden units; what is compared stays.
    assert sorted(group.units for group in groups) == [8, 8, 16, 16]
    channel_models.silence(model)
    before = np.asarray(model(batch))
    smaller = sa.shrink(model)
    assert [g.units for g in sa.channel_groups(smaller)].count(4) == 2
    assert np.ptp(before) > 1e-3
    return np.abs(np.asarray(smaller(batch)) - before).max()


def test_two_towers_of_a_recommender():
    assert _difference() < 1e-5


def test_pruned_towers_become_smaller():
    model, batch = _model_and_batch()
    schedule = sa.OneShotSchedule(0.5, prune_step=0)
    pruned = sa.prune(model, schedule, "channels", sa.Magnitude(), round_to=1)
    before = np.asarray(pruned(batch))
    smaller = sa.shrink(pruned)
    assert sorted(g.units for g in sa.channel_groups(smaller)) == [4, 4, 8, 8]
    np.testing.assert_allclose(np.asarray(smaller(batch)), before, atol=1e-5)


def test_a_wrong_removal_from_a_tower_shows(monkeypatch):
    channel_models.remove_neighbours(monkeypatch)
    assert _difference() > 1e-3
