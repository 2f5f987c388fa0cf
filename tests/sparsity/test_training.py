"""UpdatePruningStep: steps, masks, phases, in fit and in a custom loop."""

import gc
import weakref

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

import tf_seqattn as sa
from tf_seqattn.keras_api import Callback, steps_per_execution

# Every test runs on Keras 2 and on Keras 3.
pytestmark = pytest.mark.usefixtures("keras")
STEPS = 40
SCHEDULE = sa.SequentialAttentionSchedule(0.75, STEPS, cycles=2)
RNG = np.random.default_rng(0)
X = RNG.normal(size=(STEPS * 4, 8)).astype("float32")
Y = (X @ RNG.normal(size=(8, 8))).astype("float32")


def data(batches=STEPS):
    return tf.data.Dataset.from_tensor_slices((X, Y)).batch(4).take(batches)


def pruned_model(schedule=SCHEDULE, importance=None, optimizer=None, **kwargs):
    layer_arguments = {
        name: kwargs.pop(name) for name in ("zero_pruned_weights",) if name in kwargs
    }
    model = keras.Sequential([keras.layers.Dense(8, input_shape=(8,))])
    pruned = sa.prune(
        model, schedule, (2, 2), importance, sa.PruningPolicy(), **layer_arguments
    )
    pruned.compile(optimizer or keras.optimizers.Adam(1e-2), "mse", **kwargs)
    return pruned


class Watch(Callback):
    """Notes step, mask and optimizer step after every execution."""

    def on_train_begin(self, logs=None):
        self.rows = getattr(self, "rows", [])

    def on_train_batch_end(self, batch, logs=None):
        layer = sa.pruned_layers(self.model)[0]
        mask = layer.masks[0].numpy()
        self.rows.append(
            (layer.steps_begun, mask, int(self.model.optimizer.iterations))
        )


def expected_mask_size(step):
    return max(1, round(16 * (1 - SCHEDULE.sparsity(step))))


def test_masks_follow_the_schedule_at_every_step():
    watch = Watch()
    pruned_model().fit(data(), verbose=0, callbacks=[watch, sa.UpdatePruningStep()])
    assert [step for step, _, _ in watch.rows] == list(range(1, STEPS + 1))
    for step, mask, _ in watch.rows:
        assert mask.sum() == expected_mask_size(step)


def test_optimizer_steps_start_again_with_every_phase():
    watch = Watch()
    pruned_model().fit(data(), verbose=0, callbacks=[sa.UpdatePruningStep(), watch])
    since = 0
    for step, _, iterations in watch.rows:
        since = 1 if step > 1 and changes_at(step) else since + 1
        assert iterations == since


def changes_at(step):
    return SCHEDULE.phase(step) != SCHEDULE.phase(step - 1)


