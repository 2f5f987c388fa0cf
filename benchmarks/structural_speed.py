"""Times networks with half of every group of coupled channels removed.

They run on LiteRT with one thread and with two, and on XLA. Beside each stands the
dense network, and the one whose width is scaled to about the same number of
multiply-adds. Weights are random: this is speed only. All variants of a network run in
turns in one process.

    python -m benchmarks.structural_speed
"""

import argparse
import json
import pathlib
import platform

import numpy as np
import tensorflow as tf
import tf_keras as keras
from tensorflow.python.framework.convert_to_constants import (
    convert_variables_to_constants_v2,
)
from tf_keras.src.applications import efficientnet, resnet

import tf_seqattn as sa
from benchmarks.inference_models import vision_transformer
from benchmarks.runtimes import Program, in_litert
from tf_seqattn.experiments.markdown_table import markdown_table
from tf_seqattn.files import write_json, write_whole
from tf_seqattn.inference.latency import time_in_turns

RESULTS = pathlib.Path(__file__).parent / "results"
SHARES = (0.25, 0.5)
SIZE = 224
# Of LiteRT.
THREADS = (1, 2)


def _resnet_of_width(width: float):
    """ResNet50 with the filters of every stage scaled."""

    def stack(x):
        for filters, blocks, stride, number in (
            (64, 3, 1, 2),
            (128, 4, 2, 3),
            (256, 6, 2, 4),
            (512, 3, 2, 5),
        ):
            filters = int(filters * width)
            x = resnet.stack1(x, filters, blocks, stride, name=f"conv{number}")
        return x

    return resnet.ResNet(stack, False, True, weights=None, model_name="narrow")


NETWORKS = {
    "ResNet50": (
        lambda: keras.applications.ResNet50(weights=None),
        lambda: _resnet_of_width(0.5),
    ),
    "MobileNetV2": (
        lambda: keras.applications.MobileNetV2(weights=None),
        lambda: keras.applications.MobileNetV2(weights=None, alpha=0.5),
    ),
    "EfficientNetB0": (
        lambda: keras.applications.EfficientNetB0(weights=None),
        lambda: efficientnet.EfficientNet(
            0.5, 1.0, SIZE, model_name="narrow", weights=None
        ),
    ),
    # Only heads and hidden units can go, so half of them are half of the work.
    "ViT-B/16": (
        lambda: vision_transformer(768, 12),
        lambda: vision_transformer(544, 8),
    ),
}


def pruned(model, share: float):
    """The model with a share of every group of channels removed."""
    schedule = sa.OneShotSchedule(share, prune_step=0)
    wrapped = sa.prune(
        model, schedule, block_size="channels", importance=sa.Magnitude(), round_to=8
    )
    return sa.shrink(sa.strip_pruning(wrapped))


def tflite_file(model) -> bytes:
    """The model for batch 1, in float32."""
    function = tf.function(lambda x: model(x, training=False))
    spec = tf.TensorSpec((1, SIZE, SIZE, 3), tf.float32)
    # The converter would write all of the model, with every function of Keras.
    frozen = convert_variables_to_constants_v2(function.get_concrete_function(spec))
    converter = tf.lite.TFLiteConverter.from_concrete_functions([frozen], tf.Module())
    return converter.convert()


def in_xla(model: keras.Model, x: np.ndarray) -> Program:
    """A Keras model compiled by XLA, on all cores, or on the accelerator."""
    spec = tf.TensorSpec(x.shape, tf.float32)
    function = tf.function(
        lambda x: model(x, training=False), jit_compile=True, input_signature=[spec]
    )
    value = tf.constant(x)
    return lambda: function(value).numpy(), lambda: function(value).numpy()


def programs(
    networks: dict[str, keras.Model], files: dict[str, bytes], x: np.ndarray
) -> dict[str, dict[str, Program]]:
    """For each runtime, every variant of a network, ready to be timed."""
    found = {}
    for threads in THREADS:
        name = f"LiteRT, {threads} thread{'s' if threads > 1 else ''}"
        found[name] = {v: in_litert(file, x, threads) for v, file in files.items()}
    found["XLA"] = {v: in_xla(network, x) for v, network in networks.items()}
    return found


