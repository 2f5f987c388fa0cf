"""Takes one network through everything: pruned, trained, stripped, packed, exported.

python -m tests.architectures.sweep --output docs/architectures.md
"""

import argparse
import collections
import json
import math
import pathlib
import subprocess
import sys
import tempfile
from typing import NamedTuple

import numpy as np
import tensorflow as tf
import tf_keras as keras

import tf_seqattn as sa
from tests.architectures import networks
from tf_seqattn.inference import litert

SPARSITY = 0.75
STEPS = 21


class Row(NamedTuple):
    """What came of a network.

    Attributes:
      name: of the network.
      parameters: number of trainable parameters.
      eligible: share of them in kernels that are pruned.
      blocks: number of blocks in these.
      sparsity: share of these blocks that are gone at the end.
      packed: kernels that are packed, of those with blocks.
      left_alone: how many layers with weights are left alone, by reason.
    """

    name: str
    parameters: int
    eligible: float
    blocks: int
    sparsity: float
    packed: str
    left_alone: dict[str, int]


def schedule() -> sa.SequentialAttentionSchedule:
    """Two steps at least in every phase: dense, sparsification, sparse, and again.

    Steps are counted from 1, so that the first phase has one number more.
    """
    return sa.SequentialAttentionSchedule(
        SPARSITY,
        end_step=STEPS,
        cycles=2,
        dense_fraction=3 / STEPS,
        finetune_fraction=3 / STEPS,
    )


