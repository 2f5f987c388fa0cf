"""Bad input gets an error that names it and the remedy, and nothing is lost."""

import keras as keras3
import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras
import tf_keras as keras2

import tf_seqattn as sa

# Every test runs on Keras 2 and on Keras 3.
pytestmark = pytest.mark.usefixtures("keras")
SCHEDULE = sa.SequentialAttentionSchedule(0.5, end_step=100, cycles=2)
X = np.ones((32, 16), "float32")


def dense_model():
    return keras.Sequential([keras.Input((16,)), keras.layers.Dense(16)])


def pruned_model(**compile_arguments):
    model = sa.prune(dense_model(), SCHEDULE, block_size=(1, 1))
    model.compile("sgd", "mse", **compile_arguments)
    return model


def tfmot_model():
    import tensorflow_model_optimization as tfmot

    plain = keras2.Sequential([keras2.layers.Dense(16, input_shape=(16,))])
    model = tfmot.sparsity.keras.prune_low_magnitude(plain)
    model.compile("sgd", "mse")
    return model


def subclassed():
    class Subclassed(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(16)

        def call(self, inputs):
            return self.dense(inputs)

    return Subclassed()


def unknown(name=None):
    class Unknown(keras.layers.Layer):
        def build(self, input_shape):
            self.table = self.add_weight(name="table", shape=(16, 16))

        def call(self, inputs):
            return tf.matmul(inputs, self.table)

    return Unknown(name=name)


CALLS = {
    "prune": lambda value: sa.prune(value, SCHEDULE),
    "prune a list": lambda value: sa.prune([value], SCHEDULE),
    "PrunableLayer": lambda value: sa.PrunableLayer(value, SCHEDULE),
    "strip_pruning": sa.strip_pruning,
    "summary": sa.summary,
    "for_loop": sa.UpdatePruningStep.for_loop,
}


def mixed_model():
    """A model that also holds a layer of the other Keras."""
    other = keras3 if keras.__name__ == "tf_keras" else keras2
    model = subclassed()
    model(X)
    model.__dict__["foreign"] = other.layers.Dense(4)
    return model


@pytest.mark.parametrize("call", CALLS)
def test_keras_2_and_3_in_one_model(call):
    with pytest.raises(ValueError, match="mixes Keras 2.*Build all of it with"):
        CALLS[call](mixed_model())


def test_keras_2_and_3_in_one_list_and_beside_an_optimizer(keras):
    with pytest.raises(ValueError, match="`to_prune` mixes Keras 2"):
        sa.prune([keras2.layers.Dense(4), keras3.layers.Dense(4)], SCHEDULE)
    other = keras3 if keras is keras2 else keras2
    model = sa.prune(dense_model(), SCHEDULE, (1, 1))
    with pytest.raises(ValueError, match="`optimizer` mixes Keras 2"):
        sa.UpdatePruningStep.for_loop(model, other.optimizers.Adam())


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    "value", [None, "dense", keras2.layers.Dense, keras3.layers.Dense]
)
def test_not_a_layer(call, value):
    with pytest.raises(ValueError, match="layer or model of Keras"):
        CALLS[call](value)


def test_unknown_layer_names_the_remedy():
    for call in (sa.prune, sa.PrunableLayer):
        with pytest.raises(ValueError, match="Unknown.*get_prunable_weights"):
            call(unknown(), SCHEDULE)


def test_unknown_layer_in_a_model_is_left_alone_with_a_reason():
    model = keras.Sequential(
        [keras.layers.Input((16,)), unknown(name="odd"), keras.layers.Dense(16)]
    )
    rows = sa.summary(sa.prune(model, SCHEDULE, (1, 1)), print_fn=lambda line: None)
    reasons = {row["layer"]: row["left_alone"] for row in rows}
    assert "get_prunable_weights" in reasons["odd"]


@pytest.mark.parametrize("block_size", [(0, 4), (2.5, 4), (4,), "ab", -1])
def test_bad_blocks(block_size):
    with pytest.raises(ValueError, match="block_size"):
        sa.prune(keras.layers.Dense(16), SCHEDULE, block_size)
    with pytest.raises(ValueError, match="block_size"):
        sa.prune(dense_model(), SCHEDULE, block_size)


def test_blocks_larger_than_the_kernel():
    layer = sa.prune(keras.layers.Dense(16, name="small"), SCHEDULE, (32, 8))
    with pytest.raises(ValueError, match=r"\(32, 8\).*small.*16 x 16"):
        layer(X)
    built = keras.layers.Dense(16)
    built.build((None, 16))
    with pytest.raises(ValueError, match="larger"):
        sa.PrunableLayer(built, SCHEDULE, (8, 17))


