"""A model that we stripped can be quantized and clustered by tfmot."""

import numpy as np
import pytest
import tensorflow_model_optimization as tfmot
import tf_keras as keras
from tensorflow_model_optimization.python.core.clustering.keras.experimental import (
    cluster,
)

import tf_seqattn as sa

quantization = tfmot.quantization.keras
clustering = tfmot.clustering.keras

BLOCK = (4, 4)


@pytest.fixture
def batch():
    generator = np.random.default_rng(0)
    images = generator.normal(size=(64, 16)).astype(np.float32)
    return images, generator.integers(0, 4, 64)


@pytest.fixture
def stripped(batch):
    """A classifier whose hidden kernel has 24 of 32 blocks zero."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((16,)),
            keras.layers.Dense(32, activation="relu", name="hidden"),
            keras.layers.Dense(4, name="logits"),
        ]
    )
    hidden = model.get_layer("hidden")
    pruned = sa.prune(
        model,
        pruning_schedule=sa.SequentialAttentionSchedule(0.75, end_step=20, cycles=2),
        block_size=BLOCK,
        pruning_policy=_Only(hidden.name),
    )
    train(pruned, batch, epochs=20, callbacks=[sa.UpdatePruningStep()])
    return sa.strip_pruning(pruned)


class _Only(sa.PruningPolicy):
    """Prunes only the layer of one name."""

    def __init__(self, name):
        self.name = name

    def allow_pruning(self, layer):
        return layer.name == self.name


def train(model, batch, epochs=5, callbacks=()):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss)
    # One batch for each epoch.
    model.fit(*batch, batch_size=64, epochs=epochs, verbose=0, callbacks=[*callbacks])


def hidden_kernel(model):
    """The (16, 32) kernel of a model, however its layer is wrapped."""
    [kernel] = [w for w in model.trainable_weights if w.shape == (16, 32)]
    return kernel.numpy()


def test_stripped_kernel_has_the_zero_blocks(stripped):
    blocks = hidden_kernel(stripped).reshape(4, 4, 8, 4)
    assert np.sum(~blocks.any(axis=(1, 3))) == 24


def quantization_aware(model, scheme):
    annotated = quantization.quantize_annotate_model(model)
    return quantization.quantize_apply(annotated, scheme)


def test_prune_preserving_quantization_keeps_the_zeros(stripped, batch):
    before = hidden_kernel(stripped)
    scheme = tfmot.experimental.combine.Default8BitPrunePreserveQuantizeScheme()
    quantized = quantization_aware(stripped, scheme)
    train(quantized, batch)
    after = hidden_kernel(quantized)
    assert np.all(after[before == 0] == 0)
    assert np.all(after[before != 0] != before[before != 0])


def test_ordinary_quantization_loses_them(stripped, batch):
    """What the test above guards against does happen without the scheme."""
    before = hidden_kernel(stripped)
    scheme = quantization.default_8bit.Default8BitQuantizeScheme()
    quantized = quantization_aware(stripped, scheme)
    train(quantized, batch)
    assert np.any(hidden_kernel(quantized)[before == 0] != 0)


def test_sparsity_preserving_clustering_keeps_the_zeros(stripped, batch):
    before = hidden_kernel(stripped)
    clustered = cluster.cluster_weights(
        stripped,
        number_of_clusters=8,
        cluster_centroids_init=clustering.CentroidInitialization.KMEANS_PLUS_PLUS,
        preserve_sparsity=True,
    )
    train(clustered, batch)
    after = hidden_kernel(clustering.strip_clustering(clustered))
    assert np.all(after[before == 0] == 0)
    assert len(np.unique(after)) <= 8
