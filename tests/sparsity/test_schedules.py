"""Phases and sparsities at every step, by hand and against the graph."""

import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

import tf_seqattn as sa
from tf_seqattn import tfmot_api
from tf_seqattn.sparsity.phases import update_at

SCHEDULES = [
    sa.SequentialAttentionSchedule.imagenet(0.9, end_step=1000),
    sa.SequentialAttentionSchedule(
        0.8, 700, begin_step=100, cycles=10, dense_fraction=0.2,
        finetune_fraction=0.2, exponent=2.0, frequency=3,
    ),
    sa.SequentialAttentionSchedule(0.5, 200, cycles=1, exponent=0),
    sa.ACDCSchedule(0.9, end_step=1000),
    sa.ACDCSchedule(0.7, 333, begin_step=20, cycles=4),
    sa.OneShotSchedule(0.9, prune_step=30),
    sa.OneShotSchedule(0.9, prune_step=0),
    sa.SequentialAttentionSchedule(0.9, end_step=1000),
    sa.SequentialAttentionSchedule(0.9, 1000, begin_step=100, frequency=7),
    sa.SequentialAttentionSchedule.criteo(0.9, end_step=1000),
    sa.GradualSchedule(0.9, end_step=700),
    sa.GradualSchedule(0.8, 500, begin_step=100, power=1, frequency=7),
    sa.GradualSchedule(0.8, 500, exponent=4.0),
    sa.SequentialAttentionSchedule(0.9, 1000, initial_sparsity=0.9),
    sa.SequentialAttentionSchedule(0.8, 700, begin_step=90, initial_sparsity=0.5),
    sa.SequentialAttentionSchedule(0.8, 700, revise=False),
]  # fmt: skip


def boundaries(schedule, last):
    """(first step, phase) of every phase."""
    phases = [schedule.phase(step).name for step in range(last + 1)]
    changes = [0] + [s for s in range(1, last + 1) if phases[s] != phases[s - 1]]
    return [(step, phases[step]) for step in changes]


def test_imagenet_recipe_of_sequential_attention():
    expected = [(0, "DENSE")]
    for start in range(100, 700, 100):
        expected += [
            (start, "SPARSIFICATION"),
            (start + 33, "SPARSE"),
            (start + 67, "DENSE"),
        ]
    # The last cycle and the extension are one sparsification phase.
    expected += [(700, "SPARSIFICATION"), (850, "SPARSE")]
    assert boundaries(SCHEDULES[0], 1000) == expected


def test_imagenet_recipe_of_acdc():
    expected = [(0, "DENSE")]
    for start in range(100, 800, 100):
        expected += [(start, "SPARSE"), (start + 50, "DENSE")]
    # The last dense phase is 5 % of the steps longer: it lasts to the fine-tuning.
    expected += [(850, "SPARSE")]
    assert boundaries(sa.ACDCSchedule(0.9, 1000), 1000) == expected


def test_criteo_recipe():
    schedule = sa.SequentialAttentionSchedule(
        0.9, 1050, cycles=10, dense_fraction=0.2, finetune_fraction=0.2
    )
    found = boundaries(schedule, 1050)
    assert found[0] == (0, "DENSE")
    assert found[1] == (210, "SPARSIFICATION")
    assert found[-2:] == [(750, "SPARSIFICATION"), (840, "SPARSE")]
    assert [name for _, name in found].count("SPARSIFICATION") == 10


def test_sparsification_follows_the_formula():
    schedule = SCHEDULES[0]
    for start, end in [(100, 133), (700, 850)]:
        for step in range(start, end):
            t = (step - start) / (end - start)
            expected = 0.9 * (1 - np.exp(-4 * t)) / (1 - np.exp(-4))
            assert schedule.sparsity(step) == pytest.approx(expected, abs=1e-12)
            assert update_at(schedule, step) == schedule.sparsity(step)
    assert update_at(schedule, 850) == 0.9
    assert update_at(schedule, 167) == 0.0
    assert update_at(schedule, 851) is None


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_calling_agrees_with_the_plain_functions_at_every_step(schedule):
    steps = np.arange(1100)
    due, sparsity = tf.function(schedule)(tf.constant(steps))
    for step in steps:
        expected = schedule.update_at(step)
        assert bool(due[step]) == (expected is not None), step
        assert float(sparsity[step]) == pytest.approx(schedule.sparsity(step), abs=1e-6)
    one_due, one_sparsity = schedule(tf.constant(600, tf.int32))
    assert one_due.shape == () and one_due.dtype == tf.bool
    assert one_sparsity.dtype == tf.float32


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_next_phase_change(schedule):
    for step in range(0, 1050, 7):
        change = schedule.next_phase_change(step)
        later = [
            s for s in range(step, 1200) if schedule.phase(s) != schedule.phase(step)
        ]
        assert change == (later[0] if later else np.inf)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_config_round_trip(schedule):
    config = schedule.get_config()
    again = type(schedule).from_config(config["config"])
    assert again == schedule and hash(again) == hash(schedule)
    assert config["class_name"].endswith(type(schedule).__name__)


