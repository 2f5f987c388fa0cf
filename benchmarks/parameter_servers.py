"""How busy workers of parameter servers are, by the steps given out at a time.

Masks are updated between steps, when no worker runs one, so all wait there for the
slowest. Real clusters of 1, 2 and 4 worker processes on this machine train a small
click model whose batches take a set time each, as a slow disk or network would, so that
few cores can play many workers. Up to 64 workers are simulated, with step times that
vary as a log-normal.

    pip install 'tf-seqattn[recommenders]'
    python -m benchmarks.parameter_servers
"""

import argparse
import heapq
import json
import os
import pathlib
import socket
import subprocess
import sys
import time

import numpy as np

import tf_seqattn.criteo  # noqa: F401 (before anything touches tf.keras)

# isort: split
import tensorflow as tf
import tf_keras as keras
from tensorflow.python.data.experimental.ops import testing

import tf_seqattn as sa
from tf_seqattn.criteo.models import training
from tf_seqattn.criteo.models.click_model import (
    ClickModel,
    build_network,
    prune_first_layer,
)
from tf_seqattn.experiments.markdown_table import markdown_table
from tf_seqattn.experiments.progress import progress_bar
from tf_seqattn.experiments.strategies import make_strategy, serve_cluster
from tf_seqattn.files import write_json, write_whole

RESULTS = pathlib.Path(__file__).parent / "results"
BATCH, BATCH_SECONDS, WARM_UP = 128, 0.1, 20
FIXED = 10


def slow_batches() -> tf.data.Dataset:
    """Endless random batches, one in `BATCH_SECONDS`."""
    numeric = tf.random.normal((BATCH, 13))
    rows = tf.random.uniform((BATCH, 26), 0, 65, tf.int32)
    labels = tf.cast(tf.random.uniform((BATCH,)) < 0.3, tf.float32)
    features = {"numeric": numeric, "categorical": rows}
    data = tf.data.Dataset.from_tensors((features, labels)).repeat()
    # The private function is the only dataset that waits without holding a core.
    return data.apply(testing.sleep(round(1e6 * BATCH_SECONDS)))


def serve_or_train(between: int | None, steps: int) -> None:
    """One process of a cluster; the chief prints seconds a step as JSON."""
    serve_cluster()
    strategy = make_strategy("parameter_server")
    with strategy.scope():
        schedule = sa.GradualSchedule(0.9, end_step=10 * steps)
        network = prune_first_layer(build_network(64), schedule, 20, sa.Magnitude())
        model = ClickModel(network)
        model.compile(optimizer=keras.optimizers.Adam(2e-3))
    ends = []
    training.fit_with_parameter_servers(
        strategy,
        model,
        slow_batches,
        WARM_UP + steps,
        between,
        progress=lambda steps: ends.append((time.perf_counter(), steps)),
    )
    done = np.cumsum([steps for _, steps in ends])
    # Tracing belongs to the first steps.
    first = int(np.searchsorted(done, WARM_UP))
    seconds = ends[-1][0] - ends[first][0]
    print(json.dumps(seconds / int(done[-1] - done[first])))


def measure(workers: int, between: int | None, steps: int) -> float:
    """Seconds a step of a cluster of processes on this machine."""
    sockets = [socket.create_server(("localhost", 0)) for _ in range(workers + 2)]
    chief, server, *others = [f"localhost:{s.getsockname()[1]}" for s in sockets]
    for each in sockets:
        each.close()
    cluster = {"chief": [chief], "ps": [server], "worker": others}
    arguments = ["--process", str(between or 0), "--steps", str(steps)]

    def run(kind: str, index: int, **options) -> subprocess.Popen:
        task = {"cluster": cluster, "task": {"type": kind, "index": index}}
        return subprocess.Popen(
            [sys.executable, "-m", "benchmarks.parameter_servers", *arguments],
            env={**os.environ, "TF_CONFIG": json.dumps(task)},
            stderr=subprocess.DEVNULL,
            text=True,
            **options,
        )

    servers = [run("ps", 0), *(run("worker", index) for index in range(workers))]
    try:
        output, _ = run("chief", 0, stdout=subprocess.PIPE).communicate(timeout=600)
    finally:
        for process in servers:
            process.kill()
            process.wait()
    return float(json.loads(output.splitlines()[-1]))


def simulate(workers: int, between: int, spread: float, rounds: int = 200) -> float:
    """Share of the time in which a worker computes.

    Args:
      workers: how many there are; each takes the next step when it is free.
      between: steps that are given out before all wait.
      spread: standard deviation of the log of a step's time.
      rounds: how often they wait.
    """
    random = np.random.default_rng(0)
    busy = elapsed = 0.0
    for _ in range(rounds):
        steps = random.lognormal(0.0, spread, between)
        free = [0.0] * workers
        for step in steps:
            heapq.heappush(free, heapq.heappop(free) + step)
        busy += steps.sum()
        elapsed += max(free)
    return busy / (elapsed * workers)


def report(measured: list[dict], steps: int) -> str:
    """Measured speed, and the simulated share of busy time."""
    alone = {r["between"]: r["seconds"] for r in measured if r["workers"] == 1}
    rows = []
    for r in measured:
        speed = alone[r["between"]] / r["seconds"]
        given = r["between"] or f"{training.STEPS_A_WORKER} a worker"
        rows.append(
            [str(r["workers"]), str(given), f"{1e3 * r['seconds']:.0f}", f"{speed:.2f}"]
        )
    titles = ["worker processes", "steps given out", "ms a step", "times one worker"]
    simulated = []
    for workers in (2, 4, 8, 16, 32, 64):
        each = training.STEPS_A_WORKER * workers
        shares = [
            simulate(workers, between, spread)
            for between in (FIXED, each)
            for spread in (0.2, 0.5)
        ]
        simulated.append([str(workers), *(f"{share:.0%}" for share in shares)])
    ours = f"{training.STEPS_A_WORKER} a worker"
    return (
        "# Workers of parameter servers\n\n"
        f"`python -m benchmarks.parameter_servers --steps {steps}` on "
        f"{os.cpu_count()} cores. A batch of a worker takes {1e3 * BATCH_SECONDS:.0f} "
        f"ms, whatever the cores do.\n\n{markdown_table(titles, rows)}\n"
        "## Simulated: share of the time in which a worker computes\n\n"
        "The time of a step is log-normal; the number is the standard deviation of "
        "its log.\n\n"
        + markdown_table(
            ["workers"]
            + [f"{n}, {s}" for n in (f"{FIXED} in all", ours) for s in (0.2, 0.5)],
            simulated,
        )
    )


def main() -> None:
    """Measures, simulates and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--steps", type=int, default=400, help="that are timed")
    add("--process", type=int, help="steps given out, of one process of a cluster")
    options = parser.parse_args()
    if options.process is not None:
        serve_or_train(options.process or None, options.steps)
        return
    measured = []
    cells = [(w, between) for between in (FIXED, None) for w in (1, 2, 4)]
    with progress_bar(len(cells), "clusters", "Measured") as bar:
        for workers, between in cells:
            seconds = measure(workers, between, options.steps)
            measured.append(
                {"workers": workers, "between": between, "seconds": seconds}
            )
            bar.update(1)
    text = report(measured, options.steps)
    write_whole(RESULTS / "parameter_servers.md", text)
    write_json(RESULTS / "parameter_servers.json", measured)
    print(text)


if __name__ == "__main__":
    main()
