"""What PruningSummaries writes for TensorBoard."""

import pathlib

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

import tf_seqattn as sa
from tf_seqattn import tfmot_api

# Every test runs on Keras 2 and on Keras 3.
pytestmark = pytest.mark.usefixtures("keras")
SCHEDULE = sa.SequentialAttentionSchedule(0.75, 40, cycles=3)


def events(folder):
    """{tag: [(step, value)]} of everything written below `folder`."""
    found = {}
    for path in sorted(pathlib.Path(folder).rglob("*tfevents*")):
        for record in tf.data.TFRecordDataset(str(path)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            for value in event.summary.value:
                content = tf.make_ndarray(value.tensor)
                found.setdefault(value.tag, []).append((event.step, content))
    return found


def train(folder, **kwargs):
    x = np.random.rand(160, 8).astype("float32")
    model = keras.Sequential([keras.layers.Dense(8, input_shape=(8,), name="d")])
    pruned = sa.prune(model, SCHEDULE, (2, 2), pruning_policy=sa.PruningPolicy())
    pruned.compile("adam", "mse")
    summaries = sa.PruningSummaries(log_dir=folder, **kwargs)
    pruned.fit(
        x, x, batch_size=8, epochs=2, verbose=0,
        callbacks=[sa.UpdatePruningStep(), summaries],
    )  # fmt: skip
    return pruned


def test_tags_and_values(tmp_path):
    pruned = train(str(tmp_path))
    written = events(tmp_path / "pruning")
    layer = sa.pruned_layers(pruned)[0]
    name = f"{layer.name}/kernel"
    assert set(written) == {
        f"{layer.name}/phase",
        f"{name}/sparsity",
        f"{name}/sparsity_requested",
        f"{name}/attention_entropy",
        f"{name}/attention",
        f"{name}/support_churn",
        f"{name}/attention_image",
        f"{name}/mask",
        "pruning/guide",
        "pruning/schedule",
        "pruning/phase",
        "pruning/sparsity",
        "pruning/sparsity_requested",
        "pruning/attention_entropy",
        "pruning/support_churn",
    }
    # One kernel is all there is.
    for tag in ("sparsity", "sparsity_requested", "attention_entropy", "support_churn"):
        whole, one = (
            np.array(written[f"{group}/{tag}"], float) for group in ("pruning", name)
        )
        np.testing.assert_allclose(whole, one, atol=1e-6)
    for step, value in written[f"{layer.name}/phase"]:
        assert SCHEDULE.phase(step) == value
    for step, value in written[f"{name}/sparsity"]:
        assert value == pytest.approx(round(16 * SCHEDULE.sparsity(step)) / 16)
    changes = {s for s in range(1, 41) if SCHEDULE.phase(s) != SCHEDULE.phase(s - 1)}
    steps = {step for step, _ in written[f"{layer.name}/phase"]}
    assert steps == {20, 40} | {s for s in changes if s > 1}
    # The first of the sparse phases has nothing to be compared with.
    sparse = sorted(s for s in changes if SCHEDULE.phase(s) == sa.Phase.SPARSE)
    assert [step for step, _ in written[f"{name}/support_churn"]] == sparse[1:]
    assert all(0 <= value <= 1 for _, value in written[f"{name}/support_churn"])
    assert list((tmp_path / "train").iterdir()), "the callback of Keras writes too"


def test_every_few_steps_without_pictures(tmp_path):
    pruned = train(tmp_path, update_freq=5, images=False)
    written = events(tmp_path / "pruning")
    name = f"{sa.pruned_layers(pruned)[0].name}/kernel"
    assert f"{name}/mask" not in written
    steps = [step for step, _ in written[f"{name}/sparsity"]]
    assert set(range(5, 41, 5)) <= set(steps)
    changes = {s for s in range(2, 41) if SCHEDULE.phase(s) != SCHEDULE.phase(s - 1)}
    assert changes <= set(steps)


def test_runs_can_be_compared_by_their_hyper_parameters(tmp_path):
    for batch in (8, 16):
        train(tmp_path / f"batch_{batch}", images=False, hparams={"batch": batch})
    found = []
    for path in sorted(tmp_path.glob("batch_*/*tfevents*")):
        for record in tf.data.TFRecordDataset(str(path)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            for value in event.summary.value:
                if value.tag == "_hparams_/session_start_info":
                    data = HParamsPluginData.FromString(
                        value.metadata.plugin_data.content
                    )
                    found.append(data.session_start_info.hparams)
    assert {run["batch"].number_value for run in found} == {8, 16}
    for run in found:
        assert run["schedule"].string_value == "SequentialAttentionSchedule"
        assert run["target_sparsity"].number_value == 0.75
        assert run["cycles"].number_value == 3
        assert run["block_size"].string_value == "2 x 2"


def test_a_model_of_dense_kernels_alone_has_no_total(tmp_path):
    dense = keras.layers.Dense(8, name="d")
    layer = sa.PrunableLayer(dense, SCHEDULE, block_size=(2, 2), min_blocks=100)
    model = keras.Sequential([layer])
    model.build((None, 8))
    assert list(layer.left_dense) == ["kernel"]
    model.compile("adam", "mse")
    x = np.zeros((16, 8), "float32")
    callbacks = [sa.UpdatePruningStep(), sa.PruningSummaries(log_dir=str(tmp_path))]
    model.fit(x, x, verbose=0, callbacks=callbacks)
    written = events(tmp_path / "pruning")
    assert f"{layer.name}/phase" in written
    assert not {"pruning/sparsity", "pruning/attention_entropy"} & set(written)


def test_a_schedule_of_tfmot_beside_ours_leaves_out_the_total_request(tmp_path):
    theirs = tfmot_api.schedule_class("ConstantSparsity")(0.5, 1, frequency=1)
    model = keras.Sequential(
        [
            keras.layers.Dense(8, input_shape=(8,), name="ours"),
            keras.layers.Dense(8, name="theirs"),
        ]
    )
    pruned = sa.prune(
        model, SCHEDULE, (2, 2), pruning_policy=sa.PruningPolicy(),
        layers={"theirs": {"pruning_schedule": theirs}},
    )  # fmt: skip
    pruned.compile("adam", "mse")
    x = np.zeros((160, 8), "float32")
    summaries = sa.PruningSummaries(tmp_path, images=False)
    pruned.fit(
        x, x, batch_size=4, verbose=0, callbacks=[sa.UpdatePruningStep(), summaries]
    )
    written = events(tmp_path / "pruning")
    assert "prunable_ours/kernel/sparsity_requested" in written
    assert "pruning/sparsity" in written
    assert "pruning/sparsity_requested" not in written


def test_the_growing_rate_is_shown(tmp_path):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.layers.Dense(16, input_shape=(16,))])
    schedule = sa.SequentialAttentionSchedule(0.75, end_step=8)
    model = sa.prune(model, schedule, (4, 4), pruning_policy=sa.PruningPolicy())
    model.compile("sgd", "mse")
    x = np.ones((16, 16), "float32")
    summaries = sa.PruningSummaries(str(tmp_path), update_freq=8, images=False)
    model.fit(x, x, 2, verbose=0, callbacks=[sa.UpdatePruningStep(), summaries])
    (shown,) = [
        values
        for tag, values in events(tmp_path / "pruning").items()
        if tag.endswith("/kernel/rate_gain")
    ]
    assert shown[-1][1] == pytest.approx(2.0)
