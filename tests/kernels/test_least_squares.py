"""What is left of a layer's inputs makes up for what is removed."""

import numpy as np
import pytest

from tf_seqattn.kernels.least_squares import Moments, reconstructed


@pytest.mark.parametrize("ridge", [0.0, 0.01, 1.0])
def test_it_is_the_least_squares_solution(ridge):
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(200, 6)) @ rng.normal(size=(6, 6)) + rng.normal(size=6)
    kernel = rng.normal(size=(6, 3))
    kept = np.array([1, 0, 1, 1, 0, 1], bool)
    moments = Moments(6)
    for part in np.split(inputs, 4):
        moments.add(part)
    new, shift = reconstructed(kernel, moments.mean, moments.covariance, kept, ridge)
    # The same as one linear system of all samples, and rows that ask for no change.
    centred = inputs - inputs.mean(axis=0)
    penalty = ridge * np.mean(centred.var(axis=0)) * len(inputs)
    rows = np.concatenate([centred[:, kept], np.sqrt(penalty) * np.eye(kept.sum())])
    lost = np.concatenate([centred[:, ~kept] @ kernel[~kept], np.zeros((4, 3))])
    change = np.linalg.lstsq(rows, lost, rcond=None)[0]
    np.testing.assert_allclose(new[kept], kernel[kept] + change, rtol=1e-8)
    assert not new[~kept].any()
    before, after = inputs @ kernel, inputs @ new + shift
    np.testing.assert_allclose(after.mean(axis=0), before.mean(axis=0))
