"""A sparsity for each layer: by hand, uniform, by Erdos-Renyi-kernel, by magnitude."""

import math

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras as keras

import tf_seqattn as sa

layers = keras.layers
BLOCK = (4, 4)
ALLOCATIONS = {
    "uniform": sa.uniform_allocation,
    "ERK": sa.erdos_renyi_allocation,
    "global": sa.global_allocation,
}
ONE_SHOT = sa.OneShotSchedule(0.5, prune_step=0)


def convolutional():
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(32, 3, name="stem"),
            layers.Conv2D(48, 3, name="middle"),
            layers.Flatten(),
            layers.Dense(61, name="wide"),
            layers.Dense(33, name="head"),
        ]
    )


def attention():
    inputs = keras.Input((6, 48))
    x = layers.MultiHeadAttention(4, 12, name="attention")(inputs, inputs)
    x = layers.Bidirectional(layers.LSTM(24, return_sequences=True), name="lstm")(x)
    return keras.Model(inputs, layers.Dense(48, name="dense")(x))


class Block(layers.Layer):
    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(64, name="same")

    def call(self, inputs):
        return self.dense(inputs)


def namesakes():
    """Two layers of the same name, each inside its own subclassed layer."""
    return keras.Sequential([keras.Input((64,)), Block(), Block()])


MODELS = {
    "convolutional": convolutional,
    "attention": attention,
    "namesakes": namesakes,
}


def pruned_at_once(model, allocation):
    return sa.prune(
        model, ONE_SHOT, BLOCK, importance=sa.Magnitude(), sparsity=allocation
    )


@pytest.mark.parametrize("sparsity", [0.5, 0.9])
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("allocation", ALLOCATIONS)
def test_overall_sparsity_is_met_to_a_block_a_kernel(allocation, model, sparsity):
    whole = sa.prune(MODELS[model](), ONE_SHOT, BLOCK)
    wrappers = sa.pruned_layers(whole)
    kernels = [kernel for w in wrappers for kernel in w.pruned_kernels]
    total = sum(math.prod(kernel.grid.kernel_shape) for kernel in kernels)
    model = MODELS[model]()
    targets = ALLOCATIONS[allocation](model, sparsity, BLOCK)
    pruned = pruned_at_once(model, targets)
    removed = sum(
        float(np.mean(k.mask.numpy() == 0)) * math.prod(k.grid.kernel_shape)
        for layer in sa.pruned_layers(pruned)
        for k in layer.pruned_kernels
    )
    assert abs(removed - sparsity * total) <= len(kernels) * math.prod(BLOCK)


def test_uniform_is_what_prune_does_by_itself():
    model = convolutional()
    assert set(sa.uniform_allocation(model, 0.8, BLOCK).values()) == {0.8}
    # The stem has 3 inputs, so it is too small.
    assert "stem" not in sa.uniform_allocation(model, 0.8, BLOCK)


def test_erk_densities_are_in_proportion_to_neurons_over_entries():
    allocation = sa.erdos_renyi_allocation(convolutional(), 0.9, BLOCK)
    density = {name: 1 - s for name, s in allocation.items()}
    middle = (3 + 3 + 32 + 48) / (3 * 3 * 32 * 48)
    wide = (768 + 61) / (768 * 61)
    assert density["middle"] / density["wide"] == pytest.approx(middle / wide)


def test_erk_leaves_a_layer_dense_that_would_keep_more_than_everything():
    model = keras.Sequential(
        [layers.Dense(40, input_shape=(800,), name="a"), layers.Dense(40, name="b")]
    )
    allocation = sa.erdos_renyi_allocation(model, 0.2, BLOCK)
    assert allocation["b"] == 0
    assert allocation["a"] * 800 * 40 == pytest.approx(0.2 * 840 * 40)
    pruned = pruned_at_once(model, allocation)
    assert [w.layer.name for w in sa.pruned_layers(pruned)] == ["a"]


def test_global_ranks_the_blocks_of_all_layers_together():
    model = keras.Sequential(
        [layers.Dense(40, input_shape=(40,), name="a"), layers.Dense(40, name="b")]
    )
    # In each layer 50 strong blocks; those of "a" are stronger than all of "b".
    strengths = {"a": (5.0, 4.0), "b": (3.0, 1.0)}
    for layer in model.layers:
        strong, weak = strengths[layer.name]
        blocks = np.where(np.arange(100).reshape(10, 10) < 50, strong, weak)
        layer.kernel.assign(np.kron(blocks, np.ones(BLOCK)))
    allocation = sa.global_allocation(model, 0.25, BLOCK)
    assert allocation == pytest.approx({"a": 0.0, "b": 0.5})
    # Every layer keeps a block.
    allocation = sa.global_allocation(model, 0.9, BLOCK)
    assert allocation == pytest.approx({"a": 1 - 19 / 100, "b": 1 - 1 / 100})


