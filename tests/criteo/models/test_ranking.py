"""DLRM and DCN-v2 through TFRS: pruned by the same call, stripped; one row alone."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

import tf_seqattn as sa
from tf_seqattn.criteo.log.in_memory import training_batches
from tf_seqattn.criteo.models.ranking import (
    build_dcn,
    build_dlrm,
    prune_ranking,
    ranking_features,
)

SMALL = {"dimension": 8, "bottom_units": (64,), "top_units": (64, 32)}
BUILDERS = {
    "dlrm": lambda **options: build_dlrm(64, **SMALL, **options),
    "dcn": lambda **options: build_dcn(64, **SMALL, cross_layers=2, **options),
}
SCHEDULE = sa.SequentialAttentionSchedule(0.8, 20, cycles=2)


def built(kind, clicks, **options):
    keras.utils.set_random_seed(0)
    model = BUILDERS[kind](**options)
    model(ranking_features(clicks[:4].features()))
    return model


def fit(model, clicks, steps=20):
    model.compile(optimizer=keras.optimizers.Adam(1e-2))
    batches = training_batches(clicks, 128, seed=0)
    batches = batches.map(lambda features, y: (ranking_features(features), y))
    return model.fit(
        batches,
        steps_per_epoch=steps,
        callbacks=[sa.UpdatePruningStep()],
        verbose=0,
    ).history


@pytest.mark.parametrize("kind", BUILDERS)
def test_a_ranking_model_is_pruned_by_the_same_call(kind, clicks):
    model = built(kind, clicks)
    pruned = sa.prune(model, SCHEDULE, block_size=(4, 4))
    names = [layer.layer.name for layer in sa.pruned_layers(pruned)]
    kinds = {layer.layer.kernel.shape[0] for layer in sa.pruned_layers(pruned)}
    if kind == "dcn":
        assert len(names) >= 4
        assert 8 * 27 in kinds  # The square kernels of the `Cross` layers.
    history = fit(pruned, clicks)
    assert 0 < history["auc"][0] <= 1
    features = ranking_features(clicks[:50].features())
    before = pruned(features)
    stripped = sa.strip_pruning(pruned)
    np.testing.assert_allclose(stripped(features), before, atol=1e-5)
    for layer in stripped.submodules:
        if isinstance(layer, keras.layers.Dense) and layer.name in names:
            zeros = np.mean(layer.kernel.numpy() == 0)
            assert zeros == pytest.approx(0.8, abs=0.03)


@pytest.mark.parametrize("kind", BUILDERS)
def test_one_row_is_predicted_like_many(kind, clicks):
    model = built(kind, clicks)
    many = model(ranking_features(clicks[:3].features()))
    one = model(ranking_features(clicks[1:2].features()))
    np.testing.assert_allclose(one, many[1:2], rtol=1e-5)


def test_tables_are_pruned_by_blocks_of_rows(clicks):
    model = built("dlrm", clicks, prunable_tables=True)
    prune_ranking(model, SCHEDULE, 4, table_rows=13)
    tables = sa.pruned_layers(model._embedding_layer)[0]
    assert tables.pruned_kernels[0].grid.shape == (26 * 65 // 13, 1)
    fit(model, clicks)
    stripped = sa.strip_pruning(model)
    table = stripped._embedding_layer.tables.numpy().reshape(130, 13, 8)
    kept = np.abs(table).sum(axis=(1, 2)) > 0
    assert kept.sum() == 26
    assert (np.abs(table[kept]) > 0).mean() > 0.99


def test_tables_that_may_not_be_pruned_are_refused(clicks):
    model = built("dlrm", clicks)
    with pytest.raises(ValueError, match="prunable_tables=True"):
        prune_ranking(model, SCHEDULE, 4, table_rows=13)


def test_a_bare_model_of_the_tfrs_tutorials_is_pruned(clicks):
    """No class of this package but the wrapper."""
    import tensorflow_recommenders as tfrs

    class Embeddings(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.tables = {
                f"C{i}": keras.layers.Embedding(65, 16) for i in range(1, 27)
            }

        def call(self, ids):
            return {name: table(ids[name]) for name, table in self.tables.items()}

    model = tfrs.experimental.models.Ranking(
        Embeddings(),
        bottom_stack=tfrs.layers.blocks.MLP([64, 16], final_activation="relu"),
        feature_interaction=tfrs.layers.feature_interaction.DotInteraction(),
        top_stack=tfrs.layers.blocks.MLP([64, 32, 1], final_activation="sigmoid"),
    )
    ids = {f"C{i + 1}": clicks.categorical[:256, i] for i in range(26)}
    features = {"dense_features": clicks.numeric[:256], "sparse_features": ids}
    model(features)
    pruned = sa.prune(model, SCHEDULE, block_size=(4, 4))
    assert pruned is model
    assert len(sa.pruned_layers(pruned)) >= 2
    pruned.compile(keras.optimizers.Adam(1e-3))
    batches = tf.data.Dataset.from_tensors((features, clicks.labels[:256])).repeat(20)
    pruned.fit(batches, callbacks=[sa.UpdatePruningStep()], verbose=0)
    rows = sa.summary(pruned, print_fn=lambda line: None)
    sparsities = [row["block_sparsity"] for row in rows if row["left_alone"] is None]
    np.testing.assert_allclose(sparsities, 0.8, atol=0.01)
