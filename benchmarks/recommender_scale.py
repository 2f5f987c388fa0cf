"""Times a training step of a click model against the rows of its tables.

Adam for everything, which moves every row in every step, beside Adagrad for the tables,
which moves the rows of the batch. Each cell is a process of its own, so that its peak
memory is its own; the two optimizers of a size run one after the other, in turns.

    python -m benchmarks.recommender_scale
"""

import argparse
import json
import os
import pathlib
import resource
import subprocess
import sys
import time

import numpy as np

from tf_seqattn.experiments.markdown_table import markdown_table
from tf_seqattn.experiments.progress import progress_bar
from tf_seqattn.files import write_json, write_whole

RESULTS = pathlib.Path(__file__).parent / "results"
OPTIMIZERS = ("adam", "adagrad")
_BATCH, _WARM_UP = 2048, 2


def measure(optimizer: str, rows: int, steps: int) -> dict:
    """Trains a few steps; returns seconds a step, peak bytes and bytes of variables."""
    import tensorflow as tf

    from tf_seqattn.criteo.models.click_model import ClickModel, build_network
    from tf_seqattn.criteo.models.optimizers import make_optimizer

    model = ClickModel(build_network(rows))
    random = np.random.default_rng(0)

    def batch():
        # Values of a log are skewed: most rows of a large table are rarely read.
        rank = np.minimum(random.zipf(1.2, (_BATCH, 26)), rows) - 1
        features = {
            "numeric": tf.constant(random.normal(size=(_BATCH, 13)), tf.float32),
            "categorical": tf.constant(rank, tf.int32),
        }
        return features, tf.constant(random.integers(0, 2, _BATCH), tf.float32)

    batches = [batch() for _ in range(4)]
    model(batches[0][0])
    model.compile(make_optimizer(model, 1e-3, optimizer))
    step = tf.function(lambda features, labels: model.train_step((features, labels)))
    seconds = []
    for number in range(_WARM_UP + steps):
        started = time.perf_counter()
        step(*batches[number % len(batches)])
        seconds.append(time.perf_counter() - started)
    slots = model.optimizer.variables
    slots = slots() if callable(slots) else slots
    variables = {v.ref(): v for v in [*model.variables, *slots]}
    return {
        "seconds": seconds[_WARM_UP:],
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "variable_bytes": sum(
            v.dtype.size * v.shape.num_elements() for v in variables.values()
        ),
    }


def _in_a_process(optimizer: str, rows: int, steps: int) -> dict:
    arguments = ["--cell", optimizer, str(rows), "--steps", str(steps)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.recommender_scale", *arguments],
        check=True,
        capture_output=True,
        text=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def report(cells: dict[tuple[str, int], list[dict]], command: str) -> str:
    """The page: a row for each number of rows."""
    base = {
        name: np.median(np.concatenate([c["seconds"] for c in found]))
        for (name, rows), found in cells.items()
        if rows == min(rows for _, rows in cells)
    }
    table = []
    for (name, rows), found in cells.items():
        seconds = np.concatenate([c["seconds"] for c in found])
        low, median, high = np.quantile(seconds, [0.25, 0.5, 0.75])
        table.append(
            [
                f"{rows:,}",
                name,
                f"{1e3 * median:.0f} ({1e3 * low:.0f} to {1e3 * high:.0f})",
                f"{median / base[name]:.2f}",
                f"{max(c['peak_bytes'] for c in found) / 1e9:.2f}",
                f"{found[0]['variable_bytes'] / 1e9:.2f}",
            ]
        )
    titles = [
        "rows of each of 26 tables",
        "optimizer of the tables",
        "ms a step (quartiles)",
        "times the smallest tables",
        "peak GB",
        "GB of weights and slots",
    ]
    return (
        "# Training steps of recommenders with large tables\n\n"
        f"`{command}` on {os.cpu_count()} cores: the paper's click model, batches of "
        f"{_BATCH}, vectors of 10.\n\n{markdown_table(titles, table)}"
    )


def main() -> None:
    """Measures every cell in turns, and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--rows", type=int, nargs="+", default=[512, 10_000, 100_000, 1_000_000])
    add("--steps", type=int, default=6, help="that are timed, in each turn")
    add("--turns", type=int, default=2, help="processes for each cell")
    add("--cell", nargs=2, help="optimizer and rows of one cell, printed as JSON")
    options = parser.parse_args()
    if options.cell:
        optimizer, rows = options.cell
        print(json.dumps(measure(optimizer, int(rows), options.steps)))
        return
    cells: dict[tuple[str, int], list[dict]] = {}
    with progress_bar(
        options.turns * len(options.rows) * len(OPTIMIZERS), "cells", "Scale"
    ) as bar:
        for _ in range(options.turns):
            for rows in options.rows:
                for name in OPTIMIZERS:
                    found = _in_a_process(name, rows, options.steps)
                    cells.setdefault((name, rows), []).append(found)
                    bar.update(1)
    text = report(cells, "python -m benchmarks.recommender_scale")
    write_whole(RESULTS / "recommender_scale.md", text)
    write_json(
        RESULTS / "recommender_scale.json",
        [{"optimizer": n, "rows": r, "turns": c} for (n, r), c in cells.items()],
    )
    print(text)


if __name__ == "__main__":
    main()
