"""Times networks with half of every group of coupled channels removed, on LiteRT.

Beside each stands the dense network and the one whose width Keras scales to about the
same number of multiply-adds. Weights are random: this is speed only. All files of a
network run in turns in one process.

    python benchmarks/structural_speed.py
"""

import argparse
import json
import pathlib

import numpy as np
import tensorflow as tf
import tf_keras as keras
from tf_keras.src.applications import efficientnet, resnet

import tf_seqattn as sa
from tf_seqattn.experiments.markdown_table import markdown_table
from tf_seqattn.files import write_whole
from tf_seqattn.inference.latency import time_in_turns
from tf_seqattn.inference.litert import interpreter

RESULTS = pathlib.Path(__file__).parent / "results"
SHARES = (0.25, 0.5)
SIZE = 224
HEAD = (
    "# Speed of removed channels\n\n"
    "LiteRT, batch 1, 224 x 224, random weights: speed only. Removed is the share of "
    "the units of every group of coupled channels, rounded to 8. Speed-up over dense, "
    "median (quartiles) of turns in one process."
)


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
    concrete = function.get_concrete_function(spec)
    return tf.lite.TFLiteConverter.from_concrete_functions([concrete], model).convert()


def measure(name: str, threads: int, seconds: float) -> list[dict]:
    """Times a network and its smaller variants, one row each."""
    make, make_narrow = NETWORKS[name]
    model = make()
    variants = {"dense": model}
    variants |= {f"{share:.0%} removed": pruned(model, share) for share in SHARES}
    variants["scaled in width"] = make_narrow()
    x = np.random.default_rng(0).normal(size=(1, SIZE, SIZE, 3)).astype("float32")
    files, calls = {}, {}
    for variant, network in variants.items():
        files[variant] = tflite_file(network)
        calls[variant] = interpreter(files[variant], [x], num_threads=threads).invoke
    times = time_in_turns(calls, seconds)
    rows = []
    for variant, network in variants.items():
        ratios = np.array(times["dense"]) / np.array(times[variant])
        low, middle, high = np.percentile(ratios, [25, 50, 75])
        rows.append(
            {
                "network": name,
                "variant": variant,
                "threads": threads,
                "milliseconds": float(np.median(times[variant])) * 1e3,
                "speedup": float(middle),
                "quartiles": [float(low), float(high)],
                "megabytes": len(files[variant]) / 1e6,
                "multiply_adds": sa.channel_groups(network).multiply_adds,
            }
        )
        print(rows[-1], flush=True)
    return rows


def table(rows: list[dict]) -> str:
    """The rows as Markdown."""
    titles = ["network", "threads", "variant", "ms", "speed-up", "MB", "M MACs"]
    cells = [
        [
            row["network"],
            str(row["threads"]),
            row["variant"],
            f"{row['milliseconds']:.1f}",
            "{:.2f} ({:.2f}-{:.2f})".format(row["speedup"], *row["quartiles"]),
            f"{row['megabytes']:.1f}",
            f"{row['multiply_adds'] / 1e6:.0f}",
        ]
        for row in rows
    ]
    return markdown_table(titles, cells)


def main():
    """Measures, writes the results and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=10.0, help="for each file")
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS))
    arguments = parser.parse_args()
    rows = []
    for name in arguments.networks:
        for threads in arguments.threads:
            rows += measure(name, threads, arguments.seconds)
            content = json.dumps(rows, indent=1) + "\n"
            write_whole(RESULTS / "structural_speed.json", content)
            write_whole(RESULTS / "structural_speed.md", f"{HEAD}\n\n{table(rows)}\n")
    print(table(rows))


if __name__ == "__main__":
    main()
