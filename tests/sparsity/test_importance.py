"""Importances against their formulas in NumPy."""

import numpy as np
import pytest
import tensorflow as tf

import tf_seqattn as sa
from tf_seqattn.kernels.blocks import BlockGrid, block_norms, expand_blocks
from tf_seqattn.sparsity.importance import attention_entropy

GRID = BlockGrid((7, 5), (3, 2))
RNG = np.random.default_rng(0)
KERNEL = RNG.normal(size=(7, 5)).astype("float32")
LOGITS = RNG.normal(size=GRID.shape).astype("float32")


def softmax(logits):
    exp = np.exp(logits - logits.max())
    return exp / exp.sum() * exp.size


FORMULAS = {
    "softmax": softmax,
    "exp": np.exp,
    "sigmoid": lambda x: 2 / (1 + np.exp(-x)),
    "identity": lambda x: x,
}


@pytest.mark.parametrize("activation", FORMULAS)
def test_attention_formulas(activation):
    importance = sa.SoftmaxAttention(activation, clip=None, rank="attention")
    expected = FORMULAS[activation](LOGITS)
    multipliers = importance.multipliers(KERNEL, tf.constant(LOGITS), GRID, 0.1)
    np.testing.assert_allclose(multipliers, expected, rtol=1e-5)
    scores = importance.scores(KERNEL, tf.constant(LOGITS), GRID)
    np.testing.assert_allclose(scores, expected, rtol=1e-5)
    start = tf.fill(GRID.shape, importance.initial_logit)
    np.testing.assert_allclose(importance.attention(start), 1.0, rtol=1e-6)


def test_attention_has_mean_one():
    attention = sa.SoftmaxAttention().attention(tf.constant(LOGITS * 5))
    assert float(tf.reduce_mean(attention)) == pytest.approx(1.0, rel=1e-5)


@pytest.mark.parametrize(
    ("clip", "low", "high"),
    [("density", 0.25, 4.0), ((0.5, 1.5), 0.5, 1.5), (None, 0.0, np.inf)],
)
def test_clipping(clip, low, high):
    logits = tf.constant(LOGITS * 3)
    clipped = sa.SoftmaxAttention(clip=clip).multipliers(KERNEL, logits, GRID, 0.25)
    expected = np.clip(softmax(LOGITS * 3), low, high)
    np.testing.assert_allclose(clipped, expected, rtol=1e-5)


@pytest.mark.parametrize("density", [None, 1.0])
def test_without_a_target_nothing_is_clipped(density):
    logits = tf.constant(LOGITS * 3)
    multipliers = sa.SoftmaxAttention().multipliers(KERNEL, logits, GRID, density)
    np.testing.assert_allclose(multipliers, softmax(LOGITS * 3), rtol=1e-5)


def test_untrained_logits_leave_the_ranking_to_the_norms():
    zeros, norms = tf.zeros(GRID.shape), block_norms(KERNEL, GRID).numpy()
    for rank, expected in (("attention", norms), (0.125, norms**0.125)):
        importance = sa.SoftmaxAttention(rank=rank)
        scores = importance.scores(tf.constant(KERNEL), zeros, GRID)
        np.testing.assert_allclose(scores, expected, rtol=1e-6)


def test_penalties():
    importance = sa.SoftmaxAttention(activation="identity", l1=0.5, l2=0.25)
    expected = 0.5 * np.abs(LOGITS).sum() + 0.25 * (LOGITS**2).sum()
    penalty = importance.penalty(tf.constant(LOGITS))
    assert float(penalty) == pytest.approx(expected, rel=1e-5)
    assert sa.SoftmaxAttention().penalty(tf.constant(LOGITS)) is None
    assert sa.Magnitude().penalty(None) is None


def test_magnitude():
    norms = np.zeros(GRID.shape)
    for i in range(7):
        for j in range(5):
            norms[i // 3, j // 2] += KERNEL[i, j] ** 2
    scores = sa.Magnitude().scores(KERNEL, None, GRID)
    np.testing.assert_allclose(scores, np.sqrt(norms), rtol=1e-5)
    assert sa.Magnitude().multipliers(KERNEL, None, GRID, 0.1) is None


def test_power_propagation_starts_from_the_function_of_the_layer():
    importance = sa.PowerPropagation()
    kernel = KERNEL.copy()
    kernel[:3, :2] = 0.0
    stored = importance.prepare_kernel(tf.constant(kernel), GRID)
    multipliers = importance.multipliers(stored, None, GRID, None)
    effective = stored * expand_blocks(multipliers, GRID)
    np.testing.assert_allclose(effective, kernel, rtol=1e-4, atol=1e-6)


def test_power_propagation_differentiates_through_the_norm():
    kernel = tf.Variable(KERNEL)
    with tf.GradientTape() as tape:
        scale = sa.PowerPropagation().multipliers(kernel, None, GRID, None)
        loss = tf.reduce_sum(kernel * expand_blocks(scale, GRID))
    gradient = tape.gradient(loss, kernel).numpy()
    # d/dw of sum(w) * ||w|| within each block.
    for i in range(7):
        for j in range(5):
            rows = slice(i // 3 * 3, i // 3 * 3 + 3)
            columns = slice(j // 2 * 2, j // 2 * 2 + 2)
            block = KERNEL[rows, columns]
            norm = np.sqrt((block**2).sum())
            expected = norm + block.sum() * KERNEL[i, j] / norm
            assert gradient[i, j] == pytest.approx(expected, rel=1e-3, abs=1e-4)


def test_power_propagation_of_a_zero_block_has_finite_gradients():
    kernel = tf.Variable(tf.zeros((7, 5)))
    with tf.GradientTape() as tape:
        scale = sa.PowerPropagation().multipliers(kernel, None, GRID, None)
        loss = tf.reduce_sum(scale)
    assert np.isfinite(tape.gradient(loss, kernel).numpy()).all()


def test_entropy():
    assert float(attention_entropy(tf.ones((3, 4)))) == pytest.approx(1.0)
    assert float(attention_entropy(tf.constant([[4.0, 0, 0, 0]]))) == 0.0
    assert float(attention_entropy(tf.ones((1, 1)))) == 1.0


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"activation": "relu"}, "activation"),
        ({"clip": (2.0, 1.0)}, "clip"),
        ({"clip": "wide"}, "clip"),
        ({"l1": -1.0}, "l1"),
        ({"l2": -1.0}, "l2"),
    ],
)
def test_bad_arguments_are_named(arguments, name):
    with pytest.raises(ValueError, match=name):
        sa.SoftmaxAttention(**arguments)


@pytest.mark.parametrize(
    "importance",
    [
        sa.SoftmaxAttention("exp", clip=[0.5, 2.0], l1=0.1),
        sa.SoftmaxAttention(),
        sa.Magnitude(),
        sa.PowerPropagation(),
    ],
    ids=repr,
)
def test_config_round_trip(importance):
    assert type(importance).from_config(importance.get_config()) == importance