@pytest.mark.exhaustive
@pytest.mark.parametrize("epoch", [40, 13])
@pytest.mark.parametrize("per_execution", [3, 7, 64])
def test_phases_begin_exactly_with_several_steps_per_execution(
    keras, per_execution, epoch
):
    model = pruned_model(steps_per_execution=per_execution)
    watch = Watch()
    model.fit(
        data().repeat(), steps_per_epoch=epoch, epochs=STEPS // epoch + 1, verbose=0,
        validation_data=data(2), callbacks=[sa.UpdatePruningStep(), watch],
    )  # fmt: skip
    ends = [step for step, _, _ in watch.rows]
    if keras.__name__ == "tf_keras":
        assert ends[-1] == epoch * (STEPS // epoch + 1)
        for change in filter(changes_at, range(1, STEPS + 1)):
            assert change - 1 in ends, "an execution crosses a phase change"
    else:
        # Keras 3 runs only whole executions, even past the end of an epoch.
        assert ends == list(range(per_execution, ends[-1] + 1, per_execution))
    for start, (end, mask, iterations) in zip([0, *ends], watch.rows, strict=False):
        assert end - start <= per_execution
        assert mask.sum() == expected_mask_size(end)
        begin = max([s for s in range(2, end + 1) if changes_at(s)], default=1)
        assert iterations == end - begin + 1
    assert steps_per_execution(model) == per_execution


@pytest.mark.parametrize("per_execution", [3, 64])
def test_steps_are_counted_where_the_data_end_within_an_execution(per_execution):
    model, watch = pruned_model(steps_per_execution=per_execution), Watch()
    callbacks = [sa.UpdatePruningStep(), watch]
    model.fit(data(20), epochs=2, verbose=0, callbacks=callbacks)
    assert watch.rows[-1][0] == 40
    assert watch.rows[-1][1].sum() == expected_mask_size(40)


@pytest.mark.filterwarnings("ignore::tf_seqattn.PruningWarning")
def test_several_fits_go_on_where_the_last_one_stopped():
    one, many = pruned_model(), pruned_model()
    many.set_weights(one.get_weights())
    one.fit(data(), verbose=0, callbacks=[sa.UpdatePruningStep()])
    for part in range(4):
        many.fit(
            data().skip(10 * part).take(10),
            verbose=0,
            callbacks=[sa.UpdatePruningStep()],
        )
    for a, b in zip(one.get_weights(), many.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_loop_of_ones_own_does_the_same():
    fitted, looped = pruned_model(), pruned_model()
    looped.set_weights(fitted.get_weights())
    fitted.fit(data(), verbose=0, callbacks=[sa.UpdatePruningStep()])

    optimizer = keras.optimizers.Adam(1e-2)

    @tf.function
    def train_step(x, y):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(looped(x, training=True) - y))
        variables = looped.trainable_variables
        optimizer.apply_gradients(
            zip(tape.gradient(loss, variables), variables, strict=True)
        )

    pruning = sa.UpdatePruningStep.for_loop(looped, optimizer)
    for x, y in data():
        pruning.step()
        train_step(x, y)
    for a, b in zip(fitted.get_weights(), looped.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_a_model_that_does_not_pass_training_on_is_pruned_all_the_same(keras):
    import os

    if keras.__name__ != "tf_keras":
        pytest.skip("TFRS uses Keras 2")

    os.environ["TF_USE_LEGACY_KERAS"] = "1"
    tfrs = pytest.importorskip("tensorflow_recommenders")

    class Ranker(tfrs.Model):
        def __init__(self):
            super().__init__()
            self.tower = pruned_model()
            self.task = tfrs.tasks.Ranking(loss=keras.losses.MeanSquaredError())

        def compute_loss(self, inputs, training=False):
            del training
            x, y = inputs
            return self.task(labels=y, predictions=self.tower(x))

    model = Ranker()
    model.compile(keras.optimizers.Adam(1e-2))
    with pytest.raises(RuntimeError, match="UpdatePruningStep"):
        model.fit(data(), verbose=0)
    model.fit(data(), verbose=0, callbacks=[sa.UpdatePruningStep()])
    assert float(tf.reduce_mean(sa.pruned_layers(model)[0].masks[0])) == 0.25


@pytest.mark.parametrize("options", [{"jit_compile": True}, {"run_eagerly": True}])
def test_compiled_and_eager_steps(options):
    watch = Watch()
    model = pruned_model(**options)
    model.fit(data(), verbose=0, callbacks=[sa.UpdatePruningStep(), watch])
    assert watch.rows[-1][1].sum() == 4


@pytest.mark.filterwarnings("ignore::tf_seqattn.PruningWarning")
def test_pruned_weights_keep_their_values_or_are_zeroed():
    # The first sparse step of ACDC. Without momentum, masked weights stay as they are.
    schedule = sa.ACDCSchedule(0.75, STEPS, cycles=2)
    for zero in (False, True):
        model = pruned_model(
            schedule, sa.Magnitude(), keras.optimizers.SGD(1e-2),
            zero_pruned_weights=zero,
        )  # fmt: skip
        layer = sa.pruned_layers(model)[0]
        change = int(schedule.next_phase_change(0))
        model.fit(data(change - 1), verbose=0, callbacks=[sa.UpdatePruningStep()])
        before = layer.layer.kernel.numpy()
        model.fit(
            data().skip(change - 1).take(3),
            verbose=0,
            callbacks=[sa.UpdatePruningStep()],
        )
        dead = np.kron(layer.masks[0].numpy(), np.ones((2, 2))) == 0
        assert dead.sum() == 48
        after = layer.layer.kernel.numpy()
        np.testing.assert_array_equal(after[dead], 0 if zero else before[dead])
        assert not np.allclose(after[~dead], before[~dead])


def test_frozen_layers():
    dense = keras.layers.Dense(8, input_shape=(8,), trainable=False)
    model = keras.Sequential([dense, keras.layers.Dense(8)])
    pruned = sa.prune(model, SCHEDULE, (2, 2), pruning_policy=sa.PruningPolicy())
    kernel = dense.kernel.numpy()
    pruned.compile("adam", "mse")
    pruned.fit(data(), verbose=0, callbacks=[sa.UpdatePruningStep()])
    np.testing.assert_array_equal(dense.kernel.numpy(), kernel)
    assert pruned.layers[0].trainable_weights == []


def test_penalty_of_the_attention_reaches_the_loss():
    importance = sa.SoftmaxAttention("identity", clip=None, l1=0.1)
    layer = sa.PrunableLayer(keras.layers.Dense(8), SCHEDULE, (2, 2), importance)
    layer(X)
    assert float(tf.add_n(layer.losses)) == pytest.approx(1.6)


@pytest.mark.parametrize("importance", [sa.Magnitude(), sa.SoftmaxAttention()])
def test_schedules_without_phases_reset_nothing(importance):
    from tensorflow_model_optimization.sparsity import keras as tfmot

    schedule = tfmot.PolynomialDecay(0.0, 0.75, begin_step=5, end_step=35, frequency=5)
    watch = Watch()
    model = pruned_model(schedule, importance)
    model.fit(data(), verbose=0, callbacks=[sa.UpdatePruningStep(), watch])
    for step, mask, iterations in watch.rows:
        due = min(step, 35) // 5 * 5
        sparsity = float(schedule(tf.constant(due))[1]) if due >= 5 else 0.0
        assert mask.sum() == max(1, round(16 * (1 - sparsity)))
        assert iterations == step


def test_callbacks_can_be_given_in_tfmots_way():
    """tfmot's documented loop calls the events by these names and arguments."""
    model = pruned_model()
    callback = sa.UpdatePruningStep()
    callback.set_model(model)
    callback.on_train_begin()
    for batch in range(3):
        callback.on_train_batch_begin(batch=batch)
    callback.on_epoch_end(batch=3)
    assert sa.pruned_layers(model)[0].steps_begun == 3


def test_a_trained_model_is_freed():
    def layers_of_a_training():
        model = pruned_model()
        model.fit(data(), verbose=0, callbacks=[sa.UpdatePruningStep()])
        return [weakref.ref(layer) for layer in sa.pruned_layers(model)]

    left = layers_of_a_training()
    keras.backend.clear_session()
    gc.collect()
    assert left and not any(layer() for layer in left)
