"""Under tf.distribute, masks are equal on all replicas, the loss as on one."""

import subprocess
import sys

import pytest

SCRIPT = """
import sys
import importlib
import numpy as np, tensorflow as tf
import tf_seqattn as sa

replicas, per_execution = int(sys.argv[1]), int(sys.argv[2])
keras = importlib.import_module(sys.argv[3])
(cpu,) = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(
    cpu, [tf.config.LogicalDeviceConfiguration()] * replicas)
strategy = (
    tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(replicas)])
    if replicas > 1 else tf.distribute.get_strategy())
rng = np.random.default_rng(0)
x = rng.normal(size=(320, 8)).astype("float32")
y = (x @ rng.normal(size=(8, 8))).astype("float32")
keras.utils.set_random_seed(0)
schedule = {
    "one rise": sa.SequentialAttentionSchedule(0.75, 80),
    "cycles": sa.SequentialAttentionSchedule(0.75, 40, cycles=2),
}[sys.argv[4]]
with strategy.scope():
    model = keras.Sequential([keras.layers.Dense(8, input_shape=(8,))])
    model = sa.prune(model, schedule, (2, 2), pruning_policy=sa.PruningPolicy())
    model.compile(keras.optimizers.Adam(1e-2), "mse", steps_per_execution=per_execution)
history = model.fit(
    tf.data.Dataset.from_tensor_slices((x, y)).batch(8), epochs=2, verbose=0,
    callbacks=[sa.UpdatePruningStep()])
layer = sa.pruned_layers(model)[0]

def copies_of(variable):
    variable = variable.value if keras.__name__ == "keras" else variable
    copies = [v.numpy() for v in strategy.experimental_local_results(variable)]
    assert len(copies) == replicas
    for copy in copies:
        np.testing.assert_array_equal(copy, copies[0])
    return copies

copies = copies_of(layer.masks[0])
# It is divided by the gain of its learning rate wherever the mask changes.
copies_of(layer.pruned_kernels[0].kernel.variable)
assert sorted(set(copies[0].ravel())) == [0.0, 1.0]
stripped = sa.strip_pruning(model)
np.testing.assert_allclose(stripped(x), model(x), rtol=1e-4, atol=1e-5)
print("RESULT", copies[0].ravel().tolist(), history.history["loss"])
"""


def run(tmp_path, keras, replicas, per_execution, schedule):
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [
            sys.executable,
            script,
            str(replicas),
            str(per_execution),
            keras.__name__,
            schedule,
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    line = next(x for x in done.stdout.splitlines() if x.startswith("RESULT"))
    mask, losses = line[len("RESULT ") :].split("] [")
    return eval(mask + "]"), eval("[" + losses)


@pytest.mark.exhaustive
@pytest.mark.parametrize("schedule", ["one rise", "cycles"])
@pytest.mark.parametrize("per_execution", [1, 3])
def test_two_replicas_train_as_one(keras, tmp_path, per_execution, schedule):
    if keras.__name__ == "keras" and per_execution > 1:
        pytest.skip("Keras 3 cannot run them on replicas, even for a plain model")
    mask, losses = run(tmp_path, keras, 1, per_execution, schedule)
    mirrored_mask, mirrored_losses = run(tmp_path, keras, 2, per_execution, schedule)
    assert mask == mirrored_mask
    assert mirrored_losses == pytest.approx(losses, rel=1e-4)
    assert losses[-1] < losses[0]