@pytest.mark.parametrize("schedule", [None, 0.5, "polynomial", lambda step: step])
def test_nonsense_schedule(schedule):
    with pytest.raises(ValueError, match="pruning_schedule"):
        sa.prune(keras.layers.Dense(16), schedule)


@pytest.mark.parametrize("importance", ["magnitude", sa.Magnitude, 3])
def test_nonsense_importance(importance):
    with pytest.raises(ValueError, match="importance"):
        sa.prune(keras.layers.Dense(16), SCHEDULE, importance=importance)


def test_an_already_pruned_model():
    model = pruned_model()
    before = model.get_weights()
    with pytest.raises(ValueError, match="pruned already.*strip_pruning"):
        sa.PrunableLayer(model.layers[0], SCHEDULE)
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_model_pruned_by_tfmot():
    model = tfmot_model()
    with pytest.raises(ValueError, match="tfmot"):
        sa.prune(model, SCHEDULE)
    with pytest.raises(ValueError, match="tfmot"):
        sa.strip_pruning(model)


def test_an_unbuilt_subclassed_model():
    model = subclassed()
    with pytest.raises(ValueError, match="not built.*dense.*batch"):
        sa.prune(model, SCHEDULE)
    model(X)
    assert sa.pruned_layers(sa.prune(model, SCHEDULE, (1, 1)))


def test_an_empty_log_dir():
    for log_dir in ("", None, 3):
        with pytest.raises(ValueError, match="log_dir"):
            sa.PruningSummaries(log_dir=log_dir)


@pytest.mark.filterwarnings("ignore::tf_seqattn.PruningWarning")
@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("run_eagerly", [False, True])
def test_a_forgotten_callback(jit_compile, run_eagerly):
    if jit_compile and run_eagerly:
        pytest.skip("Keras refuses the pair")
    model = pruned_model(jit_compile=jit_compile, run_eagerly=run_eagerly)
    before = model.layers[0].layer.kernel.numpy()
    with pytest.raises(RuntimeError, match=r"sa\.UpdatePruningStep\(\)"):
        model.fit(X, X, verbose=0)
    np.testing.assert_array_equal(model.layers[0].layer.kernel.numpy(), before)
    model.fit(X, X, verbose=0, callbacks=[sa.UpdatePruningStep()])
    assert model.layers[0].steps_begun == 1
    # A step that was traced with the callback must not run without it.
    with pytest.raises(RuntimeError, match=r"sa\.UpdatePruningStep\(\)"):
        model.fit(X, X, verbose=0)
    model.fit(X, X, verbose=0, callbacks=[sa.UpdatePruningStep()])
    assert model.layers[0].steps_begun == 2


def test_train_on_batch_names_the_two_lines():
    with pytest.raises(RuntimeError, match=r"for_loop\(model"):
        pruned_model().train_on_batch(X, X)


def test_callback_on_a_model_that_is_not_pruned(tmp_path):
    model = dense_model()
    model.compile("sgd", "mse")
    for callback in (sa.UpdatePruningStep(), sa.PruningSummaries(tmp_path)):
        with pytest.raises(ValueError, match="no pruned layer.*sa.prune"):
            model.fit(X, X, verbose=0, callbacks=[callback])


def test_callback_on_a_model_of_which_nothing_was_pruned(caplog):
    model = sa.prune(dense_model(), SCHEDULE, block_size=(16, 16))
    assert "Nothing is pruned" in caplog.text
    assert "1 blocks, fewer than 100" in caplog.text
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="block_size"):
        model.fit(X, X, verbose=0, callbacks=[sa.UpdatePruningStep()])


@pytest.mark.filterwarnings("ignore::tf_seqattn.PruningWarning")
def test_callback_on_an_unbuilt_model():
    layers = sa.prune([keras.layers.Dense(16)], SCHEDULE, (1, 1))
    model = keras.Sequential(layers)
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="not built.*model.build"):
        model.fit(X, X, verbose=0, callbacks=[sa.UpdatePruningStep()])
    model.build((None, 16))
    model.fit(X, X, verbose=0, callbacks=[sa.UpdatePruningStep()])


def test_our_callbacks_on_a_model_of_tfmot(tmp_path):
    for callback in (sa.UpdatePruningStep(), sa.PruningSummaries(tmp_path)):
        with pytest.raises(ValueError, match=r"tfmot\.sparsity\.keras"):
            tfmot_model().fit(X, X, verbose=0, callbacks=[callback])


