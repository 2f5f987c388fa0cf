"""Backbones of KerasHub, small and at random: their channels found and removed."""

import numpy as np
import pytest

import tf_seqattn as sa
from tests import channel_models
from tests.interop import test_keras_hub

keras = pytest.importorskip("keras")
models = pytest.importorskip("keras_hub").models

LENGTH = 16
TEXT = {"vocabulary_size": 48, "num_layers": 1, "hidden_dim": 32}
QUERIES = {"num_query_heads": 4, "num_key_value_heads": 2, "intermediate_dim": 64}
MAKERS = {
    "bert": lambda: models.BertBackbone(
        **TEXT, num_heads=4, intermediate_dim=64, max_sequence_length=LENGTH
    ),
    "gpt2": lambda: models.GPT2Backbone(
        **TEXT, num_heads=4, intermediate_dim=64, max_sequence_length=LENGTH
    ),
    "gemma": lambda: models.GemmaBackbone(**TEXT, **QUERIES, head_dim=16),
    "llama": lambda: models.LlamaBackbone(**TEXT, **QUERIES),
    "vit": lambda: models.ViTBackbone(
        image_shape=(16, 16, 3), patch_size=4, num_layers=1, num_heads=4,
        hidden_dim=32, mlp_dim=64,
    ),
    "whisper": lambda: models.WhisperBackbone(
        **TEXT, num_heads=4, intermediate_dim=64, num_mels=8,
        max_encoder_sequence_length=LENGTH, max_decoder_sequence_length=LENGTH,
    ),
    "resnet": lambda: models.ResNetBackbone(
        image_shape=(32, 32, 3), input_conv_filters=[64], input_conv_kernel_sizes=[7],
        stackwise_num_filters=[64, 64], stackwise_num_blocks=[1, 1],
        stackwise_num_strides=[1, 2], block_type="basic_block",
    ),
}  # fmt: skip
# Units of the groups of one layer: heads of attention, and what is inside of it.
UNITS = {
    "bert": [4, 64],
    "gpt2": [4, 64],
    # Its attention reshapes by numbers that it holds.
    "gemma": [32],
    "llama": [2, 64],
    "vit": [4, 64],
    "whisper": [4, 4, 4, 32, 64, 64],
    "resnet": [64, 64, 64],
}


def batch_for(backbone):
    """Inputs by name, or the one input."""
    random = np.random.default_rng(0)
    batch = {}
    for tensor in backbone.inputs:
        shape = (4, *(size or LENGTH for size in tensor.shape[1:]))
        if "mask" in tensor.name:
            batch[tensor.name] = np.ones(shape, "int32")
        elif "int" in tensor.dtype:
            batch[tensor.name] = random.integers(0, 2, shape)
        else:
            batch[tensor.name] = random.normal(size=shape).astype("float32")
        if "token" in tensor.name:
            batch[tensor.name] = random.integers(0, 48, shape)
    return batch if len(batch) > 1 else next(iter(batch.values()))


def outputs_of(model, batch):
    return [np.asarray(output) for output in keras.tree.flatten(model(batch))]


@pytest.mark.parametrize("name", MAKERS)
def test_what_nothing_reads_leaves_a_backbone(name):
    backbone = MAKERS[name]()
    batch = batch_for(backbone)
    channel_models.randomize(backbone)
    units = sorted(group.units for group in sa.channel_groups(backbone))
    assert units == UNITS[name]
    left = channel_models.silence(backbone)
    before, parameters = outputs_of(backbone, batch), backbone.count_params()
    smaller = sa.shrink(backbone)
    assert smaller.count_params() < 0.9 * parameters
    found = sorted((g.name, g.units) for g in sa.channel_groups(smaller))
    # One unit is no group.
    assert found == [(name, units) for name, units in left if units > 1]
    # The backbone itself is as it was, unless its layers have no configuration: that of
    # Llama's decoder asks for an attribute that the decoder lacks.
    changed = backbone.count_params() != parameters
    assert changed == (name == "llama")
    for ours, same in zip(before, outputs_of(backbone, batch), strict=True):
        np.testing.assert_allclose(same, ours, atol=3e-5 * max(1.0, np.abs(ours).max()))
    for ours, theirs in zip(before, outputs_of(smaller, batch), strict=True):
        moved = np.abs(ours - ours.mean(axis=0)).max()
        assert moved > 1e-3
        np.testing.assert_allclose(theirs, ours, atol=3e-5 * max(1.0, moved))


@pytest.mark.filterwarnings("ignore:Training ended", "ignore:The phases")
@pytest.mark.parametrize("name", ["bert", "vit"])
def test_a_backbone_is_pruned_by_attention_shrunk_and_exported(name, tmp_path):
    backbone = MAKERS[name]()
    batch = batch_for(backbone)
    model = test_keras_hub.with_head(backbone, batch)
    channel_models.randomize(model)
    before = np.asarray(model(batch))
    pruned = sa.prune(
        model,
        sa.SequentialAttentionSchedule(0.5, end_step=4),
        block_size="channels",
        round_to=1,
    )
    np.testing.assert_allclose(np.asarray(pruned(batch)), before, rtol=1e-4, atol=1e-5)
    units = sorted(group.layer.units for group in sa.pruned_layers(pruned))
    assert units == UNITS[name]
    pruned.compile("adam", "mse")
    pruned.fit(
        batch, np.eye(4), 4, epochs=4, verbose=0, callbacks=[sa.UpdatePruningStep()]
    )
    lines = []
    sa.summary(pruned, print_fn=lines.append)
    assert any(line.startswith("sa.shrink leaves") for line in lines)
    trained = np.asarray(pruned(batch))
    assert np.abs(trained - trained.mean(axis=0)).max() > 1e-3
    smaller = sa.shrink(pruned)
    groups = sa.channel_groups(smaller)
    # Of BERT's pooled output, which nothing reads here, one unit is left.
    left = sorted(group.units for group in groups if group.units > 1)
    assert left == [units // 2 for units in UNITS[name]]
    np.testing.assert_allclose(np.asarray(smaller(batch)), trained, atol=1e-5)
    report = sa.export_tflite(smaller, tmp_path / "smaller.tflite")
    assert report.differences["no delegate"] < 1e-4 * report.largest_output


@pytest.mark.parametrize(
    "name",
    [
        name
        if name in ("bert", "llama")
        else pytest.param(name, marks=pytest.mark.slow)
        for name in MAKERS
    ],
)
def test_a_wrong_removal_from_a_backbone_shows(name, monkeypatch):
    backbone = MAKERS[name]()
    batch = batch_for(backbone)
    channel_models.randomize(backbone)
    channel_models.silence(backbone, share=0.25)
    before = outputs_of(backbone, batch)
    channel_models.remove_neighbours(monkeypatch)
    after = outputs_of(sa.shrink(backbone), batch)
    assert max(np.abs(a - b).max() for a, b in zip(after, before, strict=True)) > 1e-3
