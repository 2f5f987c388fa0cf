"""Measures how fast click logs are parsed, converted and read, and what training waits.

All programs read the same file of synthetic rows, in turns, in one process. Each round
gives one ratio to `pandas.read_csv` of that round. pandas and
`tf.data.experimental.make_csv_dataset` only parse. "convert" also encodes the rows and
writes them with their checksums, and "read" gives shuffled training batches.

For the share of a step spent waiting, the paper's model is trained step by step from
each pipeline. Both pipelines prefetch, and waiting is the time inside `next`.

    python benchmarks/criteo_input.py
"""

import argparse
import json
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import tempfile
import time

import tf_seqattn.criteo  # noqa: F401 (before anything touches tf.keras)

# isort: split
import numpy as np
import pandas as pd
import tensorflow as tf
import tf_keras as keras

from tf_seqattn.criteo.conversion import convert
from tf_seqattn.criteo.log.bad_rows import BadRows
from tf_seqattn.criteo.log.encoding import Encoding
from tf_seqattn.criteo.log.fields import CATEGORICAL_NAMES, COLUMNS, NUMERIC_NAMES
from tf_seqattn.criteo.log.parsing import parse_file
from tf_seqattn.criteo.log.streaming import read_batches
from tf_seqattn.criteo.log.synthetic import ClickSource
from tf_seqattn.criteo.models.click_model import ClickModel, build_network

RESULTS = pathlib.Path(__file__).parent / "results"
TABLE_SIZE = 512
PANDAS, CSV_DATASET = "pandas.read_csv", "make_csv_dataset"


def csv_dataset(path: pathlib.Path, batch_size: int) -> tf.data.Dataset:
    """TensorFlow's own text reader, with its default shuffling."""
    defaults = [0.0] * 14 + [""] * 26
    return tf.data.experimental.make_csv_dataset(
        str(path),
        batch_size,
        column_names=list(COLUMNS),
        column_defaults=defaults,
        label_name="label",
        field_delim="\t",
        use_quote_delim=False,
        header=False,
        num_epochs=1,
        num_parallel_reads=os.cpu_count(),
    )


def csv_batches(path: pathlib.Path, batch_size: int) -> tf.data.Dataset:
    """The same rows, encoded in the pipeline as in TensorFlow's guides."""

    def encode(features, labels):
        counts = tf.stack([features[name] for name in NUMERIC_NAMES], axis=1)
        words = tf.stack([features[name] for name in CATEGORICAL_NAMES], axis=1)
        ids = 1 + tf.strings.to_hash_bucket_fast(words, TABLE_SIZE)
        numeric = tf.math.log1p(tf.maximum(counts, 0.0))
        return {"numeric": numeric, "categorical": tf.cast(ids, tf.int32)}, labels

    dataset = csv_dataset(path, batch_size).repeat()
    return dataset.map(encode, tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)


def sides(path: pathlib.Path, work: pathlib.Path) -> dict:
    """The functions to time, by name; each reads all rows once."""
    encoding = Encoding(table_size=TABLE_SIZE)
    text = {name: str for name in CATEGORICAL_NAMES}

    def parse():
        for _ in parse_file(path, BadRows(0)):
            pass

    def converted():
        folder = work / "again"
        shutil.rmtree(folder, ignore_errors=True)
        convert(path, folder, encoding, validation_fraction=0.0, progress=False)

    def read():
        for _ in read_batches(work / "converted", "train", 4096, seed=0):
            pass

    def read_text():
        for _ in csv_dataset(path, 4096):
            pass

    return {
        PANDAS: lambda: pd.read_csv(
            path, sep="\t", header=None, names=COLUMNS, dtype=text, quoting=3
        ),
        CSV_DATASET: read_text,
        "parse": parse,
        "convert": converted,
        "read": read,
    }


def time_sides(calls: dict, rounds: int) -> dict[str, list[float]]:
    """Seconds of each function and round, in rotating order, after a warm-up round."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    names = list(calls)
    for number in range(rounds + 1):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            started = time.perf_counter()
            calls[name]()
            if number:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def shares_of_waiting(
    pipelines: dict[str, tf.data.Dataset], rounds: int, steps: int
) -> dict[str, list[float]]:
    """Share of the time that training waits for a batch, by pipeline and round."""
    model = ClickModel(build_network(TABLE_SIZE))
    model.compile(optimizer=keras.optimizers.Adam(2e-3))
    train_step = tf.function(model.train_step, reduce_retracing=True)
    iterators = {name: iter(dataset) for name, dataset in pipelines.items()}
    shares: dict[str, list[float]] = {name: [] for name in pipelines}
    for number in range(rounds + 1):
        for name, iterator in iterators.items():
            # Batches that were prefetched while the others trained are used up first.
            for _ in range(steps):
                train_step(next(iterator))
            waited = total = 0.0
            for _ in range(steps):
                started = time.perf_counter()
                batch = next(iterator)
                fetched = time.perf_counter()
                loss = train_step(batch)["loss"]
                loss.numpy()
                ended = time.perf_counter()
                waited += fetched - started
                total += ended - started
            if number:
                shares[name].append(waited / total)
    return shares


# The peak of the new process only: `getrusage` would include that of its parent.
_CONVERT = """
import sys
from tf_seqattn.criteo.conversion import main
main(sys.argv[1:])
for line in open("/proc/self/status"):
    if line.startswith("VmHWM"):
        print("PEAK", 1024 * int(line.split()[1]))
