"""Time and memory of pruning a model of 300 million parameters.

`prune` must not copy the weights. It only adds one mask entry per block and, for
SoftmaxAttention, one logit per block. Each row is measured in its own process, on a
built model with weights (1.2 GB in float32). The growth of the memory of the process
(resident set) is read every millisecond: how far it rose during the call, and how much
was left afterwards. tfmot's wrapper is measured too.

    python benchmarks/large_model.py
"""

import argparse
import gc
import json
import os
import pathlib
import platform
import subprocess
import sys
import threading
import time

import tensorflow as tf
import tf_keras as keras

import tf_seqattn as sa

RESULTS = pathlib.Path(__file__).parent / "results"
WIDTH = 4096
BLOCK = (32, 32)
SPARSITY = 0.9
SIDES = {
    "SoftmaxAttention": sa.SoftmaxAttention,
    "Magnitude": sa.Magnitude,
    "PowerPropagation": sa.PowerPropagation,
    "tfmot": None,
}


def dense_model(num_layers: int) -> keras.Model:
    """Dense layers of 4096 x 4096: 18 of them have 302 million parameters."""
    inputs = x = keras.Input((WIDTH,))
    for index in range(num_layers):
        x = keras.layers.Dense(WIDTH, activation="relu", name=f"dense_{index}")(x)
    return keras.Model(inputs, x)


def resident_mib() -> float:
    """Memory of this process, in MiB."""
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


class Watch:
    """Times a `with` block and follows the memory of the process."""

    def __enter__(self):
        gc.collect()
        self.before = self.peak = resident_mib()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._follow)
        self._thread.start()
        self._start = time.perf_counter()
        return self

    def _follow(self):
        while not self._done.wait(0.001):
            self.peak = max(self.peak, resident_mib())

    def __exit__(self, *error):
        self.seconds = time.perf_counter() - self._start
        self._done.set()
        self._thread.join()
        gc.collect()
        self.left = resident_mib()

    def result(self) -> dict:
        """Seconds, and MiB more than at the start: the peak, and at the end."""
        return {
            "seconds": self.seconds,
            "peak_mib": max(self.peak, self.left) - self.before,
            "left_mib": self.left - self.before,
        }


def variable_mib(model) -> float:
    """Size of all variables of a model, in MiB."""
    size = sum(w.dtype.size * w.shape.num_elements() for w in model.weights)
    return size / 2**20


def _prune(model, side: str):
    if side == "tfmot":
        from tensorflow_model_optimization.sparsity import keras as tfmot

        schedule = tfmot.PolynomialDecay(0.0, SPARSITY, begin_step=0, end_step=1000)
        return tfmot.prune_low_magnitude(model, schedule, block_size=BLOCK)
    schedule = sa.SequentialAttentionSchedule(SPARSITY, end_step=1000)
    return sa.prune(model, schedule, BLOCK, importance=SIDES[side]())


def measure(side: str, num_layers: int) -> dict:
    """Prunes, updates the masks once, and strips."""
    # The cost of first calls belongs to no row.
    small = sa.prune(dense_model(1), sa.OneShotSchedule(SPARSITY, 0), BLOCK)
    sa.strip_pruning(small)
    del small
    model = dense_model(num_layers)
    dense_mib = variable_mib(model)
    found = {"parameters": model.count_params(), "variables_mib": dense_mib}
    with Watch() as watch:
        pruned = _prune(model, side)
    found["prune"] = watch.result()
    found["extra_mib"] = variable_mib(pruned) - dense_mib
    if side != "tfmot":
        found["blocks"] = sum(
            kernel.grid.num_blocks
            for layer in sa.pruned_layers(pruned)
            for kernel in layer.pruned_kernels
        )
        shared = {id(weight) for weight in model.weights}
        found["weights_are_shared"] = all(
            id(layer.layer.kernel) in shared for layer in sa.pruned_layers(pruned)
        )
        del model
        layers = sa.pruned_layers(pruned)

        @tf.function
        def update():
            for layer in layers:
                layer.update_masks(tf.constant(0.5))

        update()
        with Watch() as watch:
            update()
        found["update"] = watch.result()
        with Watch() as watch:
            sparse = sa.strip_pruning(pruned)
        found["strip"] = watch.result()
        del sparse
    return found


def row(side: str, found: dict) -> str:
    """A row of the table in Markdown."""

    def cell(name: str) -> str:
        if name not in found:
            return "–"
        result = found[name]
        return (
            f"{result['seconds']:.2f} s, {result['peak_mib']:.0f} MiB, "
            f"{result['left_mib']:.0f} MiB"
        )

    return (
        f"| {side} | {found['extra_mib']:.2f} | {cell('prune')} | {cell('update')} "
        f"| {cell('strip')} |"
    )


def main():
    """Measures every case in its own process, and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=18, help="of 16.8 million each")
    parser.add_argument("--side", choices=SIDES, help="this one only, as JSON")
    options = parser.parse_args()
    if options.side:
        print(json.dumps(measure(options.side, options.layers)))
        return
    measured = {}
    for side in SIDES:
        command = [sys.executable, __file__, "--layers", str(options.layers)]
        done = subprocess.run(
            [*command, "--side", side], check=True, stdout=subprocess.PIPE, text=True
        )
        measured[side] = json.loads(done.stdout.splitlines()[-1])
        print(row(side, measured[side]), flush=True)
    ours = measured["SoftmaxAttention"]
    lines = [
        "# Time and memory of pruning a large model",
        "",
        f"`python benchmarks/large_model.py --layers {options.layers}` on "
        f"{platform.machine()}, {os.cpu_count()} cores. {ours['parameters']:,} "
        f"parameters in {options.layers} layers of {WIDTH} x {WIDTH}: "
        f"{ours['variables_mib']:.0f} MiB of variables, {ours['blocks']:,} blocks of "
        f"{BLOCK[0]} x {BLOCK[1]}. Each cell: time, how far the memory of the process "
        "rose meanwhile, and how far it had risen at the end.",
        "",
        "`prune` copies no weights: the wrapped layers hold the very variables of the "
        "model. The extra variables are a float of mask for each block and, for "
        "SoftmaxAttention, a float of logit; tfmot's are a mask of the kernel's size. "
        "PowerPropagation rescales the kernels, one at a time. A mask update scores "
        "every block of every layer. `strip_pruning` of a functional model makes a "
        "second one, so that the pruned one can go on training: that is a copy.",
        "",
        "| side | extra variables, MiB | prune | mask update | strip_pruning |",
        "|---|---|---|---|---|",
        *(row(side, found) for side, found in measured.items()),
    ]
    table = "\n".join(lines) + "\n"
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "large_model.md").write_text(table)
    (RESULTS / "large_model.json").write_text(json.dumps(measured, indent=1))
    print(table)


if __name__ == "__main__":
    main()
