"""The arms: their recipes, and what is measured of them."""

import numpy as np
import pytest
from sklearn import metrics

import tf_seqattn as sa
from tf_seqattn.criteo.models.experiment import (
    ARMS,
    Arm,
    Training,
    fields_of_block_rows,
    importance,
    log_loss_of_logits,
    narrow_units,
    pruning_schedule,
    train_arm,
    what_is_kept,
)


@pytest.mark.parametrize("arm", sorted(set(ARMS) - {"dense", "narrow"}))
def test_every_arm_ends_with_the_same_phase_of_fine_tuning(arm):
    schedule = pruning_schedule(arm, 0.9, steps=1000)
    phases = [schedule.phase(step) for step in range(1000)]
    # Ours and gradual pruning share out the steps by themselves.
    late = ("gradual", "recommended", "long_rise", "unrevised", "sparse_start")
    late = dict.fromkeys(late, 750)
    half = dict.fromkeys(("gradual_half", "half_rise"), 500)
    first = {"retrained": 0, **late, **half}.get(arm, 800)
    assert sa.Phase.SPARSE not in phases[max(0, first - 1) : first]
    assert set(phases[first:]) == {sa.Phase.SPARSE}
    assert schedule.sparsity(900) == pytest.approx(0.9)
    assert isinstance(importance(arm), sa.Importance)


def test_the_loss_agrees_with_scikit_learn():
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, 500)
    logits = random.normal(size=500).round(1)
    assert log_loss_of_logits(labels, logits) == pytest.approx(
        metrics.log_loss(labels, 1 / (1 + np.exp(-logits)))
    )


def test_rows_of_blocks_know_their_fields():
    assert fields_of_block_rows(20, 20)[-1] == ["C26"]
    assert fields_of_block_rows(26, 15)[:2] == [["I1", "I2"], ["I2", "I3"]]
    assert fields_of_block_rows(78, 5)[:3] == [["I1"], ["I1"], ["I2"]]


def test_what_is_kept_is_counted_by_hand():
    mask = np.zeros((39, 40), bool)
    mask[0, :3] = mask[13, 0] = mask[14, 5] = True
    kept = what_is_kept(mask, 10, ["I1", "C2", "C3"])
    assert kept == {
        "blocks": 1560,
        "blocks_kept": 5,
        "informative_share_of_kept": 4 / 5,
        "informative_share_of_all": 3 / 39,
        "informative_fields": 3,
        "informative_fields_read": 2,
    }
    assert what_is_kept(mask, 10) == {"blocks": 1560, "blocks_kept": 5}


TRAINING = Training(steps=12, batch_size=64, table_size=64, curve_points=4)


def train(algorithm, clicks, source, **options):
    return train_arm(
        Arm(algorithm, sparsity=0.9),
        clicks[:2500],
        clicks[2500:],
        TRAINING,
        source.informative_fields,
        progress=False,
        **options,
    )


@pytest.mark.parametrize("algorithm", ["dense", "powerprop", "balanced"])
def test_an_arm_is_trained_and_measured(algorithm, clicks, source):
    trained = train(algorithm, clicks, source)
    result = trained.result
    assert result["blocks_kept"] == (400 if algorithm == "dense" else 40)
    assert trained.mask.sum() == result["blocks_kept"]
    if algorithm == "balanced":
        assert set(trained.mask.sum(axis=0)) == {2}
    assert 0.3 < result["log_loss"] < 1.0
    assert result["curve_steps"] == [3, 6, 9, 12]
    assert len(result["curve_losses"]) == 4
    assert 0 <= result["informative_share_of_kept"] <= 1


def test_retraining_keeps_the_blocks_that_were_found(clicks, source):
    found = np.zeros((20, 20), bool)
    found.flat[np.random.default_rng(0).permutation(400)[:40]] = True
    trained = train("retrained", clicks, source, found=found)
    np.testing.assert_array_equal(trained.mask, found)
    with pytest.raises(ValueError, match="found=None"):
        train("retrained", clicks, source)


def test_the_narrow_model_has_as_many_weights(clicks, source):
    network = train("narrow", clicks, source).network
    kernels = [network.get_layer(f"hidden_{n}").kernel for n in (1, 2)]
    pruned = 0.1 * 390 * 400 + 400 * 400
    assert sum(k.shape.num_elements() for k in kernels) == pytest.approx(
        pruned, rel=2e-3
    )
    assert kernels[0].shape[1] == narrow_units(0.9)


def test_an_unknown_algorithm_is_named():
    with pytest.raises(ValueError, match="algorithm='lasso'"):
        Arm("lasso")