def test_callbacks_of_tfmot_on_our_model(keras, tmp_path):
    from tensorflow_model_optimization.sparsity import keras as tfmot

    with pytest.raises(RuntimeError, match=r"sa\.UpdatePruningStep"):
        pruned_model().fit(X, X, verbose=0, callbacks=[tfmot.UpdatePruningStep()])
    if keras is keras3:
        return  # In which the other cannot even begin.
    summaries = tfmot.PruningSummaries(log_dir=str(tmp_path))
    with pytest.raises(ValueError, match=r"Use sa\.PruningSummaries"):
        pruned_model().fit(
            X, X, verbose=0, callbacks=[summaries, sa.UpdatePruningStep()]
        )


def test_steps_per_execution_must_be_a_number(keras):
    if keras is keras3:
        pytest.skip("Keras 3 takes numbers only")
    model = pruned_model(steps_per_execution="auto")
    with pytest.raises(ValueError, match="steps_per_execution.*number"):
        model.fit(X, X, verbose=0, callbacks=[sa.UpdatePruningStep()])


def test_a_loop_without_optimizer():
    model = sa.prune(dense_model(), SCHEDULE, (1, 1))
    with pytest.raises(ValueError, match="no optimizer.*reset_optimizer=False"):
        sa.UpdatePruningStep.for_loop(model)


def test_weights_that_the_layer_does_not_hold():
    class Loose(keras.layers.Dense):
        def get_prunable_weights(self):
            return [tf.Variable(tf.ones((16, 16)))]

    layer = Loose(16)
    layer.build((None, 16))
    with pytest.raises(ValueError, match="get_prunable_weights.*Loose"):
        sa.PrunableLayer(layer, SCHEDULE, (1, 1))


def test_a_model_leaves_alone_what_is_smaller_than_a_block():
    model = keras.Sequential(
        [
            keras.layers.Dense(400, input_shape=(160,), name="wide"),
            keras.layers.Dense(3, name="head"),
        ]
    )
    pruned = sa.prune(model, SCHEDULE, block_size=(4, 4))
    assert [w.layer.name for w in sa.pruned_layers(pruned)] == ["wide"]
    rows = {r["layer"]: r for r in sa.summary(pruned, print_fn=lambda line: None)}
    assert (
        "400 x 3 matrix has no room for a block of 4 x 4"
        in (rows["head/kernel"]["left_alone"])
    )
    # The same if the shapes are known only with the first batch.
    layers = [keras.layers.Dense(400, name="wide"), keras.layers.Dense(3, name="head")]
    late = keras.Sequential(sa.prune(layers, SCHEDULE, block_size=(4, 4)))
    late.build((None, 160))
    assert "no room" in late.layers[1].left_dense["kernel"]


@pytest.mark.parametrize("built", [True, False])
def test_lora_and_quantization_are_refused_with_a_remedy(keras, built):
    if keras is keras2:
        pytest.skip("Keras 2 has neither")
    with_lora = keras.layers.Dense(16, name="adapted")
    quantized = keras.layers.Dense(16, name="small")
    if built:
        for layer in (with_lora, quantized):
            layer.build((None, 16))
        with_lora.enable_lora(2)
        quantized.quantize("int8")
    else:
        with_lora = keras.layers.Dense(16, lora_rank=2, name="adapted")
        quantized = keras.layers.Dense(16, dtype="int8_from_float32", name="small")
    for layer, reason in ((with_lora, "LoRA.*rank 2"), (quantized, "quantized.*int8")):
        for call in (sa.prune, sa.PrunableLayer):
            with pytest.raises(ValueError, match=f"{layer.name}.*{reason}.*Prune and"):
                call(layer, SCHEDULE)
        model = keras.Sequential([keras.Input((16,)), layer])
        (row,) = sa.summary(sa.prune(model, SCHEDULE, (1, 1)), print_fn=str)
        assert "cannot be pruned" in row["left_alone"]


def test_a_pruned_layer_that_is_quantized_or_adapted_says_so(keras):
    if keras is keras2:
        pytest.skip("Keras 2 has neither")
    for change in (lambda d: d.enable_lora(2), lambda d: d.quantize("int8")):
        model = sa.prune(dense_model(), SCHEDULE, (1, 1))
        change(sa.pruned_layers(model)[0].layer)
        with pytest.raises(ValueError, match="dense.*cannot be pruned.*strip the"):
            model(X)
