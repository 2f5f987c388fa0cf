"""Kills and starves commands at random, and checks that nothing is lost.

    python tools/chaos.py --kills 20

Each subject is run once undisturbed, and then again and again in one folder, killed by
SIGKILL at random moments until it ends by itself. It must end with the same rows,
weights and result. Then the writing steps run under a limit on the size of files, as on
a full disk: the error must name the cause, and without the limit the same command must
end as the undisturbed one did. `docs/reliability.md` says what is promised.
"""

import argparse
import json
import os
import pathlib
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[1]
_LARGEST_FILE = 100_000

CONVERSION = """
import sys
from tf_seqattn.criteo import conversion
from tf_seqattn.criteo.log import units
units._UNIT_BYTES, units._SHARD_ROWS = 200_000, 2_000
conversion.main(sys.argv[1:])
"""
FIT = """
import importlib, sys
import numpy as np
import tf_seqattn as sa
keras, folder = importlib.import_module(sys.argv[1]), sys.argv[2]
keras.utils.set_random_seed(0)
model = keras.Sequential([
    keras.Input((64,)), keras.layers.Dense(256, "relu"), keras.layers.Dense(1)])
schedule = sa.GradualSchedule(0.9, end_step=1500)
model = sa.prune(model, schedule, block_size=(8, 8))
model.compile(keras.optimizers.Adam(1e-3), "mse")
x = np.random.default_rng(0).normal(size=(640, 64)).astype("float32")
model.fit(x, x.sum(1), batch_size=32, epochs=100, shuffle=False, verbose=0, callbacks=[
    sa.UpdatePruningStep(), sa.BackupAndRestore(f"{folder}/backup")])
stripped = sa.strip_pruning(model)
np.savez(f"{folder}/weights.npz", *stripped.get_weights())
"""
EXPORT = """
import sys
import numpy as np
import tf_keras as keras
import tf_seqattn as sa
keras.utils.set_random_seed(0)
model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(1024)])
sa.export_saved_model(model, sys.argv[1] + "/saved")
sa.export_tflite(model, sys.argv[1] + "/model.tflite", "dense")
"""


class Subject(NamedTuple):
    """What is disturbed.

    Attributes:
      name: for the table.
      command: from the folder to write in to the arguments of Python.
      outcome: from the same folder to what must not depend on disturbances.
    """

    name: str
    command: Callable[[pathlib.Path], list[str]]
    outcome: Callable[[pathlib.Path], Any]


def _shards(folder: pathlib.Path) -> Any:
    return json.loads((folder / "c" / "manifest.json").read_text())["splits"]


def _click_training(folder: pathlib.Path) -> Any:
    result = json.loads((folder / "t" / "result.json").read_text())
    kept = {name: result[name] for name in ("log_loss", "auc", "steps")}
    assert (folder / "t" / "served" / "saved_model.pb").exists()
    assert not (folder / "t" / "backup").exists()
    return kept, (folder / "t" / "perceptron.tflite").read_bytes()


def _weights(folder: pathlib.Path) -> Any:
    with np.load(folder / "weights.npz") as weights:
        return [weights[name].tobytes() for name in weights.files]


def _exports(folder: pathlib.Path) -> Any:
    assert (folder / "saved" / "saved_model.pb").exists()
    return (folder / "model.tflite").read_bytes()


def subjects(log: pathlib.Path) -> list[Subject]:
    """Returns what is disturbed.

    Args:
      log: of clicks.
    """
    train = "--table-size 64 --batch-size 256 --steps 301".split()
    return [
        Subject(
            "conversion",
            lambda f: ["-c", CONVERSION, f"--data={log}", f"--output={f / 'c'}"],
            _shards,
        ),
        Subject(
            "click training",
            lambda f: [
                *("-m", "tf_seqattn.criteo.train", "--data", str(log)),
                *("--output", str(f / "t"), *train),
            ],
            _click_training,
        ),
        Subject("fit, Keras 2", lambda f: ["-c", FIT, "tf_keras", str(f)], _weights),
        Subject("fit, Keras 3", lambda f: ["-c", FIT, "keras", str(f)], _weights),
        Subject("exports", lambda f: ["-c", EXPORT, str(f)], _exports),
    ]


def _start(
    arguments: list[str], largest_file: int | None = None
) -> subprocess.Popen[str]:
    def limit() -> None:
        if largest_file is not None:
            # Writing then fails, as on a full disk, and does not end the process.
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))

    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=limit,
    )


def _finish(process: subprocess.Popen[str]) -> None:
    _, errors = process.communicate()
    if process.returncode:
        raise RuntimeError(f"It did not go on:\n{errors[-3000:]}")


def undisturbed(subject: Subject) -> tuple[Any, float]:
    """Returns the outcome of a subject, and the seconds that it takes."""
    with tempfile.TemporaryDirectory() as name:
        folder, started = pathlib.Path(name), time.perf_counter()
        _finish(_start(subject.command(folder)))
        return subject.outcome(folder), time.perf_counter() - started


def disturb(
    subject: Subject, expected: Any, seconds: float, kills: int, rng: random.Random
) -> int:
    """Kills a subject at random moments; returns how often that hit it at work.

    Raises:
      RuntimeError: if it does not go on, or ends otherwise than undisturbed.
    """
    hits = 0
    while hits < kills:
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            for _ in range(3):
                process = _start(subject.command(folder))
                try:
                    # Most of the time goes into imports, in which nothing can be lost.
                    process.wait(seconds * rng.uniform(0.4, 1.0))
                except subprocess.TimeoutExpired:
                    process.kill()
                    hits += 1
                process.communicate()
            _finish(_start(subject.command(folder)))
            if subject.outcome(folder) != expected:
                raise RuntimeError(f"{subject.name}: another outcome after a kill.")
    return hits


def starve(subject: Subject, expected: Any) -> bool:
    """Runs a subject with a limit on the size of its files, and then without.

    Returns:
      Whether the limit stopped it.

    Raises:
      RuntimeError: if the same command then does not end as the undisturbed one.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        process = _start(subject.command(folder), _LARGEST_FILE)
        process.communicate()
        stopped = process.returncode != 0
        _finish(_start(subject.command(folder)))
        if subject.outcome(folder) != expected:
            raise RuntimeError(f"{subject.name}: another outcome after a full disk.")
    return stopped


def main() -> None:
    """Disturbs every subject, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20, help="at least, of each")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--subjects", nargs="+", help="names; all by default")
    options = parser.parse_args()
    rng = random.Random(options.seed)
    print("| subject | seconds | kills | stopped by a full disk |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        log = pathlib.Path(name) / "clicks.txt"
        made = (
            "import sys; from tf_seqattn.criteo.log.synthetic import ClickSource; "
            "ClickSource(3, 60).write_tsv(__import__('pathlib').Path(sys.argv[1]), "
            "20_000, progress=False)"
        )
        _finish(_start(["-c", made, str(log)]))
        for subject in subjects(log):
            if options.subjects and subject.name not in options.subjects:
                continue
            expected, seconds = undisturbed(subject)
            hits = disturb(subject, expected, seconds, options.kills, rng)
            stopped = "yes" if starve(subject, expected) else "no"
            print(
                f"| {subject.name} | {seconds:.0f} | {hits} | {stopped} |", flush=True
            )


if __name__ == "__main__":
    main()
