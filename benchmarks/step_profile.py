"""What a training step spends its time on: dense, with skipped blocks, and packed.

The cases, models and steps are those of `sparse_training.py`. TensorFlow's profiler
records every operation of some steps, and the times of each kind are added up. Two
operations can run at once, so a sum may exceed the step.

    python -m benchmarks.step_profile
"""

import argparse
import collections
import os
import pathlib
import platform
import tempfile
import time
from collections.abc import Callable

import numpy as np
import tensorflow as tf

# The profiler writes this format, and no public module reads it without TensorBoard.
from tensorflow.tsl.profiler.protobuf import xplane_pb2

import tf_seqattn as sa
from benchmarks import sparse_training
from tf_seqattn.experiments.markdown_table import markdown_table
from tf_seqattn.files import write_json, write_whole

RESULTS = pathlib.Path(__file__).parent / "results"
STEPS = 20
PRODUCTS, OPTIMIZER, OTHERS = "matrix products", "optimizer", "the rest"
# What an operation is, by a part of its name; the first that fits.
KINDS = {
    "MatMul": PRODUCTS,
    "Gather": "gathers and scatters",
    "Scatter": "gathers and scatters",
    "Concat": "gathers and scatters",
    "Pad": "gathers and scatters",
    "Transpose": "transpositions",
}
COLUMNS = (PRODUCTS, "gathers and scatters", "transpositions", OPTIMIZER, OTHERS)


def kind_of(node: str, operation: str) -> str:
    """The column of an operation of a node of the graph.

    >>> kind_of("dense/MatMul", "_MklMatMul"), kind_of("Adam/Sqrt_1", "Sqrt")
    ('matrix products', 'optimizer')
    """
    if node.startswith("Adam/"):
        return OPTIMIZER
    return next((kind for part, kind in KINDS.items() if part in operation), OTHERS)


def recorded(folder: str) -> dict[str, float]:
    """Milliseconds of each operation that TensorFlow recorded, by kind."""
    (path,) = pathlib.Path(folder).glob("**/*.xplane.pb")
    space = xplane_pb2.XSpace.FromString(path.read_bytes())
    found: collections.Counter = collections.Counter()
    for plane in space.planes:
        for line in plane.lines:
            for event in line.events:
                name = plane.event_metadata[event.metadata_id].name
                # An operation is "node:Operation"; other events are "space::function"
                # and "what: of which".
                node, _, operation = name.rpartition(":")
                if node and not node.endswith(":") and " " not in name:
                    found[kind_of(node, operation)] += event.duration_ps / 1e9
    return dict(found)


def profile(step: Callable[[], object]) -> dict[str, float]:
    """Milliseconds of a step: `step` in all, and each kind of operation."""
    for _ in range(10):
        step()
    started = time.perf_counter()
    for _ in range(STEPS):
        step()
    milliseconds = 1e3 * (time.perf_counter() - started) / STEPS
    with tempfile.TemporaryDirectory() as folder:
        with tf.profiler.experimental.Profile(folder):
            for _ in range(STEPS):
                step()
        kinds = {kind: total / STEPS for kind, total in recorded(folder).items()}
    return {"step": milliseconds, **kinds}


def measure(case: tuple[int, int, int, float]) -> dict:
    """Profiles the steps of one case.

    Returns:
      The case, for each step its milliseconds by kind, and the number of products of
      two numbers (`multiplications`) that a dense step and one on kept blocks need.
    """
    width, block, batch, sparsity = case
    rng = np.random.default_rng(1)
    x = rng.normal(size=(batch, width)).astype("float32")
    y = (x[:, :20].sum(1) > 0).astype("float32")
    dense = sparse_training.masked_model(width, block, sparsity)
    packed = sa.pack(dense, batch_size=batch, choose="always", trainable=True)
    skipping = sa.SkipPrunedBlocks(batch_size=batch)
    steps = {
        "dense": sparse_training.step(dense, x, y),
        "sa.SkipPrunedBlocks": sparse_training.pruning_step(
            width, block, sparsity, skipping, x, y
        ),
        "sa.pack(trainable=True)": sparse_training.step(packed, x, y),
    }
    # Forward, gradient of the kernel, and for the second layer that of its input.
    multiplications = 5 * batch * width**2
    return {
        "case": list(case),
        "milliseconds": {name: profile(step) for name, step in steps.items()},
        "multiplications": {
            name: multiplications * (1 if name == "dense" else 1 - sparsity)
            for name in steps
        },
    }


def rows(result: dict) -> list[list[str]]:
    """Rows of the table."""
    width, block, batch, sparsity = result["case"]
    lines = []
    for name, kinds in result["milliseconds"].items():
        giga = result["multiplications"][name] / 1e9
        products = kinds[PRODUCTS] / 1e3
        lines.append(
            [
                f"{width}, {block} x {block}, batch {batch}, {sparsity:.0%}",
                name,
                f"{kinds['step']:.1f}",
                *(f"{kinds.get(column, 0.0):.1f}" for column in COLUMNS),
                f"{giga / products:.0f}",
            ]
        )
    return lines


def main() -> None:
    """Profiles all cases and writes the table."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    results = [measure(case) for case in sparse_training.CASES]
    titles = ["width, block, batch, blocks removed", "step", "ms", *COLUMNS]
    titles.append("1e9 multiplications a second in products")
    text = (
        "# What a training step spends its time on\n\n"
        f"`python -m benchmarks.step_profile` on {platform.machine()}, "
        f"{os.cpu_count()} cores: milliseconds of a step, and of its operations by "
        f"kind as TensorFlow's profiler records them, means of {STEPS} steps. "
        "Operations that run at once both count. The rest are masks and their logits, "
        "biases, activations and sums.\n\n"
        + markdown_table(titles, [row for result in results for row in rows(result)])
    )
    write_whole(RESULTS / "step_profile.md", text)
    write_json(RESULTS / "step_profile.json", results)
    print(text)


if __name__ == "__main__":
    main()
