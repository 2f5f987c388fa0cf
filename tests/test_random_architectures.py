"""Models of random architecture through pruning, packing and export."""

import pathlib
import tempfile

import hypothesis.strategies as st
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, note, settings

import tf_seqattn as sa
from tests import random_models
from tf_seqattn.inference import litert
from tf_seqattn.sparsity.support import keep_count

STEPS = 8
BLOCK_SIZES = ((2, 2), (4, 2), (1, 4), (None, 1), (4, 4))
SCHEDULES = {
    "one shot": lambda s: sa.OneShotSchedule(s, prune_step=2),
    "gradual": lambda s: sa.GradualSchedule(s, end_step=STEPS - 2),
    "cycles": lambda s: sa.SequentialAttentionSchedule(s, STEPS, cycles=1),
}
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def outputs_of(model, values):
    outputs = model(values if len(values) > 1 else values[0], training=False)
    return [np.asarray(value, np.float32) for value in tf.nest.flatten(outputs)]


def assert_close(found, expected, tolerance):
    """Every output agrees, relative to its size."""
    for one, other in zip(found, expected, strict=True):
        scale = max(float(np.abs(other).max()), 1e-3)
        assert np.abs(one - other).max() <= tolerance * scale


def train(keras, model, architecture, steps):
    """Trains with plain `fit` for a number of steps."""
    values = random_models.batch(architecture, 2 * steps)
    rng = np.random.default_rng(1)
    targets = [rng.normal(size=(2 * steps, 4)) for _ in range(architecture.outputs)]
    model.fit(
        values if len(values) > 1 else values[0],
        targets,
        batch_size=2,
        verbose=0,
        shuffle=False,
        callbacks=[sa.UpdatePruningStep()],
    )


def masks_of(model):
    return [
        pruned.mask.numpy() for layer in sa.pruned_layers(model)
        for pruned in layer.pruned_kernels
    ]  # fmt: skip


def check(keras, architecture, block_size, schedule, sparsity):
    tolerance = 1e-4 if architecture.policy == "float32" else 0.05
    model = random_models.build(keras, architecture)
    policy = sa.MinimumBlocks(block_size, min_blocks=4)
    pruned = sa.prune(
        model, SCHEDULES[schedule](sparsity), block_size, pruning_policy=policy
    )
    if not sa.pruned_layers(pruned):
        note("no kernel has four blocks")
        return
    pruned.compile("sgd", "mse")
    train(keras, pruned, architecture, STEPS)

    masks = masks_of(pruned)
    for mask in masks:
        assert np.count_nonzero(mask) == int(keep_count(mask.size, sparsity))
    values = random_models.batch(architecture, 3, seed=7)
    expected = outputs_of(pruned, values)
    # The inputs must reach the outputs, or the checks below would mean nothing.
    others = outputs_of(pruned, random_models.batch(architecture, 3, seed=8))
    assert all(
        np.abs(a - b).max() > 1e-6 for a, b in zip(expected, others, strict=True)
    )

    stripped = sa.strip_pruning(pruned)
    assert_close(outputs_of(stripped, values), expected, tolerance)
    zeros = sum(int((w == 0).sum()) for w in stripped.get_weights() if w.ndim > 1)
    assert zeros > 0
    packed = sa.pack(stripped, choose="always")
    assert_close(outputs_of(packed, values), expected, tolerance)
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "model.tflite")
        report = sa.export_tflite(stripped, path, choose="always")
        assert report.num_bytes == path.stat().st_size
        # A file with several inputs has its own order, which the export knows.
        if len(values) == len(expected) == 1:
            assert_close(litert.run(path.read_bytes(), values), expected, tolerance)

    train(keras, pruned, architecture, 2)
    for before, after in zip(masks, masks_of(pruned), strict=True):
        np.testing.assert_array_equal(before, after)


CASES = {
    "block_size": st.sampled_from(BLOCK_SIZES),
    "schedule": st.sampled_from(sorted(SCHEDULES)),
    "sparsity": st.sampled_from((0.25, 0.5, 0.75)),
}
SETTINGS = {"deadline": None, "suppress_health_check": list(HealthCheck)}


@pytest.mark.exhaustive
@settings(max_examples=2, derandomize=True, **SETTINGS)
@given(architecture=random_models.architectures(), **CASES)
def test_random_architecture(keras, architecture, **case):
    check(keras, architecture, **case)


@pytest.mark.slow
@settings(max_examples=60, **SETTINGS)
@given(architecture=random_models.architectures(("float32", "mixed_bfloat16")), **CASES)
def test_many_random_architectures(keras, architecture, **case):
    check(keras, architecture, **case)
