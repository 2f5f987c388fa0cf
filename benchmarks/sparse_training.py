"""Time of a training step: dense, masked, and on the kept blocks alone.

Each case is a perceptron of two pruned hidden layers and one output, trained by Adam:

- dense: not pruned at all;
- masked: pruned, in its last phase, with `sa.UpdatePruningStep`;
- skipping: the same with `sa.SkipPrunedBlocks`;
- packed: `sa.pack(model, trainable=True)`.

All train in turns in one process on the same batch, without XLA and with it
(`jit_compile=True`, which Keras 3 chooses by itself). A round gives one ratio.

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
from benchmarks.quartiles import quartiles
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


def compile_to_train(model, xla: bool):
    """Compiles a model for Adam."""
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-3), loss, jit_compile=xla)


def step(model, x, y, xla: bool = False):
    """A function without arguments that runs one training step."""
    compile_to_train(model, xla)
    batches = iter(tf.data.Dataset.from_tensors((x, y)).repeat())
    function = model.make_train_function()
    return lambda: function(batches)


def pruning_step(
    width: int, block: int, sparsity: float, pruning, x, y, xla: bool = False
):
    """One training step of a pruned model in its last phase, with its callback."""
    schedule = sa.OneShotSchedule(sparsity, prune_step=1)
    policy = sa.MinimumBlocks((block, block))
    model = sa.prune(
        masked_model(width, block, 0.0),
        schedule,
        block_size=(block, block),
        pruning_policy=policy,
    )
    compile_to_train(model, xla)
    batches = iter(tf.data.Dataset.from_tensors((x, y)).repeat())
    pruning.set_model(model)
    pruning.on_train_begin()

    def run():
        pruning.on_train_batch_begin(0)
        model.train_function(batches)

    return run


def slot_bytes(model) -> int:
    """Bytes of the variables of the optimizer."""
    return sum(v.dtype.size * int(np.prod(v.shape)) for v in model.optimizer.variables)


def measure(case, xla: bool, seconds: float) -> dict:
    """Times one case, without XLA or with it."""
    width, block, batch, sparsity = case
    rng = np.random.default_rng(1)
    x = rng.normal(size=(batch, width)).astype("float32")
    y = (x[:, :20].sum(1) > 0).astype("float32")
    dense = masked_model(width, block, sparsity)
    packed = sa.pack(dense, batch_size=batch, choose="always", trainable=True)
    skipping = sa.SkipPrunedBlocks(batch_size=batch)
    masking = sa.UpdatePruningStep()
    calls = {
        "dense": step(dense, x, y, xla),
        "masked": pruning_step(width, block, sparsity, masking, x, y, xla),
        "skipping": pruning_step(width, block, sparsity, skipping, x, y, xla),
        "packed": step(packed, x, y, xla),
    }
    # A training makes many steps in a row, so memory is warm.
    times = time_in_turns(calls, seconds, rounds=5, calls_a_turn=8)
    return {
        "case": list(case),
        "xla": xla,
        "milliseconds": {n: 1e3 * float(np.median(t)) for n, t in times.items()},
        "speedup": {n: quartiles(times["dense"] / times[n]) for n in times},
        "slot_bytes": {"dense": slot_bytes(dense), "packed": slot_bytes(packed)},
    }


def row(result: dict) -> str:
    """One Markdown row."""
    width, block, batch, sparsity = result["case"]
    milliseconds, slots = result["milliseconds"], result["slot_bytes"]
    ratios = [
        "{:.2f} ({:.2f} to {:.2f})".format(*result["speedup"][name])
        for name in ("masked", "skipping", "packed")
    ]
    return (
        f"| {width} | {block} x {block} | {batch} | {sparsity:.0%} | "
        f"{'yes' if result['xla'] else 'no'} | "
        f"{milliseconds['dense']:.0f} | {' | '.join(ratios)} | "
        f"{slots['packed'] / slots['dense']:.2f} |"
    )


def main():
    """Measures all cases and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20.0, help="for each case")
    seconds = parser.parse_args().seconds
    results = []
    for xla in (False, True):
        for case in CASES:
            results.append(measure(case, xla, seconds))
            print(row(results[-1]), flush=True)
    lines = [
        "# A training step on the kept blocks alone",
        "",
        f"`python benchmarks/sparse_training.py --seconds {seconds:g}` on "
        f"{platform.machine()}, {os.cpu_count()} cores. Adam. Time of the dense step "
        "over that of the other: median (quartiles) of rounds in turns. Slots are "
        "those of the packed model, as a share of the dense one; the masked and the "
        "skipping model have those of the dense one.",
        "",
        "| width | block | batch | blocks removed | XLA | dense, ms | masked | "
        "`sa.SkipPrunedBlocks` | `sa.pack(trainable=True)` | slots |",
        "|---" * 10 + "|",
        *map(row, results),
    ]
    (RESULTS / "sparse_training.md").write_text("\n".join(lines) + "\n")
    (RESULTS / "sparse_training.json").write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
