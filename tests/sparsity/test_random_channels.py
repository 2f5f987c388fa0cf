"""Channels of random architectures are removed without a change of the outputs."""

import hypothesis
import numpy as np
import tensorflow as tf

import tf_seqattn as sa
from tests import channel_models, random_models

_ROWS = 4


def _outputs(model, values):
    given = [tf.constant(value) for value in values]
    found = model(given if len(given) > 1 else given[0])
    return [np.asarray(output) for output in tf.nest.flatten(found)]


@hypothesis.settings(
    max_examples=5,
    suppress_health_check=list(hypothesis.HealthCheck),
    derandomize=True,
)
@hypothesis.given(architecture=random_models.architectures())
def test_what_nothing_reads_is_removed(keras, architecture):
    model = random_models.build(keras, architecture)
    values = random_models.batch(architecture, _ROWS)
    left = channel_models.silence(model)
    smaller = sa.shrink(model)
    assert sorted((g.name, g.units) for g in sa.channel_groups(smaller)) == left
    for ours, theirs in zip(
        _outputs(model, values), _outputs(smaller, values), strict=True
    ):
        scale = np.abs(ours).max() + 1e-3
        np.testing.assert_allclose(theirs / scale, ours / scale, atol=2e-5)