def test_frequency_thins_out_the_sparsification_only():
    schedule = SCHEDULES[1]
    start = next(s for s in schedule.segments if s.phase == sa.Phase.SPARSIFICATION)
    due = [s for s in range(start.start, int(start.end)) if update_at(schedule, s)]
    assert all((step - start.start) % 3 == 0 for step in due)
    assert update_at(schedule, int(start.end)) == 0.8


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_plot(schedule):
    axes = schedule.plot()
    assert axes.get_xlabel() == "training step"
    assert len(axes.patches) >= 1 and len(axes.lines) == 1


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"target_sparsity": 1.0}, "target_sparsity"),
        ({"target_sparsity": -0.1}, "target_sparsity"),
        ({"end_step": 0}, "end_step"),
        ({"end_step": 5, "begin_step": 5}, "begin_step"),
        ({"begin_step": -1}, "begin_step"),
        ({"cycles": 0}, "cycles"),
        ({"cycles": 2.5}, "cycles"),
        ({"frequency": 0}, "frequency"),
        ({"dense_fraction": 0.6, "finetune_fraction": 0.4}, "finetune_fraction"),
        ({"dense_fraction": -0.1}, "dense_fraction"),
        ({"exponent": -1.0}, "exponent"),
    ],
)
def test_bad_arguments_are_named_with_their_value(arguments, name):
    valid = {"target_sparsity": 0.9, "end_step": 100}
    with pytest.raises(ValueError, match=name) as error:
        sa.SequentialAttentionSchedule(**{**valid, **arguments})
    assert str(list(arguments.values())[-1]) in str(error.value)


def test_bad_one_shot_arguments():
    with pytest.raises(ValueError, match="prune_step"):
        sa.OneShotSchedule(0.5, prune_step=-1)
    with pytest.raises(ValueError, match="target_sparsity"):
        sa.OneShotSchedule(1.5, prune_step=1)


def test_too_few_steps_warn_and_still_reach_the_target(caplog):
    schedule = sa.SequentialAttentionSchedule.imagenet(0.9, end_step=12)
    assert schedule.sparsity(12) == 0.9
    assert "too few steps" in caplog.text


IMPORTS = {
    "ours first": "import tf_seqattn as sa; import tensorflow_model_optimization as t",
    "tfmot first": "import tensorflow_model_optimization as t; import tf_seqattn as sa",
}


@pytest.mark.exhaustive
@pytest.mark.parametrize("order", IMPORTS)
def test_is_a_schedule_of_tfmot_in_either_import_order(order):
    code = f"""
{IMPORTS[order]}
schedule = sa.OneShotSchedule(0.5, 10)
assert isinstance(schedule, t.sparsity.keras.PruningSchedule)
assert issubclass(sa.PruningSchedule, t.sparsity.keras.PruningSchedule)
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_importing_leaves_tf_keras_to_the_user():
    code = """
import os
os.environ.pop("TF_USE_LEGACY_KERAS", None)
import tensorflow as tf, tf_seqattn
assert "TF_USE_LEGACY_KERAS" not in os.environ
assert tf.keras.__version__.startswith("3")
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_gradual_pruning_follows_the_curve_of_tfmot():
    polynomial = tfmot_api.schedule_class("PolynomialDecay")(
        initial_sparsity=0.0, final_sparsity=0.9, begin_step=50, end_step=450
    )
    schedule = sa.GradualSchedule(0.9, end_step=450, begin_step=50)
    for step in range(50, 451, 50):
        expected = float(polynomial(tf.constant(step))[1])
        assert schedule.sparsity(step) == pytest.approx(expected, abs=1e-6)
    assert schedule.phase(49) == sa.Phase.DENSE
    assert schedule.update_at(450) == 0.9 and schedule.update_at(451) is None


def test_gradual_pruning_updates_about_200_times():
    schedule = sa.GradualSchedule(0.9, end_step=10_000)
    updates = [s for s in range(1, 12_000) if schedule.update_at(s) is not None]
    assert 190 <= len(updates) <= 210 and updates[-1] == 10_000


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"power": 0}, "power"),
        ({"exponent": -1}, "exponent"),
        ({"begin_step": 100}, "end_step"),
        ({"frequency": 0}, "frequency"),
    ],
)
def test_gradual_schedule_names_a_wrong_argument(arguments, name):
    with pytest.raises(ValueError, match=f"`{name}`"):
        sa.GradualSchedule(0.9, end_step=100, **arguments)


def test_without_matplotlib_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"tf-seqattn\[plots\]"):
        sa.OneShotSchedule(0.5, prune_step=3).plot()
