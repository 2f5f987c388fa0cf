"""Backbones of KerasHub, small and at random: pruned, packed and exported."""

import numpy as np
import pytest
import tensorflow as tf

import tf_seqattn as sa

keras = pytest.importorskip("keras")
models = pytest.importorskip("keras_hub").models

LENGTH = 16
SCHEDULE = sa.SequentialAttentionSchedule(0.75, end_step=6, cycles=1)
POLICY = sa.MinimumBlocks((8, 8), min_blocks=8)


def tokens(batch, **more):
    ids = np.random.default_rng(0).integers(0, 48, (batch, LENGTH))
    return {"token_ids": ids, "padding_mask": np.ones((batch, LENGTH), "int32"), **more}


def vit():
    backbone = models.ViTBackbone(
        image_shape=(16, 16, 3), patch_size=4, num_layers=1, num_heads=2,
        hidden_dim=32, mlp_dim=64,
    )  # fmt: skip
    x = np.random.default_rng(0).normal(size=(8, 16, 16, 3)).astype("float32")
    return backbone, x


def bert():
    backbone = models.BertBackbone(
        vocabulary_size=48, num_layers=1, num_heads=2, hidden_dim=32,
        intermediate_dim=64, max_sequence_length=LENGTH,
    )  # fmt: skip
    return backbone, tokens(8, segment_ids=np.zeros((8, LENGTH), "int32"))


def gemma():
    """A decoder: grouped queries, gated units, embeddings read both ways."""
    backbone = models.GemmaBackbone(
        vocabulary_size=48, num_layers=1, num_query_heads=2, num_key_value_heads=1,
        hidden_dim=32, intermediate_dim=64, head_dim=16,
    )  # fmt: skip
    return backbone, tokens(8)


BACKBONES = {make.__name__: make for make in (vit, bert, gemma)}


def with_head(backbone, x):
    """A classifier on the mean output of a backbone, of fixed length."""
    shapes = keras.tree.map_structure(lambda value: value.shape[1:], x)
    if isinstance(x, dict):
        inputs = {
            name: keras.Input(shape, name=name, dtype="int32")
            for name, shape in shapes.items()
        }
    else:
        inputs = keras.Input(x.shape[1:], name="images")
    features = backbone(inputs)
    if isinstance(features, dict):
        features = features["sequence_output"]
    pooled = keras.layers.GlobalAveragePooling1D()(features)
    return keras.Model(inputs, keras.layers.Dense(4, name="head")(pooled))


def arrays(outputs):
    return [np.asarray(value) for value in tf.nest.flatten(outputs)]


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow) for n in ("vit", "bert", "gemma")],
)
def test_trained_packed_and_exported(name, tmp_path):
    backbone, x = BACKBONES[name]()
    model = with_head(backbone, x)
    expected = model(x).numpy()
    pruned = sa.prune(model, SCHEDULE, (8, 8), pruning_policy=POLICY)
    assert len(sa.pruned_layers(pruned)) >= 4
    np.testing.assert_allclose(pruned(x), expected, rtol=1e-4, atol=1e-5)
    pruned.compile("adam", "mse")
    y = np.ones((8, 4), "float32")
    pruned.fit(
        x, y, epochs=6, verbose=0, callbacks=[sa.UpdatePruningStep()], batch_size=8
    )
    trained = pruned(x).numpy()
    stripped = sa.strip_pruning(pruned)
    assert not sa.pruned_layers(stripped)
    np.testing.assert_allclose(stripped(x), trained, rtol=1e-4, atol=1e-5)

    stripped.save(tmp_path / "sparse.keras")
    loaded = keras.models.load_model(tmp_path / "sparse.keras")
    np.testing.assert_allclose(loaded(x), trained, rtol=1e-4, atol=1e-5)

    report = sa.export_tflite(loaded, tmp_path / "m.tflite", choose="always")
    assert sum(plan.layout == "packed" for plan in report.plans) >= 4
    assert report.differences["no delegate"] < 1e-4 * report.largest_output
    packed = sa.pack(loaded, choose="always")
    assert packed.count_params() < 0.7 * loaded.count_params()
    np.testing.assert_allclose(packed(x), trained, rtol=1e-4, atol=1e-5)
    sa.export_saved_model(stripped, tmp_path / "served", choose="always")


@pytest.mark.parametrize("name", BACKBONES)
def test_a_backbone_alone_is_changed_in_place(name):
    backbone, x = BACKBONES[name]()
    expected = arrays(backbone(x))
    schedule = sa.OneShotSchedule(0.75, prune_step=0)
    pruned = sa.prune(backbone, schedule, (8, 8), pruning_policy=POLICY)
    assert pruned is backbone and type(backbone).__name__.endswith("Backbone")
    outputs = arrays(backbone(x))
    assert not np.allclose(outputs[0], expected[0], atol=1e-3)
    assert sa.strip_pruning(backbone) is backbone
    assert not sa.pruned_layers(backbone)
    for a, b in zip(arrays(backbone(x)), outputs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    # Its embeddings are where KerasHub looks for them.
    if name != "vit":
        assert np.mean(backbone.token_embedding.embeddings.numpy() == 0) > 0.5
        assert backbone.get_layer("token_embedding") is backbone.token_embedding
