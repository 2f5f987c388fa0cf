"""The schedule for only a target and an end, and the paper's recipes by name."""

import numpy as np
import pytest
import tensorflow as tf

import tf_seqattn as sa
from tf_seqattn.keras_api import stored
from tf_seqattn.kernels.blocks import BlockGrid


def phases(schedule, last):
    return [schedule.phase(step) for step in range(last + 1)]


def changes(schedule, last):
    """Number of times that a phase begins."""
    found = phases(schedule, last)
    return sum(a != b for a, b in zip(found, found[1:], strict=False))


@pytest.mark.parametrize("rise", [None, 0.5, 1.0])
def test_the_recommended_schedule_rises_once_and_then_stays(rise):
    schedule = sa.SequentialAttentionSchedule(0.9, end_step=1000, rise=rise)
    last = 750 if rise is None else round(1000 * rise)
    assert changes(schedule, 1000) == 1
    assert schedule.phase(1) == sa.Phase.SPARSIFICATION
    assert schedule.phase(last) == sa.Phase.SPARSE
    levels = np.array([schedule.sparsity(step) for step in range(1001)])
    cubic = 0.9 * (1 - (1 - np.minimum(np.arange(1001) / last, 1)) ** 3)
    np.testing.assert_allclose(levels, cubic, atol=1e-12)
    assert not schedule.resets_optimizer


def test_a_short_and_a_late_training():
    short = sa.SequentialAttentionSchedule(0.9, end_step=40)
    assert short.frequency == 1 and short.phase(30) == sa.Phase.SPARSE
    late = sa.SequentialAttentionSchedule(0.9, end_step=500, begin_step=100)
    assert late.phase(99) == sa.Phase.DENSE
    assert late.sparsity(99) == 0 and late.sparsity(400) == 0.9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rise": 0.0}, r"`rise` must be in \(0, 1\]. Received: rise=0.0"),
        ({"rise": 1.5}, "rise=1.5"),
        ({"rise": 0.5, "cycles": 3}, "the paper's kind of schedule has cycles"),
    ],
)
def test_a_rise_that_cannot_be_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        sa.SequentialAttentionSchedule(0.9, 1000, **arguments)


def test_recipes_of_the_paper():
    imagenet = sa.SequentialAttentionSchedule.imagenet(0.9, 1000)
    assert imagenet == sa.SequentialAttentionSchedule(
        0.9, 1000, cycles=7, dense_fraction=0.10, finetune_fraction=0.15
    )
    criteo = sa.SequentialAttentionSchedule.criteo(0.9, 1000)
    starts = [s.start for s in criteo.segments if s.phase == sa.Phase.SPARSIFICATION]
    # Ten cycles of 60 steps between 20 and 80 %: no half cycle is added.
    assert starts == list(range(200, 800, 60))
    assert criteo.phase(799) == sa.Phase.SPARSIFICATION
    assert criteo.phase(800) == sa.Phase.SPARSE
    assert imagenet.resets_optimizer and criteo.resets_optimizer


@pytest.mark.parametrize(
    "given", [{"cycles": 7}, {"finetune_fraction": 0.15}, {"exponent": 4.0}]
)
def test_an_argument_of_the_paper_asks_for_its_kind_of_schedule(given):
    schedule = sa.SequentialAttentionSchedule(0.9, 1000, **given)
    assert schedule == sa.SequentialAttentionSchedule.imagenet(0.9, 1000)


@pytest.mark.parametrize(
    "schedule",
    [
        sa.SequentialAttentionSchedule(0.9, 1000),
        sa.SequentialAttentionSchedule(0.9, 1000, begin_step=10, frequency=3),
        sa.SequentialAttentionSchedule(0.9, 1000, rise=0.7),
        sa.SequentialAttentionSchedule(0.9, 1000, rate_power=0.25),
        sa.SequentialAttentionSchedule.criteo(0.9, 1000),
    ],
    ids=repr,
)
def test_a_schedule_is_restored_from_its_configuration(schedule):
    copy = type(schedule).from_config(schedule.get_config()["config"])
    assert copy == schedule and copy.segments == schedule.segments
    assert copy.follows_paper == schedule.follows_paper


def test_the_importance_goes_with_the_schedule(keras):
    def chosen(schedule):
        return sa.PrunableLayer(keras.layers.Dense(8), schedule).importance

    default = sa.SoftmaxAttention()
    assert chosen(sa.SequentialAttentionSchedule(0.9, 100)) == default
    assert chosen(sa.GradualSchedule(0.9, 100)) == default
    paper = sa.SequentialAttentionSchedule.criteo(0.9, 1000)
    assert chosen(paper) == sa.SoftmaxAttention.paper() != default


