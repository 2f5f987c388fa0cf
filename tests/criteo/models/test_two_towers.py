"""A two-tower model of TFRS without channels that nothing reads."""

import numpy as np
import tensorflow as tf
import tensorflow_recommenders as tfrs
import tf_keras as keras

import tf_seqattn as sa
from tests import channel_models


def test_two_towers_of_a_recommender():
    class TwoTowers(tfrs.Model):
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

    model = TwoTowers()
    random = np.random.default_rng(0)
    batch = {
        "user": tf.constant(random.integers(0, 50, 16), tf.int32),
        "film": tf.constant(random.integers(0, 30, 16), tf.int32),
    }
    model(batch)
    channel_models.randomize(model)
    groups = sa.channel_groups(model)
    # Each tower's table and hidden units; what is compared stays.
    assert sorted(group.units for group in groups) == [8, 8, 16, 16]
    channel_models.silence(model)
    before = np.asarray(model(batch))
    smaller = sa.shrink(model)
    assert np.ptp(before) > 1e-3
    np.testing.assert_allclose(np.asarray(smaller(batch)), before, atol=1e-5)