"""


def conversion_memory(source: ClickSource, sizes: list[int], work: pathlib.Path):
    """Peak memory, in bytes, of the command that converts so many rows."""
    peaks = {}
    for rows in sizes:
        path = work / f"{rows}.txt"
        source.write_tsv(path, rows)
        arguments = ["--data", str(path), "--output", str(work / f"converted_{rows}")]
        done = subprocess.run(
            [sys.executable, "-c", _CONVERT, *arguments],
            check=True,
            capture_output=True,
            text=True,
        )
        peaks[rows] = int(done.stdout.split("PEAK")[1])
        path.unlink()
    return peaks


def quartiles(values, form: str) -> str:
    """Median and quartiles as text."""
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
    return f"{middle:{form}} ({low:{form}} to {high:{form}})"


def report(measured: dict, command: str) -> str:
    """The tables as Markdown."""
    rows, size = measured["rows"], measured["file_bytes"]
    lines = [
        "# Reading click logs",
        "",
        f"`{command}` on {platform.machine()}, {os.cpu_count()} cores: {rows:,} "
        f"synthetic rows, {size / 1e6:.0f} MB of text, {measured['rounds']} rounds. "
        f"Ratios are to {PANDAS} of the same round: median (quartiles).",
        "",
        "| side | rows a second | times as fast as pandas |",
        "|---|---|---|",
    ]
    pandas = np.array(measured["seconds"][PANDAS])
    for name, seconds in measured["seconds"].items():
        rate = rows / np.median(seconds)
        ratio = quartiles(pandas / np.array(seconds), ".2f")
        lines.append(f"| {name} | {rate:,.0f} | {ratio} |")
    lines += [
        "",
        "Share of the training of the paper's model that is spent waiting for a batch:",
        "",
        "| batch | from converted rows | from make_csv_dataset |",
        "|---|---|---|",
    ]
    for batch, shares in measured["waiting"].items():
        cells = [quartiles(shares[name], ".1%") for name in ("read", CSV_DATASET)]
        lines.append(f"| {batch} | {' | '.join(cells)} |")
    lines += [
        "",
        "Converted rows take "
        f"{measured['converted_bytes'] / size:.2f} times the bytes of the text. "
        "Memory of the conversion at its peak: "
        + ", ".join(
            f"{peak / 1e9:.2f} GB for {count:,} rows"
            for count, peak in measured["peak_bytes"].items()
        )
        + ".",
    ]
    return "\n".join(lines) + "\n"


def main():
    """Measures and writes the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=300_000)
    parser.add_argument("--rounds", type=int, default=7, help="counted rounds")
    parser.add_argument("--steps", type=int, default=20, help="of a round of training")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        work = pathlib.Path(name)
        path = work / "clicks.txt"
        ClickSource(seed=0).write_tsv(path, options.rows)
        encoding = Encoding(table_size=TABLE_SIZE)
        manifest = convert(path, work / "converted", encoding, validation_fraction=0.0)
        measured = {
            "rows": options.rows,
            "rounds": options.rounds,
            "file_bytes": path.stat().st_size,
            "converted_bytes": sum(s.num_bytes for s in manifest.splits["train"]),
            "seconds": time_sides(sides(path, work), options.rounds),
            "waiting": {},
        }
        for batch in (2048, 32_768):
            steps = max(2, options.steps * 2048 // batch)
            pipelines = {
                "read": read_batches(work / "converted", "train", batch, 0).repeat(),
                CSV_DATASET: csv_batches(path, batch),
            }
            measured["waiting"][batch] = shares_of_waiting(
                pipelines, options.rounds, steps
            )
        sizes = [2 * options.rows, 8 * options.rows]
        peaks = conversion_memory(ClickSource(seed=0), sizes, work)
        measured["peak_bytes"] = peaks
    command = f"python benchmarks/criteo_input.py --rows {options.rows}"
    text = report(measured, f"{command} --rounds {options.rounds}")
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "criteo_input.md").write_text(text)
    (RESULTS / "criteo_input.json").write_text(json.dumps(measured, indent=1) + "\n")
    print(text)


if __name__ == "__main__":
    main()
