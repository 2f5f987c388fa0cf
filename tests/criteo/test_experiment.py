"""The arms: their recipes, and what is measured of them."""

import numpy as np
import pytest
from sklearn import metrics

import tf_seqattn as sa
from tf_seqattn.criteo.experiment import (
    ALGORITHMS,
    Arm,
    Training,
    area_under_curve,
    fields_of_block_rows,
    importance,
    log_loss_of_logits,
    pruning_schedule,
    train_arm,
)


@pytest.mark.parametrize("algorithm", ALGORITHMS[1:])
def test_every_algorithm_ends_with_the_same_phase_of_fine_tuning(algorithm):
    schedule = pruning_schedule(algorithm, 0.9, steps=1000)
    phases = [schedule.phase(step) for step in range(1000)]
    assert phases[799] != sa.Phase.SPARSE
    assert set(phases[800:]) == {sa.Phase.SPARSE}
    assert schedule.sparsity(900) == pytest.approx(0.9)
    assert isinstance(importance(algorithm), sa.Importance)


def test_measures_agree_with_scikit_learn():
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, 500)
    logits = random.normal(size=500).round(1)
    assert area_under_curve(labels, logits) == pytest.approx(
        metrics.roc_auc_score(labels, logits)
    )
    assert log_loss_of_logits(labels, logits) == pytest.approx(
        metrics.log_loss(labels, 1 / (1 + np.exp(-logits)))
    )
    assert np.isnan(area_under_curve(np.ones(3), np.arange(3)))


def test_rows_of_blocks_know_their_fields():
    assert fields_of_block_rows(20, 20)[-1] == ["C26"]
    assert fields_of_block_rows(26, 15)[:2] == [["I1", "I2"], ["I2", "I3"]]
    assert fields_of_block_rows(78, 5)[:3] == [["I1"], ["I1"], ["I2"]]


@pytest.mark.parametrize("algorithm", ["dense", "powerprop"])
def test_an_arm_is_trained_and_measured(algorithm, clicks, source):
    training = Training(steps=12, batch_size=64, table_size=64, curve_points=4)
    trained = train_arm(
        Arm(algorithm, sparsity=0.9),
        clicks[:2500],
        clicks[2500:],
        training,
        source.informative_fields,
        progress=False,
    )
    result = trained.result
    assert result["blocks_kept"] == (400 if algorithm == "dense" else 40)
    assert trained.mask.sum() == result["blocks_kept"]
    assert 0.3 < result["log_loss"] < 1.0
    assert result["curve_steps"] == [3, 6, 9, 12]
    assert len(result["curve_losses"]) == 4
    assert 0 <= result["informative_share_of_kept"] <= 1


def test_an_unknown_algorithm_is_named():
    with pytest.raises(ValueError, match="algorithm='lasso'"):
        Arm("lasso")