def check_equal(found: dict[str, dict[str, Program]]) -> None:
    """Raises an AssertionError if two runtimes disagree on a variant."""
    expected: dict[str, np.ndarray] = {}
    for runtime, variants in found.items():
        for variant, (call, result) in variants.items():
            call()
            values = np.array(result())
            first = expected.setdefault(variant, values)
            size = np.abs(first).max()
            np.testing.assert_allclose(
                values, first, atol=1e-3 * size, err_msg=f"{variant}, {runtime}"
            )


def measure(name: str, seconds: float) -> list[dict]:
    """Times a network and its smaller variants, one row for each and each runtime."""
    make, make_narrow = NETWORKS[name]
    model = make()
    networks = {"dense": model}
    networks |= {f"{share:.0%} removed": pruned(model, share) for share in SHARES}
    networks["scaled in width"] = make_narrow()
    files = {variant: tflite_file(network) for variant, network in networks.items()}
    work = {v: sa.channel_groups(n).multiply_adds for v, n in networks.items()}
    x = np.random.default_rng(0).normal(size=(1, SIZE, SIZE, 3)).astype("float32")
    found = programs(networks, files, x)
    check_equal(found)
    rows = []
    for runtime, variants in found.items():
        calls = {variant: call for variant, (call, _) in variants.items()}
        times = time_in_turns(calls, seconds, calls_a_turn=2)
        for variant, taken in times.items():
            low, middle, high = np.percentile(times["dense"] / taken, [25, 50, 75])
            rows.append(
                {
                    "network": name,
                    "runtime": runtime,
                    "variant": variant,
                    "milliseconds": float(np.median(taken)) * 1e3,
                    "speedup": float(middle),
                    "quartiles": [float(low), float(high)],
                    "megabytes": len(files[variant]) / 1e6,
                    "multiply_adds": work[variant],
                }
            )
            print(rows[-1], flush=True)
    return rows


def table(rows: list[dict]) -> str:
    """The rows as Markdown."""
    titles = ["network", "runtime", "variant", "ms", "speed-up", "MB", "M MACs"]
    cells = [
        [
            row["network"],
            row["runtime"],
            row["variant"],
            f"{row['milliseconds']:.1f}",
            "{:.2f} ({:.2f}-{:.2f})".format(row["speedup"], *row["quartiles"]),
            f"{row['megabytes']:.1f}",
            f"{row['multiply_adds'] / 1e6:.0f}",
        ]
        for row in rows
    ]
    return markdown_table(titles, cells)


def report(rows: list[dict]) -> str:
    """The page of results."""
    return (
        "# Speed of removed channels\n\n"
        f"`python -m benchmarks.structural_speed` on {platform.machine()}: batch 1, "
        f"{SIZE} x {SIZE}, float32, random weights: speed only. Removed is the share "
        "of the units of every group of coupled channels, rounded to 8. In ViT-B/16 "
        "these are the heads and the hidden units of the feed-forward layers. XLA "
        "takes all cores, and its MB are those of the TFLite file. Speed-up over "
        "dense, median (quartiles) of turns in one process.\n\n"
        f"{table(rows)}\n"
    )


def main(arguments: list[str] | None = None) -> None:
    """Measures, writes the results and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS))
    parser.add_argument(
        "--seconds", type=float, default=6.0, help="for each network and runtime"
    )
    options = parser.parse_args(arguments)
    file = RESULTS / "structural_speed.json"
    rows = json.loads(file.read_text()) if file.exists() else []
    # Those of networks that are not asked for stay.
    for name in options.networks:
        rows = [row for row in rows if row["network"] != name]
        rows += measure(name, options.seconds)
        rows.sort(key=lambda row: list(NETWORKS).index(row["network"]))
        write_json(file, rows)
        write_whole(RESULTS / "structural_speed.md", report(rows))
    print(table(rows))


if __name__ == "__main__":
    main()
