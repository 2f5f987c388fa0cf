"""An independent NumPy reading of algorithm 1 against 200 steps of training."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

import tf_seqattn as sa
from tf_seqattn.keras_api import Callback

# Every test runs on Keras 2 and on Keras 3.
pytestmark = pytest.mark.usefixtures("keras")
ROWS, COLUMNS, BLOCK, STEPS, BATCH = 10, 12, (4, 5), 200, 16
RATE, MOMENTUM, SPARSITY = 0.02, 0.9, 0.6


def block_of(rows, columns, block):
    """Block coordinates of every entry, two integer arrays."""
    i, j = np.indices((rows, columns))
    return i // block[0], j // block[1]


class NumpyLayer:
    """A least-squares layer `y = x @ (W * A * mask) + b`, with SGD and momentum."""

    def __init__(self, kernel, bias, attention: bool, dtype=np.float64):
        self.w, self.b = kernel.astype(dtype), bias.astype(dtype)
        self.bi, self.bj = block_of(*kernel.shape, BLOCK)
        self.shape = (self.bi.max() + 1, self.bj.max() + 1)
        self.logits = np.zeros(self.shape)
        self.mask = np.ones(self.shape)
        self.attention = attention
        self.forget()

    def forget(self):
        self.momentum = [np.zeros_like(v) for v in (self.w, self.b, self.logits)]

    def attend(self):
        if not self.attention:
            return np.ones(self.shape), np.ones(self.shape)
        exp = np.exp(self.logits - self.logits.max())
        raw = exp / exp.sum() * exp.size
        density = 1 - SPARSITY
        inside = (raw >= density) & (raw <= 1 / density)
        return np.clip(raw, density, 1 / density), np.where(inside, raw, 0), raw

    def scores(self):
        if self.attention:
            return self.attend()[2]
        squares = np.zeros(self.shape)
        np.add.at(squares, (self.bi, self.bj), self.w**2)
        return np.sqrt(squares)

    def prune(self, sparsity):
        """The active blocks with the lowest scores go; all compete after dense."""
        count = self.mask.size
        keep = max(1, int(np.rint(count * (1 - sparsity))))
        active = self.mask.ravel() > 0
        if keep > active.sum():
            active[:] = True
        order = sorted(
            np.flatnonzero(active), key=lambda b: (-self.scores().ravel()[b], b)
        )
        mask = np.zeros(count)
        mask[order[:keep]] = 1
        self.mask = mask.reshape(self.shape)

    def train(self, x, y):
        a = self.attend()[0]
        scale = (a * self.mask)[self.bi, self.bj]
        error = x @ (self.w * scale) + self.b - y
        upstream = 2 * error / error.size
        effective = x.T @ upstream
        gradients = [effective * scale, upstream.sum(0), np.zeros(self.shape)]
        if self.attention:
            per_block = np.zeros(self.shape)
            np.add.at(per_block, (self.bi, self.bj), effective * self.w)
            per_block *= self.mask
            _, through_clip, raw = self.attend()
            # d raw_b / d logit_c = raw_b (delta_bc - raw_c / N)
            weighted = per_block * through_clip
            gradients[2] = weighted - raw / raw.size * weighted.sum()
        for value, velocity, gradient in zip(
            (self.w, self.b, self.logits), self.momentum, gradients, strict=True
        ):
            velocity *= MOMENTUM
            velocity -= RATE * gradient
            value += velocity


def paper_schedule(cyclic: bool):
    """Phase and sparsity of every step, by hand: 10 %, 7.5 cycles of 10 %, 15 %."""
    plan = []
    for step in range(STEPS + 1):
        tenth, within = divmod(step, STEPS // 10)
        if tenth == 0:
            plan.append(("dense", 0.0))
        elif step >= 0.85 * STEPS:
            plan.append(("sparse", SPARSITY))
        elif cyclic:
            if tenth >= 7:
                t = (step - 0.7 * STEPS) / (0.15 * STEPS)
                plan.append(("sparsification", rise(t)))
            elif within < 7:
                plan.append(("sparsification", rise(within / 7)))
            elif within < 13:
                plan.append(("sparse", SPARSITY))
            else:
                plan.append(("dense", 0.0))
        else:
            plan.append(("sparse", SPARSITY) if within < 10 else ("dense", 0.0))
    if not cyclic:
        for step in range(int(0.8 * STEPS), int(0.85 * STEPS)):
            plan[step] = ("dense", 0.0)
    return plan


def rise(t):
    return SPARSITY * (1 - np.exp(-4 * t)) / (1 - np.exp(-4))


class Record(Callback):
    def __init__(self):
        super().__init__()
        self.seen = []

    def on_train_batch_end(self, batch, logs=None):
        layer = sa.pruned_layers(self.model)[0]
        pruned = layer.pruned_kernels[0]
        self.seen.append(
            (
                layer.layer.kernel.numpy(),
                layer.layer.bias.numpy(),
                None if pruned.logits is None else pruned.logits.numpy(),
                pruned.mask.numpy(),
            )
        )


@pytest.mark.parametrize("name", ["sequential_attention", "acdc"])
def test_numpy_agrees_with_training_at_every_step(name):
    attention = name == "sequential_attention"
    rng = np.random.default_rng(7)
    x = rng.normal(size=(STEPS, BATCH, ROWS)).astype("float32")
    teacher = rng.normal(size=(ROWS, COLUMNS)) * (rng.random((ROWS, COLUMNS)) > 0.5)
    y = (x @ teacher).astype("float32")
    keras.utils.set_random_seed(1)
    schedule = (
        sa.SequentialAttentionSchedule.imagenet(SPARSITY, STEPS)
        if attention
        else sa.ACDCSchedule(SPARSITY, STEPS)
    )
    importance = sa.SoftmaxAttention.paper() if attention else sa.Magnitude()
    dense = keras.layers.Dense(COLUMNS)
    pruned = sa.PrunableLayer(dense, schedule, BLOCK, importance)
    model = keras.Sequential([keras.Input((ROWS,)), pruned])
    model.compile(keras.optimizers.SGD(RATE, momentum=MOMENTUM), "mse")
    expected = NumpyLayer(dense.kernel.numpy(), dense.bias.numpy(), attention)
    record = Record()
    data = tf.data.Dataset.from_tensor_slices((x, y))
    model.fit(data, verbose=0, callbacks=[sa.UpdatePruningStep(), record])

    plan = paper_schedule(cyclic=attention)
    phases = set()
    for step in range(1, STEPS + 1):
        phase, sparsity = plan[step]
        begins = phase != plan[step - 1][0]
        if begins:
            expected.forget()
        if phase == "dense" and begins:
            expected.mask[:] = 1
        elif phase == "sparsification" or begins:
            expected.prune(sparsity)
        expected.train(x[step - 1], y[step - 1])
        kernel, bias, logits, mask = record.seen[step - 1]
        np.testing.assert_array_equal(mask, expected.mask, err_msg=f"step {step}")
        np.testing.assert_allclose(kernel, expected.w, atol=1e-5)
        np.testing.assert_allclose(bias, expected.b, atol=1e-5)
        if attention:
            np.testing.assert_allclose(logits, expected.logits, atol=1e-5)
        phases.add(phase)
    wanted = {"dense", "sparse"} | ({"sparsification"} if attention else set())
    assert phases == wanted
    assert 0 < expected.mask.sum() < expected.mask.size