def test_summary_shows_what_each_layer_was_asked_and_reached():
    pruned = pruned_at_once(convolutional(), {"middle": 0.75, "head": 0.0})
    lines: list[str] = []
    rows = {r["layer"]: r for r in sa.summary(pruned, print_fn=lines.append)}
    assert rows["middle/kernel"]["requested_sparsity"] == 0.75
    assert rows["middle/kernel"]["block_sparsity"] == pytest.approx(0.75, abs=1e-3)
    assert rows["wide/kernel"]["requested_sparsity"] == 0.5
    assert rows["head/kernel"]["left_alone"]
    assert lines[-1].startswith("2 kernels of 60,672 weights are pruned: 55.7% req")
    assert "75.0%" in next(line for line in lines if line.startswith("middle"))


@pytest.mark.parametrize(
    ("schedule", "field"),
    [
        (sa.SequentialAttentionSchedule(0.5, 100, cycles=3), "target_sparsity"),
        (sa.ACDCSchedule(0.5, 100), "target_sparsity"),
        (tfmot.sparsity.keras.ConstantSparsity(0.5, 3), "target_sparsity"),
        (
            tfmot.sparsity.keras.PolynomialDecay(0.1, 0.5, 2, 40, frequency=7),
            "final_sparsity",
        ),
    ],
)
def test_only_the_target_of_a_schedule_changes(schedule, field):
    pruned = sa.prune(convolutional(), schedule, BLOCK, sparsity={"wide": 0.7})
    found = {w.layer.name: w.pruning_schedule for w in sa.pruned_layers(pruned)}
    assert found["middle"] is schedule
    expected = schedule.get_config()
    expected["config"][field] = 0.7
    assert found["wide"].get_config() == expected


def test_a_layer_or_a_list_takes_a_mapping_too():
    layer = layers.Dense(8, name="small")
    layer.build((None, 8))
    wrapper = sa.prune(layer, ONE_SHOT, BLOCK, sparsity={"small": 0.75})
    assert wrapper.pruning_schedule.target_sparsity == 0.75
    listed = [layers.Dense(8, name="one"), layers.Dense(8, name="two")]
    pruned = sa.prune(listed, ONE_SHOT, BLOCK, sparsity={"two": 0.75})
    assert [w.pruning_schedule.target_sparsity for w in pruned] == [0.5, 0.75]


def test_training_reaches_each_target():
    model = keras.Sequential(
        [layers.Dense(40, input_shape=(40,), name="a"), layers.Dense(40, name="b")]
    )
    schedule = sa.SequentialAttentionSchedule(0.5, 12, cycles=2)
    pruned = sa.prune(model, schedule, BLOCK, sparsity={"a": 0.9})
    pruned.compile("adam", "mse")
    x = np.random.rand(13 * 2, 40).astype("float32")
    pruned.fit(x, x, batch_size=2, verbose=0, callbacks=[sa.UpdatePruningStep()])
    kept = {w.layer.name: int(tf.reduce_sum(w.masks[0])) for w in pruned.layers}
    assert kept == {"a": 10, "b": 50}


class NoTarget(sa.PruningSchedule):
    def phase(self, step):
        return sa.Phase.DENSE

    def __call__(self, step):
        return False, tf.constant(0.0)

    def get_config(self):
        return {"class_name": "NoTarget", "config": {"rate": 1}}


def test_errors_name_the_argument_the_value_and_the_remedy():
    def prune(sparsity, schedule=ONE_SHOT):
        return sa.prune(convolutional(), schedule, BLOCK, sparsity=sparsity)

    with pytest.raises(
        ValueError, match=r"'midle' is not a layer; the model has 'middle'"
    ):
        prune({"midle": 0.5})
    with pytest.raises(ValueError, match=r"'stem' is left alone: .*fewer than 100"):
        prune({"stem": 0.5})
    lstm = layers.LSTM(8, name="lstm")
    with pytest.raises(ValueError, match="is left alone: it is a part"):
        sa.prune(lstm, ONE_SHOT, BLOCK, sparsity={lstm.cell.name: 0.5})
    with pytest.raises(ValueError, match=r"sparsity\['wide'\]=1.0"):
        prune({"wide": 1.0})
    with pytest.raises(ValueError, match="give it to the schedule.*sparsity=0.9"):
        prune(0.9)
    with pytest.raises(ValueError, match=r"NoTarget has none.*\['rate'\]"):
        prune({"wide": 0.5}, NoTarget())
    with pytest.raises(ValueError, match=r"`sparsity` must be in \[0, 1\)"):
        sa.uniform_allocation(convolutional(), 1.5, BLOCK)
    with pytest.raises(ValueError, match="has no layer to prune by blocks of"):
        sa.erdos_renyi_allocation(convolutional(), 0.5, (64, 64))
    with pytest.raises(ValueError, match="is not built"):
        sa.global_allocation(keras.Sequential([layers.Dense(4, name="d")]), 0.5, BLOCK)
