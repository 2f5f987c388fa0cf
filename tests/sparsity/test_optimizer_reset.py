"""A reset optimizer is as a new one, but for its learning-rate schedule."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

import tf_seqattn as sa
from tf_seqattn.sparsity import optimizer_reset

new, legacy = keras.optimizers, keras.optimizers.legacy
OPTIMIZERS = {
    "SGD": lambda lr: new.SGD(lr),
    "SGD momentum": lambda lr: new.SGD(lr, momentum=0.9, nesterov=True),
    "RMSprop": lambda lr: new.RMSprop(lr, momentum=0.5, centered=True),
    "Adam": lambda lr: new.Adam(lr),
    "AMSGrad": lambda lr: new.Adam(lr, amsgrad=True),
    "AdamW": lambda lr: new.AdamW(lr, weight_decay=0.01),
    "Adamax": lambda lr: new.Adamax(lr),
    "Adagrad": lambda lr: new.Adagrad(lr),
    "Adadelta": lambda lr: new.Adadelta(lr),
    "Adafactor": lambda lr: new.Adafactor(lr),
    "Ftrl": lambda lr: new.Ftrl(lr),
    "Nadam": lambda lr: new.Nadam(lr),
    "Lion": lambda lr: new.Lion(lr),
    "loss scale": lambda lr: keras.mixed_precision.LossScaleOptimizer(new.Adam(lr)),
    "legacy SGD": lambda lr: legacy.SGD(lr, momentum=0.9),
    "legacy RMSprop": lambda lr: legacy.RMSprop(lr, centered=True),
    "legacy Adam": lambda lr: legacy.Adam(lr, amsgrad=True),
    "legacy Adamax": lambda lr: legacy.Adamax(lr),
    "legacy Adagrad": lambda lr: legacy.Adagrad(lr),
    "legacy Adadelta": lambda lr: legacy.Adadelta(lr),
    "legacy Ftrl": lambda lr: legacy.Ftrl(lr),
    "legacy Nadam": lambda lr: legacy.Nadam(lr),
    "legacy loss scale": lambda lr: keras.mixed_precision.LossScaleOptimizer(
        legacy.Adam(lr)
    ),
}
# A legacy Nadam takes no schedule, as Keras says.
WITH_SCHEDULE = [name for name in OPTIMIZERS if name != "legacy Nadam"]
GRADIENT = np.linspace(-1, 1, 12).reshape(3, 4).astype("float32")


def decay():
    return new.schedules.ExponentialDecay(0.1, decay_steps=10, decay_rate=0.5)


def take_steps(optimizer, variables, steps):
    for _ in range(steps):
        optimizer.apply_gradients(
            [(tf.constant(GRADIENT[: v.shape[0]]), v) for v in variables]
        )


def slots(optimizer):
    return optimizer_reset._slots(getattr(optimizer, "inner_optimizer", optimizer))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_reset_optimizer_takes_the_steps_of_a_new_one(name):
    variables = [tf.Variable(tf.ones((3, 4))), tf.Variable(tf.ones((2, 4)))]
    used, fresh = OPTIMIZERS[name](0.05), OPTIMIZERS[name](0.05)
    optimizer_reset.prepare(used)
    take_steps(used, variables, 5)
    optimizer_reset.reset(used, optimizer_reset.initial_slots(used, variables))
    copies = [tf.Variable(v) for v in variables]
    take_steps(used, variables, 3)
    take_steps(fresh, copies, 3)
    assert int(used.iterations) == int(fresh.iterations) == 3
    for a, b in zip(variables, copies, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
    assert len(slots(used)) == len(slots(fresh))
    for a, b in zip(slots(used), slots(fresh), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


@pytest.mark.parametrize("name", WITH_SCHEDULE)
def test_learning_rate_schedule_goes_on(name):
    variable = tf.Variable(tf.ones((3, 4)))
    optimizer = OPTIMIZERS[name](decay())
    optimizer_reset.prepare(optimizer)
    take_steps(optimizer, [variable], 5)
    initial = optimizer_reset.initial_slots(optimizer, [variable])
    optimizer_reset.reset(optimizer, initial)
    take_steps(optimizer, [variable], 2)
    optimizer_reset.prepare(optimizer)
    optimizer_reset.reset(optimizer, initial)
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    schedule = optimizer_reset._learning_rate(inner)
    assert int(schedule.offset) == 7
    assert float(schedule(inner.iterations)) == pytest.approx(float(decay()(7)))
    # What a step really uses, where it moves a weight by the rate itself.
    if name == "SGD":
        before = variable.numpy()
        take_steps(optimizer, [variable], 1)
        moved = before - variable.numpy()
        np.testing.assert_allclose(moved, GRADIENT * float(decay()(7)), rtol=1e-4)


def test_initial_slots_are_not_always_zero():
    variable = tf.Variable(tf.ones((3, 4)))
    optimizer = new.Adagrad(0.1, initial_accumulator_value=0.25)
    take_steps(optimizer, [variable], 2)
    ((slot, value),) = optimizer_reset.initial_slots(optimizer, [variable])
    assert value == pytest.approx(0.25) and np.all(slot.numpy() >= 0.25)


def test_loss_scale_is_kept():
    optimizer = keras.mixed_precision.LossScaleOptimizer(new.Adam(0.1))
    variable = tf.Variable(tf.ones((3, 4)))
    optimizer_reset.prepare(optimizer)
    take_steps(optimizer, [variable], 2)
    counter = int(optimizer.dynamic_counter)
    scale = float(optimizer.loss_scale)
    optimizer_reset.reset(
        optimizer, optimizer_reset.initial_slots(optimizer, [variable])
    )
    assert int(optimizer.dynamic_counter) == counter == 2
    assert float(optimizer.loss_scale) == scale


def test_moving_average_of_the_weights_is_kept():
    optimizer = new.SGD(0.1, momentum=0.9, use_ema=True, ema_momentum=0.5)
    variable = tf.Variable(tf.ones((3, 4)))
    optimizer_reset.prepare(optimizer)
    take_steps(optimizer, [variable], 3)
    average = optimizer._model_variables_moving_average[0].numpy()
    optimizer_reset.reset(
        optimizer, optimizer_reset.initial_slots(optimizer, [variable])
    )
    np.testing.assert_array_equal(
        optimizer._model_variables_moving_average[0].numpy(), average
    )
    assert np.all(optimizer.momentums[0].numpy() == 0)


def test_a_schedule_without_configuration():
    class Warmup(new.schedules.LearningRateSchedule):
        def __call__(self, step):
            return 0.01 * tf.cast(step + 1, tf.float32)

    optimizer = new.Adam(Warmup())
    variable = tf.Variable(tf.ones((3, 4)))
    optimizer_reset.prepare(optimizer)
    take_steps(optimizer, [variable], 4)
    optimizer_reset.reset(
        optimizer, optimizer_reset.initial_slots(optimizer, [variable])
    )
    assert float(optimizer._learning_rate(0)) == pytest.approx(0.05)


def test_legacy_decay_is_refused_with_a_remedy():
    with pytest.raises(ValueError, match="decay=0.1.*InverseTimeDecay"):
        optimizer_reset.prepare(legacy.SGD(0.1, decay=0.1))


def test_an_optimizer_of_other_variables_is_refused():
    optimizer = new.Adam(0.1)
    take_steps(optimizer, [tf.Variable(tf.ones((3, 4)))], 1)
    with pytest.raises(ValueError, match="reset_optimizer=False"):
        optimizer_reset.initial_slots(optimizer, [tf.Variable(tf.ones((3, 4)))])


@pytest.mark.parametrize("reset", [True, False])
def test_in_fit(reset):
    schedule = sa.SequentialAttentionSchedule(0.5, 20, cycles=1)
    model = keras.Sequential([keras.layers.Dense(8, input_shape=(8,))])
    pruned = sa.prune(model, schedule, (2, 2), pruning_policy=sa.PruningPolicy())
    pruned.compile(new.Adam(decay()), "mse")
    x = np.random.rand(80, 8).astype("float32")
    callback = sa.UpdatePruningStep(reset_optimizer=reset)
    pruned.fit(x, x, batch_size=4, verbose=0, callbacks=[callback])
    steps = 20 - 17 + 1 if reset else 20
    assert schedule.next_phase_change(16) == 17
    assert int(pruned.optimizer.iterations) == steps
    # Keras stores the rate that the last step, the 20th, used.
    assert float(pruned.optimizer.learning_rate) == pytest.approx(float(decay()(19)))
