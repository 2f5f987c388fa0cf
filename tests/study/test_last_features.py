"""Angles, lengths and margins of known features; corruptions that grow."""

import numpy as np
import pytest

from tf_seqattn.study.corruptions import CORRUPTIONS, STRENGTHS, corrupt
from tf_seqattn.study.last_features import geometry


def test_a_step_of_the_margin_reaches_the_boundary():
    random = np.random.default_rng(0)
    features, kernel = random.normal(size=(40, 5)), random.normal(size=(5, 3))
    bias = random.normal(size=3)
    logits = features @ kernel + bias
    labels = logits.argmax(axis=1)
    found = geometry(features, kernel, bias, labels)
    assert (found.margin > 0).all()
    second = np.argsort(logits, axis=1)[:, 1]
    # Only among two classes is the nearest boundary that of the second best for sure.
    two = geometry(features, kernel[:, :2], bias[:2], np.zeros(40, int))
    away = kernel[:, 1] - kernel[:, 0]
    moved = features + two.margin[:, None] * away / np.linalg.norm(away)
    both = moved @ kernel[:, :2] + bias[:2]
    np.testing.assert_allclose(both[:, 0], both[:, 1], atol=1e-9)
    wrong = geometry(features, kernel, bias, second)
    assert (wrong.margin < 0).all()


def test_angle_and_length():
    kernel = np.eye(2)
    features = np.array([[1.0, 1.0], [-2.0, 0.0]])
    found = geometry(features, kernel, np.zeros(2), np.array([0, 0]))
    assert found.angle == pytest.approx([45.0, 180.0])
    assert found.length == pytest.approx([np.sqrt(2), 2.0])


def test_corruptions_grow_with_their_strength():
    images = np.random.default_rng(0).random((20, 8, 8, 1))
    for name in CORRUPTIONS:
        changed = [corrupt(images, name, strength) for strength in STRENGTHS]
        distances = [np.abs(c - images).mean() for c in changed]
        assert np.all(np.diff(distances) > 0), name
        assert all(c.min() >= 0 and c.max() <= 1 for c in changed)
        assert (corrupt(images, name, 3) == corrupt(images, name, 3)).all()
