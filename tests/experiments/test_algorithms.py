"""The table of algorithms."""

import pytest

import tf_seqattn as sa
from tf_seqattn.experiments.algorithms import ALGORITHMS, Phases, pruning_schedule

PHASES = Phases(cycles=7, dense_fraction=0.1, finetune_fraction=0.15)


@pytest.mark.parametrize("name", sorted(set(ALGORITHMS) - {"dense"}))
def test_every_algorithm_reaches_the_target(name):
    schedule = pruning_schedule(name, 0.8, 1000, PHASES)
    assert schedule.sparsity(999) == pytest.approx(0.8)
    assert {schedule.phase(step) for step in range(850, 1000)} == {sa.Phase.SPARSE}


def test_gradual_pruning_ends_before_the_mask_is_fixed():
    assert pruning_schedule("gradual", 0.8, 1000, PHASES).end_step == 750
    half = Phases(7, 0.1, finetune_fraction=0.5)
    assert pruning_schedule("gradual", 0.8, 1000, half).end_step == 500


def test_the_importance_of_the_paper_has_the_penalty_on_its_logits():
    importance = ALGORITHMS["seqattn"].importance(0.25)
    assert (importance.l2, importance.rank) == (0.25, "attention")


def test_a_dense_model_has_no_schedule_and_no_name_is_made_up():
    assert pruning_schedule("dense", 0.8, 1000, PHASES) is None
    with pytest.raises(ValueError, match="algorithm='lasso'"):
        pruning_schedule("lasso", 0.8, 1000, PHASES)


def test_titles_and_colours_tell_algorithms_apart():
    for attribute in ("title", "colour"):
        assert len({getattr(a, attribute) for a in ALGORITHMS.values()}) == len(
            ALGORITHMS
        )