def trained(network: networks.Network) -> keras.Model:
    """The network, wrapped and trained through all phases."""
    pruned = sa.prune(network.model, schedule(), block_size=network.block_size)
    pruned.compile(
        keras.optimizers.SGD(1e-4),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    data = tf.data.Dataset.from_tensors((network.inputs, network.labels))
    pruned.fit(
        data.repeat(STEPS),
        callbacks=[sa.UpdatePruningStep()],
        verbose=0,
    )
    return pruned


def reloaded(name: str, model: keras.Model) -> keras.Model:
    """The model written to a file and read again."""
    with tempfile.TemporaryDirectory() as folder:
        if name in networks.WEIGHTS_ONLY:
            model.save_weights(f"{folder}/model.weights.h5")
            loaded = networks.build(name).model
            loaded.load_weights(f"{folder}/model.weights.h5")
            return loaded
        model.save(f"{folder}/model.keras")
        return keras.models.load_model(
            f"{folder}/model.keras",
            custom_objects={"Positions": networks.Positions},
        )


def assert_near(found, expected, tolerance: float, what: str) -> None:
    """Raises an AssertionError unless two outputs agree, in the largest of them."""
    found, expected = np.asarray(found), np.asarray(expected)
    assert np.all(np.isfinite(expected)), f"{what}: outputs are not finite"
    largest = np.abs(expected).max() + 1e-6
    difference = np.abs(found - expected).max() / largest
    assert difference < tolerance, f"{what}: {difference:.1e} of the largest output"


# How a reason is told in the table, by what it contains.
_SHORT = {
    "fewer than 100": "of fewer than 100 blocks",
    "no room": "narrower than a block",
    "contracts no channels": "depthwise",
    "has no kernel": "without a kernel",
    "custom layer": "custom",
}


def _left_alone(model) -> dict[str, int]:
    rows = sa.summary(model, print_fn=lambda line: None)
    reasons = [row["left_alone"] for row in rows if row["left_alone"]]
    short = [
        next((name for part, name in _SHORT.items() if part in reason), reason)
        for reason in reasons
    ]
    return dict(sorted(collections.Counter(short).items()))


def run(name: str) -> Row:
    """Takes a network through everything.

    Args:
      name: of `networks.build`.

    Returns:
      Its `Row`.

    Raises:
      AssertionError: where outputs differ, or something else is not as it should be.
    """
    network = networks.build(name)
    parameters = sum(w.shape.num_elements() for w in network.model.trainable_weights)
    pruned = trained(network)
    expected = pruned(network.inputs, training=False)
    found = [k for layer in sa.pruned_layers(pruned) for k in layer.pruned_kernels]
    row = {
        "parameters": parameters,
        "eligible": sum(math.prod(k.grid.kernel_shape) for k in found) / parameters,
        "blocks": sum(k.grid.num_blocks for k in found),
        "left_alone": _left_alone(pruned),
    }
    kept = sum(float(k.mask.numpy().sum()) for k in found)
    row["sparsity"] = 1 - kept / row["blocks"] if found else 0.0
    sparse = sa.strip_pruning(pruned)
    assert_near(sparse(network.inputs, training=False), expected, 1e-4, "stripped")
    loaded = reloaded(name, sparse)
    assert_near(loaded(network.inputs, training=False), expected, 1e-4, "reloaded")
    lines: list[str] = []
    packed = sa.pack(sparse, choose="always", print_fn=lines.append)
    assert_near(packed(network.inputs, training=False), expected, 1e-3, "packed")
    with tempfile.TemporaryDirectory() as folder:
        report = sa.export_tflite(
            sparse,
            f"{folder}/model.tflite",
            representative_dataset=[network.inputs],
            batch_size=len(network.inputs),
            choose="always",
        )
        file = pathlib.Path(f"{folder}/model.tflite").read_bytes()
    (output,) = litert.run(file, [network.inputs])
    assert_near(output, expected, 1e-3, "TFLite")
    layouts = [p.layout == "packed" for p in report.plans if p.block_size]
    row["packed"] = f"{sum(layouts)} of {len(layouts)}"
    return Row(name, **row)


def table_row(row: Row) -> str:
    """Lays out a row as Markdown."""
    reasons = ", ".join(f"{n} {reason}" for reason, n in row.left_alone.items())
    return (
        f"| {row.name} | {row.parameters:,} | {row.eligible:.1%} | {row.blocks:,} "
        f"| {row.sparsity:.1%} | {row.packed} | {reasons or '–'} |"
    )


PREAMBLE = f"""\
# Networks that are pruned, packed and exported

`make architectures` makes this table. Every network has random weights and loses
{SPARSITY:.0%} of its blocks (16 x 16; 8 x 8 for the last three). It is trained for at
least two steps in every phase, stripped, saved and loaded, packed, and exported to
TFLite. Its outputs must stay the same throughout, up to rounding, or the table is not
written. `tests/architectures` does the same and checks these rows.

- *eligible*: share of the trainable parameters in pruned kernels.
- *removed*: share of their blocks that are removed at the end.
- *packed*: kernels that compute on kept blocks only, among those with blocks in a layer
  that can be packed (Dense, Conv, SeparableConv, EinsumDense, MultiHeadAttention).
  Kernels are packed wherever it is possible. A kernel does not count if it has no zeros
  left after constant channels were removed.
- *left alone*: layers with weights that are not pruned. Depthwise convolutions contract
  no channels. A grouped convolution is pruned, but it is packed only if its groups hold
  whole blocks.

tf_keras cannot load {", ".join(sorted(networks.WEIGHTS_ONLY))} from its own `.keras`
file, pruned or not. Its weights are loaded into a new model instead.

| network | parameters | eligible | blocks | removed | packed | left alone |
|---|---|---|---|---|---|---|
"""


def main() -> None:
    """Runs every network in a process of its own, and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--network", help="this one only, its row to be printed")
    options = parser.parse_args()
    if options.network:
        print("ROW", json.dumps(run(options.network)._asdict()))
        return
    lines = []
    for name in networks.NAMES:
        command = [sys.executable, "-m", "tests.architectures.sweep", "--network", name]
        done = subprocess.run(
            [*command, "--output", "-"], capture_output=True, text=True, check=False
        )
        row = next((x for x in done.stdout.splitlines() if x.startswith("ROW")), None)
        if row is None:
            raise RuntimeError(f"{name} failed:\n{done.stderr[-3000:]}")
        lines.append(table_row(Row(**json.loads(row.removeprefix("ROW ")))))
        print(lines[-1], flush=True)
    options.output.write_text(PREAMBLE + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
