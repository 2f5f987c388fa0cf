"""A reset optimizer is like a new one, except for its learning-rate schedule."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras

import tf_seqattn as sa
from tf_seqattn.sparsity import optimizer_reset

# Every test runs on Keras 2 and on Keras 3.
pytestmark = pytest.mark.usefixtures("keras")
legacy = keras.optimizers.legacy
OPTIMIZERS = {
    "SGD": lambda lr: keras.optimizers.SGD(lr),
    "SGD momentum": lambda lr: keras.optimizers.SGD(lr, momentum=0.9, nesterov=True),
    "RMSprop": lambda lr: keras.optimizers.RMSprop(lr, momentum=0.5, centered=True),
    "Adam": lambda lr: keras.optimizers.Adam(lr),
    "AMSGrad": lambda lr: keras.optimizers.Adam(lr, amsgrad=True),
    "AdamW": lambda lr: keras.optimizers.AdamW(lr, weight_decay=0.01),
    "Adamax": lambda lr: keras.optimizers.Adamax(lr),
    "Adagrad": lambda lr: keras.optimizers.Adagrad(lr),
    "Adadelta": lambda lr: keras.optimizers.Adadelta(lr),
    "Adafactor": lambda lr: keras.optimizers.Adafactor(lr),
    "Ftrl": lambda lr: keras.optimizers.Ftrl(lr),
    "Nadam": lambda lr: keras.optimizers.Nadam(lr),
    "Lion": lambda lr: keras.optimizers.Lion(lr),
    "loss scale": lambda lr: loss_scale(keras.optimizers.Adam(lr)),
    "legacy SGD": lambda lr: legacy.SGD(lr, momentum=0.9),
    "legacy RMSprop": lambda lr: legacy.RMSprop(lr, centered=True),
    "legacy Adam": lambda lr: legacy.Adam(lr, amsgrad=True),
    "legacy Adamax": lambda lr: legacy.Adamax(lr),
    "legacy Adagrad": lambda lr: legacy.Adagrad(lr),
    "legacy Adadelta": lambda lr: legacy.Adadelta(lr),
    "legacy Ftrl": lambda lr: legacy.Ftrl(lr),
    "legacy Nadam": lambda lr: legacy.Nadam(lr),
    "legacy loss scale": lambda lr: loss_scale(legacy.Adam(lr)),
}
# Keras allows no schedule for a legacy Nadam.
WITH_SCHEDULE = [name for name in OPTIMIZERS if name != "legacy Nadam"]
# Only Keras 3 has these, or Keras 2 has them in another way.
KERAS3_OPTIMIZERS = {
    "Lamb": lambda lr: keras.optimizers.Lamb(lr),
    "accumulation": lambda lr: keras.optimizers.Adam(lr, gradient_accumulation_steps=2),
}
GRADIENT = np.linspace(-1, 1, 12).reshape(3, 4).astype("float32")


def loss_scale(optimizer):
    in_keras2 = getattr(keras.mixed_precision, "LossScaleOptimizer", None)
    return (in_keras2 or keras.optimizers.LossScaleOptimizer)(optimizer)


def variable_of(value):
    return tf.Variable(value) if keras.__name__ == "tf_keras" else keras.Variable(value)


def make(name, rate):
    """The optimizer of that name, if the Keras under test has it."""
    if keras.__name__ == "tf_keras" and name in KERAS3_OPTIMIZERS:
        pytest.skip("only Keras 3 has it")
    if keras.__name__ == "keras" and name.startswith("legacy"):
        pytest.skip("only Keras 2 has it")
    return {**OPTIMIZERS, **KERAS3_OPTIMIZERS}[name](rate)


def decay():
    return keras.optimizers.schedules.ExponentialDecay(
        0.1, decay_steps=10, decay_rate=0.5
    )


def take_steps(optimizer, variables, steps):
    for _ in range(steps):
        optimizer.apply_gradients(
            [(tf.constant(GRADIENT[: v.shape[0]]), v) for v in variables]
        )


def slots(optimizer):
    return optimizer_reset._slots(getattr(optimizer, "inner_optimizer", optimizer))


@pytest.mark.parametrize("name", [*OPTIMIZERS, *KERAS3_OPTIMIZERS])
@pytest.mark.exhaustive
def test_reset_optimizer_takes_the_steps_of_a_new_one(name):
    variables = [
        variable_of(np.ones((3, 4), "float32")),
        variable_of(np.ones((2, 4), "float32")),
    ]
    used, fresh = make(name, 0.05), make(name, 0.05)
    optimizer_reset.prepare(used)
    take_steps(used, variables, 5)
    optimizer_reset.reset(used, optimizer_reset.initial_slots(used, variables))
    copies = [variable_of(v.numpy()) for v in variables]
    take_steps(used, variables, 3)
    take_steps(fresh, copies, 3)
    taken = optimizer_reset.steps_taken
    assert taken(used) == taken(fresh) == 3
    for a, b in zip(variables, copies, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)
    assert len(slots(used)) == len(slots(fresh))
    for a, b in zip(slots(used), slots(fresh), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


@pytest.mark.parametrize("name", WITH_SCHEDULE)
@pytest.mark.exhaustive
def test_learning_rate_schedule_goes_on(name):
    variable = variable_of(np.ones((3, 4), "float32"))
    optimizer = make(name, decay())
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
    assert float(schedule(tf.convert_to_tensor(inner.iterations))) == pytest.approx(
        float(decay()(7))
    )
    # The rate that a step really uses, seen by a weight that moves by the rate itself.
    if name == "SGD":
        before = variable.numpy()
        take_steps(optimizer, [variable], 1)
        moved = before - variable.numpy()
        np.testing.assert_allclose(moved, GRADIENT * float(decay()(7)), rtol=1e-4)


def test_initial_slots_are_not_always_zero():
    variable = variable_of(np.ones((3, 4), "float32"))
    optimizer = keras.optimizers.Adagrad(0.1, initial_accumulator_value=0.25)
    take_steps(optimizer, [variable], 2)
    ((slot, value),) = optimizer_reset.initial_slots(optimizer, [variable])
    assert value == pytest.approx(0.25) and np.all(slot.numpy() >= 0.25)


def test_loss_scale_is_kept(keras):
    optimizer = loss_scale(keras.optimizers.Adam(0.1))
    variable = variable_of(np.ones((3, 4), "float32"))
    optimizer_reset.prepare(optimizer)
    take_steps(optimizer, [variable], 2)
    names = {
        "tf_keras": ("dynamic_counter", "loss_scale"),
        "keras": ("step_counter", "dynamic_scale"),
    }[keras.__name__]
    kept = [float(tf.convert_to_tensor(getattr(optimizer, name))) for name in names]
    optimizer_reset.reset(
        optimizer, optimizer_reset.initial_slots(optimizer, [variable])
    )
    assert kept[0] == 2
    for name, value in zip(names, kept, strict=True):
        assert float(tf.convert_to_tensor(getattr(optimizer, name))) == value


def test_moving_average_of_the_weights_is_kept():
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9, use_ema=True, ema_momentum=0.5)
    variable = variable_of(np.ones((3, 4), "float32"))
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
    class Warmup(keras.optimizers.schedules.LearningRateSchedule):
        def __call__(self, step):
            return 0.01 * tf.cast(step + 1, tf.float32)

    optimizer = keras.optimizers.Adam(Warmup())
    variable = variable_of(np.ones((3, 4), "float32"))
    optimizer_reset.prepare(optimizer)
    take_steps(optimizer, [variable], 4)
    optimizer_reset.reset(
        optimizer, optimizer_reset.initial_slots(optimizer, [variable])
    )
    assert float(optimizer._learning_rate(0)) == pytest.approx(0.05)


def test_a_gradient_half_accumulated_belongs_to_the_phase_before(keras):
    if keras.__name__ == "tf_keras":
        pytest.skip("Keras 2 accumulates no gradients")
    variable = variable_of(np.ones((3, 4), "float32"))
    optimizer = keras.optimizers.SGD(0.1, gradient_accumulation_steps=2)
    optimizer_reset.prepare(optimizer)
    take_steps(optimizer, [variable], 3)
    slots = optimizer_reset.initial_slots(optimizer, [variable])
    optimizer_reset.reset(optimizer, slots)
    before = variable.numpy()
    take_steps(optimizer, [variable], 1)
    np.testing.assert_array_equal(variable.numpy(), before)
    take_steps(optimizer, [variable], 1)
    np.testing.assert_allclose(variable.numpy(), before - 0.1 * GRADIENT, rtol=1e-6)


def test_legacy_decay_is_refused_with_a_remedy():
    with pytest.raises(ValueError, match="decay=0.1.*InverseTimeDecay"):
        optimizer_reset.prepare(legacy.SGD(0.1, decay=0.1))


def test_an_optimizer_of_other_variables_is_refused():
    optimizer = keras.optimizers.Adam(0.1)
    take_steps(optimizer, [variable_of(np.ones((3, 4), "float32"))], 1)
    with pytest.raises(ValueError, match="reset_optimizer=False"):
        optimizer_reset.initial_slots(
            optimizer, [variable_of(np.ones((3, 4), "float32"))]
        )


@pytest.mark.parametrize("reset", [True, False])
def test_in_fit(reset):
    schedule = sa.SequentialAttentionSchedule(0.5, 20, cycles=1)
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(8)])
    pruned = sa.prune(model, schedule, (2, 2), pruning_policy=sa.PruningPolicy())
    pruned.compile(keras.optimizers.Adam(decay()), "mse")
    x = np.random.rand(80, 8).astype("float32")
    callback = sa.UpdatePruningStep(reset_optimizer=reset)
    pruned.fit(x, x, batch_size=4, verbose=0, callbacks=[callback])
    steps = 20 - 17 + 1 if reset else 20
    assert schedule.next_phase_change(16) == 17
    assert int(pruned.optimizer.iterations) == steps
    # Keras stores the rate that the last step, the 20th, used; Keras 3 gives the next.
    last = 19 if keras.__name__ == "tf_keras" else 20
    rate = float(pruned.optimizer.learning_rate)
    assert rate == pytest.approx(float(decay()(last)))