def test_channels_features_and_entries_are_ranked_as_they_were_measured(keras):
    schedule = sa.SequentialAttentionSchedule(0.5, 100)
    measured = sa.SoftmaxAttention(rank="effective", logit_rate=1.0)
    layers = [keras.Input((8,)), keras.layers.Dense(16), keras.layers.Dense(8)]
    by_channels = sa.prune(keras.Sequential(layers), schedule, "channels")
    of_features = sa.select_features(
        keras.Model(inputs := keras.Input((8,)), keras.layers.Dense(8)(inputs)),
        keep=4,
        end_step=100,
        by="dimension",
    )
    found = [*sa.pruned_layers(by_channels), *sa.pruned_layers(of_features)]
    found.append(sa.PrunableLayer(keras.layers.Dense(8), schedule, pattern="2:4"))
    assert [layer.importance for layer in found] == [measured] * 3


@pytest.mark.parametrize(
    ("rank", "shape", "power"),
    [
        ("attention", (4, 6), 0.0),
        ("effective", (4, 6), 1.0),
        (0.125, (2, 2, 6), 0.125),
        (None, (4, 6), 0.125),
        (None, (2, 2, 6), 1.0),
    ],
    ids=repr,
)
def test_blocks_are_ranked_by_attention_times_a_power_of_the_norm(rank, shape, power):
    rng = np.random.default_rng(0)
    kernel = rng.normal(size=shape).astype("float32")
    grid, logits = BlockGrid(shape, (2, 2)), rng.normal(size=(2, 3)).astype("float32")
    scores = sa.SoftmaxAttention(clip=None, rank=rank).scores(
        tf.constant(kernel), tf.constant(logits), grid
    )
    attention = 6 * np.exp(logits) / np.exp(logits).sum()
    norms = np.linalg.norm(
        kernel.reshape(2, 2, 3, 2).transpose(0, 2, 1, 3).reshape(2, 3, 4), axis=2
    )
    np.testing.assert_allclose(scores, attention * norms**power, rtol=1e-5)


@pytest.mark.parametrize(
    ("kind", "arguments", "shape", "rank"),
    [
        ("Dense", (8,), (None, 8), 0.125),
        ("LSTM", (8,), (None, 3, 8), 0.125),
        ("Conv2D", (8, 1), (None, 4, 4, 8), "effective"),
        ("EinsumDense", ("abc,cde->abde", (None, 2, 4)), (None, 3, 8), "effective"),
    ],
)
def test_the_default_ranks_the_kernels_of_layers_by_their_dimensions(
    keras, kind, arguments, shape, rank
):
    layer = getattr(keras.layers, kind)(*arguments)
    layer.build(shape)
    schedule = sa.SequentialAttentionSchedule(0.5, 100)
    wrapped = sa.PrunableLayer(layer, schedule, block_size=(2, 2))
    pruned = wrapped.pruned_kernels[0]
    logits = np.random.default_rng(0).normal(size=pruned.grid.shape).astype("float32")
    kernel = tf.convert_to_tensor(stored(pruned.kernel.variable))
    default, chosen, other = (
        importance.scores(kernel, tf.constant(logits), pruned.grid)
        for importance in (
            wrapped.importance,
            sa.SoftmaxAttention(rank=rank),
            sa.SoftmaxAttention(rank=0.125 if rank == "effective" else "effective"),
        )
    )
    np.testing.assert_array_equal(default, chosen)
    assert not np.allclose(default, other)


@pytest.mark.parametrize("rank", ["norm", -0.1, 1.5, float("nan")], ids=repr)
def test_a_rank_that_is_none_is_refused(rank):
    with pytest.raises(ValueError, match=f"Received: rank={rank!r}"):
        sa.SoftmaxAttention(rank=rank)


def test_a_file_from_before_the_choice_ranks_by_the_attention():
    old = {"activation": "softmax", "clip": "density", "l1": 0.0, "l2": 0.0}
    assert sa.SoftmaxAttention.from_config(old) == sa.SoftmaxAttention.paper()
    new = sa.SoftmaxAttention()
    assert sa.SoftmaxAttention.from_config(new.get_config()) == new


def steps_of_the_optimizer(keras, schedule, **arguments):
    """Steps of Adam since it was new, after 12 steps of training."""
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(8)])
    policy = sa.MinimumBlocks((2, 2), min_blocks=1)
    pruned = sa.prune(model, schedule, (2, 2), pruning_policy=policy)
    pruned.compile("adam", "mse")
    x = np.random.default_rng(0).normal(size=(12, 8)).astype("float32")
    callback = sa.UpdatePruningStep(**arguments)
    pruned.fit(x, x, batch_size=1, verbose=0, callbacks=[callback])
    return int(np.asarray(pruned.optimizer.iterations))


@pytest.mark.filterwarnings("ignore::tf_seqattn.PruningWarning")
def test_the_callback_resets_where_the_schedule_says_so(keras):
    rises = sa.SequentialAttentionSchedule(0.5, end_step=12)
    cycles = sa.SequentialAttentionSchedule(0.5, 12, cycles=1)
    assert steps_of_the_optimizer(keras, rises) == 12
    assert steps_of_the_optimizer(keras, cycles) < 12
    assert steps_of_the_optimizer(keras, rises, reset_optimizer=True) < 12
    assert steps_of_the_optimizer(keras, cycles, reset_optimizer=False) == 12
