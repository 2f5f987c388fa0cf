"""Times whole block-sparse networks beside dense ones in every runtime, on one thread.

Each network has random weights and is pruned at once, without training, by the block
magnitude: speed depends on where the zeros are, not on what the weights learnt. Layers
of fewer than 100 blocks stay dense, as in the paper. The packed TFLite file and the
dense one run in turns in LiteRT, and with the extra `peers` the dense one in ONNX
Runtime and OpenVINO as well, converted from that file. The last ratio counts: the time
of the fastest dense network over that of the packed one.

    pip install 'tf-seqattn[peers]'
    python -m benchmarks.inference_models
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
from benchmarks.inference import quartiles
from benchmarks.runtimes import (
    Program,
    in_litert,
    in_onnx_runtime,
    in_openvino,
    onnx_of,
    peer_versions,
    peers_installed,
)
from tf_seqattn.experiments.markdown_table import markdown_table
from tf_seqattn.files import write_json, write_whole
from tf_seqattn.inference.latency import time_in_turns
from tf_seqattn.inference.tflite import TFLiteReport

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
      min_blocks: of the kernels that are pruned; None is the paper's 100, or 2 heads.
    """

    build: Callable[[], keras.Model]
    block: int | str
    batch: int
    sparsity: float = 0.9
    min_blocks: int | None = None

    @property
    def block_size(self):
        """The block size in the form that `sa.prune` takes."""
        return self.block if self.block == "heads" else (self.block, self.block)


