"""Times whole block-sparse networks as TFLite files and dense ones, on one thread.

Each network has random weights and is pruned at once, without training, by the block
magnitude: speed depends on where the zeros are, not on what the weights learnt. Layers
of fewer than 100 blocks stay dense, as in the paper. The two files run in turns.

    python benchmarks/inference_models.py
"""

import argparse
import json
import pathlib
import platform
import tempfile
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tf_keras as keras

import tf_seqattn as sa
from tf_seqattn.inference import litert
from tf_seqattn.inference.latency import time_in_turns

RESULTS = pathlib.Path(__file__).parent / "results"
layers = keras.layers


def vision_transformer(width: int, heads: int, depth: int = 12) -> keras.Model:
    """ViT with patches of 16 x 16 and 1000 classes."""
    inputs = keras.Input((224, 224, 3))
    x = layers.Conv2D(width, 16, strides=16)(inputs)
    x = layers.Reshape((196, width))(x)
    for _ in range(depth):
        y = layers.LayerNormalization()(x)
        x = x + layers.MultiHeadAttention(heads, width // heads)(y, y)
        y = layers.LayerNormalization()(x)
        y = layers.Dense(4 * width, activation="gelu")(y)
        x = x + layers.Dense(width)(y)
    x = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(x))
    return keras.Model(inputs, layers.Dense(1000)(x))


def criteo_network() -> keras.Model:
    """The perceptron of the paper's click model, 390-400-400-400-1."""
    model = keras.Sequential([keras.Input((390,))])
    for _ in range(3):
        model.add(layers.Dense(400, activation="relu"))
    model.add(layers.Dense(1))
    return model


class Network(NamedTuple):
    """A network of the benchmark.

    Attributes:
      build: makes the dense model.
      block: rows and columns of a block, or "heads".
      batch: samples in a call.
      sparsity: share of the blocks that is removed.
    """

    build: Callable[[], keras.Model]
    block: int | str
    batch: int
    sparsity: float = 0.9

    @property
    def block_size(self):
        """The block size in the form that `sa.prune` takes."""
        return self.block if self.block == "heads" else (self.block, self.block)


NETWORKS = {
    "ResNet50": Network(lambda: keras.applications.ResNet50(weights=None), 32, 1),
    "ResNet50, 16 x 16": Network(
        lambda: keras.applications.ResNet50(weights=None), 16, 1
    ),
    "MobileNetV2": Network(lambda: keras.applications.MobileNetV2(weights=None), 16, 1),
    "ViT-S/16": Network(lambda: vision_transformer(384, 6), 32, 1),
    "ViT-S/16, heads": Network(lambda: vision_transformer(384, 6), "heads", 1, 0.5),
    "ViT-B/16": Network(lambda: vision_transformer(768, 12), 32, 1),
    "Criteo DNN": Network(criteo_network, 20, 64),
}


def pruned(network: Network) -> keras.Model:
    """The stripped network with zeros in some of its blocks."""
    keras.utils.set_random_seed(0)
    schedule = sa.OneShotSchedule(network.sparsity, prune_step=0)
    model = sa.prune(network.build(), schedule, network.block_size, sa.Magnitude())
    return sa.strip_pruning(model)


def measure(name: str, seconds: float) -> dict:
    """Exports one network both ways and times the files."""
    network = NETWORKS[name]
    model = pruned(network)
    shape = (network.batch, *model.input_shape[1:])
    x = np.random.default_rng(0).normal(size=shape).astype("float32")
    calls, sizes, packed_layers = {}, {}, (0, 0)
    with tempfile.TemporaryDirectory() as folder:
        for layout in ("dense", "packed"):
            path = pathlib.Path(folder) / f"{layout}.tflite"
            report = sa.export_tflite(model, path, layout, batch_size=network.batch)
            calls[layout] = litert.interpreter(path.read_bytes(), [x]).invoke
            sizes[layout] = report.num_bytes
            chosen = [plan.layout == "packed" for plan in report.plans]
            packed_layers = (sum(chosen), len(chosen))
    times = time_in_turns(calls, seconds, calls_a_turn=2)
    ratio = np.quantile(times["dense"] / times["packed"], [0.5, 0.25, 0.75])
    return {
        "network": name,
        "block": network.block,
        "batch": network.batch,
        "sparsity": network.sparsity,
        "packed_layers": packed_layers,
        "milliseconds": {n: 1e3 * float(np.median(t)) for n, t in times.items()},
        "speedup": ratio.tolist(),
        "bytes": sizes,
    }


def line(result: dict) -> str:
    """One Markdown row."""
    median, low, high = result["speedup"]
    times, sizes = result["milliseconds"], result["bytes"]
    packed, kernels = result["packed_layers"]
    block = result["block"]
    size = " of the heads" if block == "heads" else f", {block} x {block}"
    return (
        f"| {result['network'].split(',')[0]} | {result['sparsity']:.0%}"
        f"{size} | {result['batch']} | {packed} of "
        f"{kernels} | {times['dense']:.2f} | {times['packed']:.2f} | {median:.2f} "
        f"({low:.2f} to {high:.2f}) | {sizes['dense'] / 1e6:.1f} | "
        f"{sizes['packed'] / 1e6:.1f} |"
    )


def main():
    """Measures all networks and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS))
    parser.add_argument("--seconds", type=float, default=10.0, help="for each")
    arguments = parser.parse_args()
    results = []
    lines = [
        "# Block-sparse inference, whole networks",
        "",
        f"`python benchmarks/inference_models.py` on {platform.machine()}, one thread "
        "of LiteRT, float32. Layers of fewer than 100 blocks stay dense; dead heads "
        "are removed with their projections, which stay dense. Times in "
        "milliseconds a call; speed-up: median (quartiles) of the rounds.",
        "",
        "| network | eligible layers | batch | kernels packed | dense | packed | "
        "speed-up | dense, MB | packed, MB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name in arguments.networks:
        results.append(measure(name, arguments.seconds))
        lines.append(line(results[-1]))
        print(lines[-1], flush=True)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "inference_models.md").write_text("\n".join(lines) + "\n")
    (RESULTS / "inference_models.json").write_text(json.dumps(results, indent=1))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
