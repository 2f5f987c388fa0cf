"""Starting from a model of earlier rows: weights, tables, vocabulary, support."""

import numpy as np
import pytest

import tf_seqattn as sa
from tf_seqattn.criteo.log.vocabulary import Vocabulary
from tf_seqattn.criteo.models.click_model import build_network, prune_first_layer
from tf_seqattn.criteo.models.warm_start import kept_support, start_from

OLD = [np.array([2, 5]), np.array([1, 3, 4])]
NEW = [np.array([1, 5, 6]), np.array([3])]
HASHES = (6, 4)


def network(sizes, hidden=(40,)):
    made = build_network(sizes, dimension=2, hidden_units=hidden)
    random = np.random.default_rng(sum(sizes))
    made.set_weights([random.normal(size=w.shape) for w in made.get_weights()])
    return made


def test_values_keep_their_vectors_and_new_ones_start_as_rare():
    vocabularies = Vocabulary(OLD, HASHES), Vocabulary(NEW, HASHES)
    old, new = (network(v.table_sizes) for v in vocabularies)
    start_from(new, old, *vocabularies)
    before, after = (n.get_layer("fields").tables.numpy() for n in (old, new))
    # Tables one after another: empty, rare, then the frequent values.
    empty, rare, five = 0, 1, 3
    # Of the second table, behind the four rows of the first: 1, 3 and 4 are frequent.
    empty_2, rare_2, three_2 = 4, 5, 7
    rows = [empty, rare, rare, five, rare, empty_2, rare_2, three_2]
    np.testing.assert_array_equal(after, before[rows])
    for name in ("hidden_1", "logits"):
        for ours, theirs in zip(
            new.get_layer(name).get_weights(),
            old.get_layer(name).get_weights(),
            strict=True,
        ):
            np.testing.assert_array_equal(ours, theirs)


def test_the_same_rows_give_the_same_predictions():
    old, new = network((9, 7)), build_network((9, 7), 2, (40,))
    random = np.random.default_rng(0)
    features = {
        "numeric": random.normal(size=(5, 13)).astype("float32"),
        "categorical": random.integers(0, 8, (5, 2)),
    }
    assert not np.allclose(old(features), new(features))
    start_from(new, old)
    np.testing.assert_array_equal(old(features), new(features))


def test_only_one_vocabulary_or_another_size_is_an_error():
    vocabulary = Vocabulary(OLD, HASHES)
    with pytest.raises(ValueError, match="both have a vocabulary"):
        start_from(network((9, 7)), network((9, 7)), None, vocabulary)
    with pytest.raises(ValueError, match="'hidden_1' has"):
        start_from(network((9, 7), (20,)), network((9, 7)))
    with pytest.raises(ValueError, match="'fields' has"):
        start_from(network((9, 8)), network((9, 7)))


@pytest.mark.parametrize("size", [8, 7])
def test_the_kept_support_is_that_of_the_earlier_model(size):
    made = network((9, 7))
    layer = made.get_layer("hidden_1")
    kernel = layer.kernel.numpy()
    random = np.random.default_rng(1)
    grid = random.random([-(-n // size) for n in kernel.shape]) < 0.4
    mask = np.repeat(np.repeat(grid, size, 0), size, 1)[: len(kernel), : len(kernel.T)]
    layer.kernel.assign(kernel * mask)
    schedule = kept_support(made, size)
    pruned = prune_first_layer(made, schedule, size, sa.Magnitude())
    kept = sa.strip_pruning(pruned).get_layer("hidden_1").kernel.numpy()
    np.testing.assert_array_equal(kept, kernel * mask)
    assert schedule.target_sparsity == pytest.approx(1 - grid.mean())


def test_a_dense_model_has_no_support_to_keep():
    with pytest.raises(ValueError, match=r"No block of 8 x 8[\s\S]*--support revise"):
        kept_support(network((9, 7)), 8)
