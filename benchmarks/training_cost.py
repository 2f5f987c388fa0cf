"""Cost of a training step: dense, with our wrapper, with tfmot's.

The three models train in turns, in rotating order, in one process, so that a change
of the machine's speed meets all of them; each round gives one ratio to the dense
model of that round. Both wrappers prune the same layer with the same blocks. Ours
follows the default schedule, which updates the mask two hundred times, and tfmot's its
own PolynomialDecay with an update every 100 steps: the defaults of both.

    python benchmarks/training_cost.py
"""

import argparse
import json
import os
import pathlib
import platform
import time

import numpy as np
import tensorflow as tf
import tf_keras as keras
from tensorflow_model_optimization.sparsity import keras as tfmot

import tf_seqattn as sa

RESULTS = pathlib.Path(__file__).parent / "results"
# Name: (input width, hidden widths, block, batch, steps a round).
CASES = {
    "small, 64-256-256-1": (64, (256, 256), (8, 8), 64, 200),
    "Criteo DNN, 390-400-400-400-1": (390, (400, 400, 400), (20, 20), 4096, 40),
    "2048 wide, 2048-2048-2048-1": (2048, (2048, 2048), (32, 32), 4096, 6),
}


def dense_model(inputs: int, widths, seed: int = 0) -> keras.Sequential:
    """An MLP with one logit."""
    keras.utils.set_random_seed(seed)
    model = keras.Sequential([keras.layers.Input((inputs,))])
    for width in widths:
        model.add(keras.layers.Dense(width, activation="relu"))
    model.add(keras.layers.Dense(1))
    return model


def with_first_layer(model, wrap):
    """The same model with `wrap` around its first layer."""
    first, *rest = model.layers
    inputs = keras.Input(model.input_shape[1:])
    outputs = wrap(first)(inputs)
    for layer in rest:
        outputs = layer(outputs)
    return keras.Model(inputs, outputs)


def arms(inputs: int, widths, block, steps: int) -> dict:
    """(model, callbacks) of the three cases, compiled."""
    ours = sa.SequentialAttentionSchedule(0.9, end_step=steps)
    theirs = tfmot.PolynomialDecay(0.0, 0.9, begin_step=1, end_step=steps)
    models = {
        "dense": (dense_model(inputs, widths), []),
        "tf_seqattn": (
            with_first_layer(
                dense_model(inputs, widths), lambda d: sa.prune(d, ours, block)
            ),
            [sa.UpdatePruningStep()],
        ),
        "tfmot": (
            with_first_layer(
                dense_model(inputs, widths),
                lambda d: tfmot.prune_low_magnitude(d, theirs, block_size=block),
            ),
            [tfmot.UpdatePruningStep()],
        ),
    }
    for model, _ in models.values():
        loss = keras.losses.BinaryCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(1e-3), loss)
    return models


class StepClock(keras.callbacks.Callback):
    """Times the steps of one `fit`, except the first, in which Keras sets things up."""

    def on_train_begin(self, logs=None):
        self.ends = []

    def on_train_batch_end(self, batch, logs=None):
        self.ends.append(time.perf_counter())

    def step_ms(self) -> float:
        """Median time of a step, including callbacks."""
        return 1e3 * float(np.median(np.diff(self.ends)))


def extra_bytes(model, dense) -> int:
    """Bytes of variables that a wrapped model has beyond the dense one."""
    size = sum(w.dtype.size * w.shape.num_elements() for w in model.weights)
    return size - sum(w.dtype.size * w.shape.num_elements() for w in dense.weights)


def measure(case, rounds: int) -> dict:
    """Milliseconds per step of each case and round, after one warm-up round."""
    inputs, widths, block, batch, steps = case
    rng = np.random.default_rng(0)
    x = rng.normal(size=(batch * steps, inputs)).astype("float32")
    y = (x[:, :20].sum(1) > 0).astype("float32")
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(batch).cache()
    models = arms(inputs, widths, block, steps * (rounds + 1))
    times: dict = {name: [] for name in models}
    for index in range(rounds + 1):
        order = list(models)
        for name in order[index % 3 :] + order[: index % 3]:
            model, callbacks = models[name]
            clock = StepClock()
            model.fit(data, verbose=0, callbacks=[*callbacks, clock])
            if index:
                times[name].append(clock.step_ms())
    dense = models["dense"][0]
    extra = {name: extra_bytes(model, dense) for name, (model, _) in models.items()}
    return {"times_ms": times, "extra_bytes": extra}


def row(name: str, measured: dict) -> list[str]:
    """Markdown rows of one case."""
    dense = np.array(measured["times_ms"]["dense"])
    lines = []
    for arm, values in measured["times_ms"].items():
        ratio = np.array(values) / dense
        low, middle, high = np.quantile(ratio, [0.25, 0.5, 0.75])
        lines.append(
            f"| {name} | {arm} | {np.median(values):.2f} | {middle:.3f} "
            f"({low:.3f} to {high:.3f}) | {measured['extra_bytes'][arm] / 1024:.1f} |"
        )
    return lines


def main():
    """Measures all cases and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15, help="counted rounds")
    parser.add_argument(
        "--cases",
        nargs="+",
        default=list(CASES),
        choices=list(CASES),
        metavar="CASE",
        help="those to measure; the others stay as they were",
    )
    options = parser.parse_args()
    rounds = options.rounds
    file = RESULTS / "training_cost.json"
    # The other cases stay as they were measured before.
    measured = json.loads(file.read_text()) if file.exists() else {}
    for name in options.cases:
        measured[name] = measure(CASES[name], rounds)
        file.write_text(json.dumps(measured, indent=1))
    measured = {name: measured[name] for name in CASES if name in measured}
    lines = [
        "# Cost of a training step",
        "",
        f"`python benchmarks/training_cost.py` on {platform.machine()}, "
        f"{os.cpu_count()} cores. Ratio to the dense step of the same round: median "
        "(quartiles). The cases may come from runs of different days.",
        "",
        "| model | side | ms a step | ratio to dense | extra variables, KiB |",
        "|---|---|---|---|---|",
    ]
    for name, result in measured.items():
        lines += row(name, result)
    table = "\n".join(lines) + "\n"
    (RESULTS / "training_cost.md").write_text(table)
    print(table)


if __name__ == "__main__":
    main()
