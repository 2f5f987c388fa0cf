"""`TPUEmbedding` of TFRS beside a pruned perceptron, on its way without a TPU."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

import tf_seqattn as sa
import tf_seqattn.criteo  # noqa: F401 (before TFRS touches tf.keras)

import tensorflow_recommenders as tfrs  # isort: skip

embedding = tf.tpu.experimental.embedding
SIZES = {"C1": 50, "C2": 20}


class Clicks(tfrs.Model):
    def __init__(self):
        super().__init__()
        features = {
            name: embedding.FeatureConfig(embedding.TableConfig(size, 8, name=name))
            for name, size in SIZES.items()
        }
        self.tables = tfrs.layers.embedding.TPUEmbedding(features, optimizer=None)
        self.perceptron = keras.Sequential(
            [
                keras.layers.Dense(64, activation="relu", name="hidden_1"),
                keras.layers.Dense(64, activation="relu", name="hidden_2"),
                keras.layers.Dense(1, name="logits"),
            ]
        )
        loss = keras.losses.BinaryCrossentropy(from_logits=True)
        self.task = tfrs.tasks.Ranking(loss=loss)

    def call(self, features):
        vectors = self.tables(features)
        return self.perceptron(tf.concat([vectors["C1"], vectors["C2"]], axis=1))

    def compute_loss(self, inputs, training=False):
        features, labels = inputs
        return self.task(labels, self(features))


def test_it_is_trained_with_a_pruned_perceptron_and_exported(tmp_path):
    rows = np.arange(64, dtype="int32")
    features = {name: tf.constant(rows % size) for name, size in SIZES.items()}
    labels = (rows[:, None] % 2).astype("float32")
    model = Clicks()
    model(features)
    tables = [t.numpy() for t in model.tables.embedding_tables.values()]
    schedule = sa.SequentialAttentionSchedule(0.75, end_step=24)
    pruned = sa.prune(model, schedule, block_size=(4, 4))
    assert pruned is model
    assert [w.layer.name for w in sa.pruned_layers(pruned)] == ["hidden_2"]
    pruned.compile(keras.optimizers.Adam(1e-2))
    data = tf.data.Dataset.from_tensors((features, labels)).repeat(30)
    history = pruned.fit(data, verbose=0, callbacks=[sa.UpdatePruningStep()]).history
    assert history["loss"][-1] < 0.3
    # Without a TPU the tables are variables of the model, and its optimizer's.
    after = [t.numpy() for t in model.tables.embedding_tables.values()]
    for one, other in zip(tables, after, strict=True):
        assert np.abs(other - one).max() > 0.05
    model = sa.strip_pruning(pruned)
    kernel = model.perceptron.get_layer("hidden_2").kernel.numpy()
    assert np.mean(kernel == 0) == pytest.approx(0.75, abs=0.01)
    with pytest.raises(ValueError, match="`keras.layers.Embedding` layers"):
        sa.prune_rows(model, 0.5, by="norm")
    expected = model(features).numpy()
    sa.export_saved_model(model, tmp_path / "served")
    served = tf.saved_model.load(tmp_path / "served").signatures["serving_default"]
    (answer,) = served(**features).values()
    np.testing.assert_allclose(answer, expected, rtol=1e-4, atol=1e-4)


def test_the_optimizer_of_keras_must_be_a_legacy_one():
    """The tables' own, which a TPU uses; the guide says so."""
    features = {"C1": embedding.FeatureConfig(embedding.TableConfig(5, 8))}
    layer = tfrs.layers.embedding.TPUEmbedding
    layer(features, keras.optimizers.legacy.Adagrad(0.1))
    with pytest.raises(ValueError, match="legacy"):
        layer(features, keras.optimizers.Adagrad(0.1))