NETWORKS = {
    "ResNet50": Network(lambda: keras.applications.ResNet50(weights=None), 32, 1),
    "ResNet50, batch 64": Network(
        lambda: keras.applications.ResNet50(weights=None), 32, 64
    ),
    "ResNet50, 10 blocks": Network(
        lambda: keras.applications.ResNet50(weights=None), 32, 1, min_blocks=10
    ),
    "ResNet50, 10 blocks, batch 64": Network(
        lambda: keras.applications.ResNet50(weights=None), 32, 64, min_blocks=10
    ),
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
    model = sa.prune(
        network.build(),
        schedule,
        network.block_size,
        sa.Magnitude(),
        pruning_policy=sa.MinimumBlocks(network.block_size, network.min_blocks),
    )
    return sa.strip_pruning(model)


def inputs_for(network: Network, model: keras.Model) -> np.ndarray:
    """A batch of random inputs."""
    shape = (network.batch, *model.input_shape[1:])
    return np.random.default_rng(0).normal(size=shape).astype("float32")


def export(
    model: keras.Model, x: np.ndarray, folder: str
) -> dict[str, tuple[pathlib.Path, TFLiteReport]]:
    """Writes the files "dense" and "packed"; returns their paths and reports."""
    written = {}
    for layout in ("dense", "packed"):
        path = pathlib.Path(folder) / f"{layout}.tflite"
        report = sa.export_tflite(model, path, layout, batch_size=len(x))
        written[layout] = path, report
    return written


def programs(
    model: keras.Model, x: np.ndarray
) -> tuple[dict[str, Program], dict[str, int], TFLiteReport]:
    """The network in every runtime, the bytes of its files, and what was packed."""
    found: dict[str, Program] = {}
    sizes = {}
    with tempfile.TemporaryDirectory() as folder:
        files = export(model, x, folder)
        for layout, (path, report) in files.items():
            found[layout] = in_litert(path.read_bytes(), x, num_threads=1)
            sizes[layout] = report.num_bytes
        if peers_installed():
            written = onnx_of(files["dense"][0])
            found["ONNX Runtime"] = in_onnx_runtime(written, x, num_threads=1)
            found["OpenVINO"] = in_openvino(written, x, num_threads=1)
    return found, sizes, files["packed"][1]


def check_equal(found: dict[str, Program]) -> None:
    """Raises an AssertionError if a runtime disagrees with the dense TFLite file."""
    outputs = {}
    for name, (call, result) in found.items():
        call()
        outputs[name] = np.array(result())
    size = np.abs(outputs["dense"]).max()
    for name, values in outputs.items():
        np.testing.assert_allclose(
            values, outputs["dense"], atol=1e-3 * size, err_msg=name
        )


def measure(name: str, seconds: float) -> dict:
    """Exports one network and times it in every runtime."""
    network = NETWORKS[name]
    model = pruned(network)
    x = inputs_for(network, model)
    found, sizes, report = programs(model, x)
    check_equal(found)
    calls = {name: call for name, (call, _) in found.items()}
    times = time_in_turns(calls, seconds, rounds=5, calls_a_turn=2)
    fastest = np.min([t for name, t in times.items() if name != "packed"], axis=0)
    chosen = [plan.layout == "packed" for plan in report.plans]

    return {
        "network": name,
        "block": network.block,
        "batch": network.batch,
        "sparsity": network.sparsity,
        "min_blocks": network.min_blocks,
        "packed_layers": (sum(chosen), len(chosen)),
        "milliseconds": {n: 1e3 * float(np.median(t)) for n, t in times.items()},
        "speedup": quartiles(times["dense"] / times["packed"]),
        "to_fastest": quartiles(fastest / times["packed"]),
        "bytes": sizes,
    }


def eligible_layers(sparsity: float, block: int | str, min_blocks: int | None) -> str:
    """Such as "90%, 32 x 32", and which kernels, if not those of 100 blocks."""
    size = " of the heads" if block == "heads" else f", {block} x {block}"
    if min_blocks is not None:
        size += f", kernels of {min_blocks} blocks and more"
    return f"{sparsity:.0%}{size}"


def row(result: dict) -> list[str]:
    """The cells of one network."""
    packed, kernels = result["packed_layers"]
    sizes = result["bytes"]
    return [
        result["network"].split(",")[0],
        eligible_layers(result["sparsity"], result["block"], result["min_blocks"]),
        str(result["batch"]),
        f"{packed} of {kernels}",
        *(f"{taken:.2f}" for taken in result["milliseconds"].values()),
        *(
            "{:.2f} ({:.2f} to {:.2f})".format(*result[name])
            for name in ("speedup", "to_fastest")
        ),
        f"{sizes['dense'] / 1e6:.1f}",
        f"{sizes['packed'] / 1e6:.1f}",
    ]


def main(arguments: list[str] | None = None) -> None:
    """Measures all networks and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS))
    parser.add_argument("--seconds", type=float, default=10.0, help="for each")
    options = parser.parse_args(arguments)
    file = RESULTS / "inference_models.json"
    # Those of networks that are not asked for stay.
    found = {result["network"]: result for result in json.loads(file.read_text())}
    for name in options.networks:
        found[name] = measure(name, options.seconds)
        print(" | ".join(row(found[name])), flush=True)
        write_json(file, [found[name] for name in NETWORKS if name in found])
    results = [found[name] for name in NETWORKS if name in found]
    titles = ["network", "eligible layers", "batch", "kernels packed"]
    titles += [f"{name}, ms" for name in results[0]["milliseconds"]]
    titles += ["speed-up", "to the fastest dense", "dense, MB", "packed, MB"]
    beside = f" beside {peer_versions()}" if peers_installed() else ""
    text = (
        "# Block-sparse inference, whole networks\n\n"
        f"`python -m benchmarks.inference_models --seconds {options.seconds:g}` on "
        f"{platform.machine()}, one thread of LiteRT{beside}, float32. If no "
        "other number is given, kernels of fewer than 100 blocks stay dense; dead "
        "heads are removed with their projections, which stay dense. Times "
        "are medians of a call; ratios are medians (quartiles) of the rounds, of the "
        "dense TFLite file and of the fastest dense network to the packed file; above "
        "1 the packed one is faster. Networks may come from different runs.\n\n"
        f"{markdown_table(titles, map(row, results))}"
    )
    write_whole(RESULTS / "inference_models.md", text)
    print(text)


if __name__ == "__main__":
    main()
