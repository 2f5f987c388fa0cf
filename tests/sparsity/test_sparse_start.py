"""Trainings that are sparse from the first step, and masks that are revised."""

import itertools

import numpy as np
import pytest

import tf_seqattn as sa
from tf_seqattn.keras_api import stored

STEPS = 80


def data():
    """Rows of which only the last four of eight inputs tell the labels."""
    random = np.random.default_rng(0)
    x = random.normal(size=(4 * STEPS, 8)).astype("float32")
    return x, x[:, 4:] @ random.normal(size=(4, 4)).astype("float32")


def train(keras, initial_sparsity, callbacks=(), schedule_options=None):
    """Prunes half of the input blocks; those that matter have the smaller norms."""
    keras.utils.set_random_seed(0)
    layer = keras.layers.Dense(4, use_bias=False)
    model = keras.Sequential([keras.Input((8,)), layer])
    x, y = data()
    # With the right signs, so that a masked block would lower the loss.
    kernel = np.linalg.lstsq(x, y, rcond=None)[0]
    kernel = kernel + 0.01 * np.random.default_rng(1).normal(size=kernel.shape)
    kernel[4:] *= 0.3 / np.abs(kernel[4:]).max()
    kernel[:4] *= 2.0 / np.abs(kernel[:4]).max()
    layer.set_weights([kernel.astype("float32")])
    schedule = sa.SequentialAttentionSchedule(
        0.5,
        end_step=STEPS,
        initial_sparsity=initial_sparsity,
        frequency=2,
        **(schedule_options or {}),
    )
    pruned = sa.PrunableLayer(layer, schedule, block_size=(2, 4))
    model = keras.Sequential([keras.Input((8,)), pruned])
    model.compile(keras.optimizers.SGD(0.01), "mse")
    callbacks = [sa.UpdatePruningStep(), *callbacks]
    model.fit(x, y, 4, shuffle=False, verbose=0, callbacks=callbacks)
    return pruned.pruned_kernels[0]


def test_it_is_sparse_before_the_first_step(keras):
    layer = keras.layers.Dense(4)
    layer.build((None, 8))
    schedule = sa.SequentialAttentionSchedule(0.5, 100, initial_sparsity=0.25)
    pruned = sa.PrunableLayer(layer, schedule, block_size=(2, 4))
    mask = np.asarray(stored(pruned.pruned_kernels[0].mask))
    assert mask.sum() == 3


def test_a_layer_that_is_built_later_is_sparse_at_step_one():
    schedule = sa.SequentialAttentionSchedule(0.5, 10_000, initial_sparsity=0.5)
    assert schedule.frequency > 1
    assert [schedule.update_at(step) for step in (0, 1, 2)] == [0.5, 0.5, None]


def test_masked_blocks_that_matter_come_back(keras):
    pruned = train(keras, initial_sparsity=0.5)
    assert np.asarray(stored(pruned.mask)).ravel().tolist() == [0, 0, 1, 1]


def recorded(keras, initial_sparsity, **options):
    """Masks and logits after each step of a training, arrays (steps, blocks)."""
    masks, logits = [], []

    class Record(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            (layer,) = sa.pruned_layers(self.model)
            (pruned,) = layer.pruned_kernels
            masks.append(np.asarray(stored(pruned.mask)).ravel())
            logits.append(np.asarray(stored(pruned.logits)).ravel())

    train(keras, initial_sparsity, [Record()], **options)
    return np.array(masks), np.array(logits)


def test_in_the_last_quarter_masked_blocks_neither_come_back_nor_learn(keras):
    masks, logits = recorded(keras, 0.5)
    changed = [(a != b).any() for a, b in itertools.pairwise(masks)]
    assert any(changed[: 3 * STEPS // 4])
    assert not any(changed[3 * STEPS // 4 :])
    # By the softmax all masked logits fall there as their attention is; before, each
    # has a gradient of its own.
    masked, end = masks[-1] == 0, 3 * STEPS // 4 + 1
    values = logits[:, masked]
    moves = np.diff(values, axis=0) / np.exp(values[:-1])
    alike = np.isclose(moves[:, 0], moves[:, 1], rtol=1e-2, atol=1e-6)
    assert alike[end:].all(), alike
    assert not alike[: STEPS // 4].all()


@pytest.mark.parametrize("revise", [True, False])
def test_a_block_that_has_gone_comes_back_only_if_masks_are_revised(keras, revise):
    """The blocks that matter go first, by their norms."""
    masks, _ = recorded(keras, 0.0, schedule_options={"revise": revise})
    rises = [(after > before).any() for before, after in itertools.pairwise(masks)]
    assert any(rises) == revise


def test_where_masks_are_revised(keras):
    def until(schedule=None, importance=None, **options):
        schedule = schedule or sa.SequentialAttentionSchedule(0.5, 100)
        layer = sa.PrunableLayer(
            keras.layers.Dense(8), schedule, importance=importance, **options
        )
        return layer._revised_until

    assert until() == 75
    assert until(sa.GradualSchedule(0.5, 100)) == 0
    assert until(sa.SequentialAttentionSchedule.criteo(0.5, 1000)) == 0
    assert until(importance=sa.Magnitude()) == until(importance=sa.Taylor()) == 0
    assert until(importance=sa.SoftmaxAttention(logit_rate=None)) == 0
    assert until(zero_pruned_weights=True) == until(pattern="2:4") == 0
    begun = sa.SequentialAttentionSchedule(0.5, 100, initial_sparsity=0.5)
    assert until(begun, pattern="2:4") == 75


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"initial_sparsity": 0.6}, "from 0 to `target_sparsity`"),
        ({"initial_sparsity": -0.1}, "from 0 to `target_sparsity`"),
        ({"initial_sparsity": 0.5, "cycles": 2}, "begins dense"),
        ({"initial_sparsity": 0.5, "revise": False}, "needs `revise`"),
    ],
)
def test_a_start_that_cannot_be_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        sa.SequentialAttentionSchedule(0.5, 100, **arguments)


@pytest.mark.parametrize(
    "options", [{"zero_pruned_weights": True}, {"importance": sa.Magnitude()}]
)
def test_a_first_choice_that_would_stay_is_refused(keras, options):
    schedule = sa.SequentialAttentionSchedule(0.5, 100, initial_sparsity=0.5)
    with pytest.raises(ValueError, match="the first choice would stay"):
        sa.PrunableLayer(keras.layers.Dense(4), schedule, **options)
