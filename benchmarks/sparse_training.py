"""Time of a training step: dense, and packed with `sa.pack(model, trainable=True)`.

Each case is a perceptron of two pruned hidden layers and one output, trained by Adam.
Both models train in turns in one process on the same batch, as Keras compiles them by
default except for XLA, which is off. A round gives one ratio.

    python benchmarks/sparse_training.py
"""

import argparse
import json
import os
import pathlib
import platform

import numpy as np
import tensorflow as tf
import tf_keras as keras

import tf_seqattn as sa
from tf_seqattn.inference.latency import time_in_turns

RESULTS = pathlib.Path(__file__).parent / "results"
# (width, block, batch, sparsity).
CASES = (
    (2048, 64, 1024, 0.9),
    (2048, 32, 1024, 0.9),
    (1024, 32, 4096, 0.9),
)


def block_mask(shape, block, density: float, rng) -> np.ndarray:
    """A 0/1 matrix that keeps `density` of its blocks (rows, columns), at random."""
    rows, columns = (-(-size // side) for size, side in zip(shape, block, strict=True))
    kept = max(1, round(density * rows * columns))
    support = rng.permutation(rows * columns).reshape(rows, columns) < kept
    return np.kron(support, np.ones(block))[: shape[0], : shape[1]]


def quartiles(ratios) -> list[float]:
    """The median of ratios, and the quartiles around it."""
    return [float(q) for q in np.quantile(ratios, [0.5, 0.25, 0.75])]


def masked_model(width: int, block: int, sparsity: float) -> keras.Sequential:
    """A perceptron whose two hidden kernels have blocks of zeros."""
    rng = np.random.default_rng(0)
    model = keras.Sequential([keras.Input((width,))])
    model.add(keras.layers.Dense(width, activation="relu"))
    model.add(keras.layers.Dense(width, activation="relu"))
    model.add(keras.layers.Dense(1))
    for layer in model.layers[:2]:
        mask = block_mask((width, width), (block, block), 1 - sparsity, rng)
        layer.kernel.assign(layer.kernel * mask)
    return model


def step(model, x, y):
    """A function without arguments that runs one training step."""
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-3), loss, jit_compile=False)
    batches = iter(tf.data.Dataset.from_tensors((x, y)).repeat())
    function = model.make_train_function()
    return lambda: function(batches)


def slot_bytes(model) -> int:
    """Bytes of the variables of the optimizer."""
    return sum(v.dtype.size * int(np.prod(v.shape)) for v in model.optimizer.variables)


def measure(case, seconds: float) -> dict:
    """Times one case."""
    width, block, batch, sparsity = case
    rng = np.random.default_rng(1)
    x = rng.normal(size=(batch, width)).astype("float32")
    y = (x[:, :20].sum(1) > 0).astype("float32")
    dense = masked_model(width, block, sparsity)
    packed = sa.pack(dense, batch_size=batch, choose="always", trainable=True)
    calls = {"dense": step(dense, x, y), "packed": step(packed, x, y)}
    times = time_in_turns(calls, seconds, rounds=5, calls_a_turn=2)
    return {
        "case": list(case),
        "milliseconds": {n: 1e3 * float(np.median(t)) for n, t in times.items()},
        "speedup": quartiles(times["dense"] / times["packed"]),
        "slot_bytes": {"dense": slot_bytes(dense), "packed": slot_bytes(packed)},
    }


def row(result: dict) -> str:
    """One Markdown row."""
    width, block, batch, sparsity = result["case"]
    milliseconds, slots = result["milliseconds"], result["slot_bytes"]
    median, low, high = result["speedup"]
    return (
        f"| {width} | {block} x {block} | {batch} | {sparsity:.0%} | "
        f"{milliseconds['dense']:.0f} | {milliseconds['packed']:.0f} | "
        f"{median:.2f} ({low:.2f} to {high:.2f}) | "
        f"{slots['packed'] / slots['dense']:.2f} |"
    )


def main():
    """Measures all cases and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20.0, help="for each case")
    seconds = parser.parse_args().seconds
    results = []
    for case in CASES:
        results.append(measure(case, seconds))
        print(row(results[-1]), flush=True)
    lines = [
        "# A training step on the kept blocks alone",
        "",
        f"`python benchmarks/sparse_training.py --seconds {seconds:g}` on "
        f"{platform.machine()}, {os.cpu_count()} cores. Adam; time of the dense step "
        "over that of the packed one: median (quartiles) of rounds in turns.",
        "",
        "| width | block | batch | blocks removed | dense, ms | packed, ms | ratio | "
        "slots of the optimizer, share of dense |",
        "|---" * 8 + "|",
        *map(row, results),
    ]
    (RESULTS / "sparse_training.md").write_text("\n".join(lines) + "\n")
    (RESULTS / "sparse_training.json").write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
