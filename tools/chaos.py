"""Kills and starves commands at random, and checks that nothing is lost.

    python -m tools.chaos --kills 20

Each subject is run once undisturbed, and then again and again in one folder, killed by
SIGKILL at random moments until it ends by itself. It must end with the same rows,
weights and result. Then the writing steps run under a limit on the size of files, as on
a full disk: without the limit, the same command must end as the undisturbed one did.
Last, a file that a killed run left is emptied, cut in half or changed in one byte. The
same command must then end as the undisturbed one did, or fail and name that file or its
folder. `docs/reliability.md` says what is promised.
"""

import argparse
import json
import os
import pathlib
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from tf_seqattn.experiments.command_line import command_text
from tf_seqattn.experiments.markdown_table import markdown_table
from tf_seqattn.files import write_json, write_whole
from tf_seqattn.inference.litert import interpreter

ROOT = pathlib.Path(__file__).resolve().parents[1]
# The first stops small files too, the second only large ones.
_LARGEST_FILES = (2_000, 100_000)

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
schedule = sa.GradualSchedule(0.9, end_step=600)
model = sa.prune(model, schedule, block_size=(8, 8))
model.compile(keras.optimizers.Adam(1e-3), "mse")
x = np.random.default_rng(0).normal(size=(640, 64)).astype("float32")
model.fit(x, x.sum(1), batch_size=32, epochs=40, shuffle=False, verbose=0, callbacks=[
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


IMAGENET = """
import sys
import tf_keras as keras
from tf_seqattn.imagenet import __main__ as command, training
def small(num_classes, size, weight_decay):
    return keras.Sequential([
        keras.Input((size, size, 3)), keras.layers.Conv2D(16, 3, activation="relu"),
        keras.layers.BatchNormalization(), keras.layers.Conv2D(64, 3),
        keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(num_classes)])
training.build_model = small
command.main(sys.argv[1:])
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


def _image_training(folder: pathlib.Path) -> Any:
    (run,) = (folder / "i").glob("recommended_*")
    result = json.loads((run / "result.json").read_text())
    # The names inside of the file count what was traced before it.
    images = np.random.default_rng(0).random((4, 16, 16, 3), "float32")
    made = interpreter((run / "model.tflite").read_bytes(), [images], num_threads=1)
    made.invoke()
    outputs = made.get_tensor(made.get_output_details()[0]["index"])
    return result["loss"], result["sparsity"], outputs.tolist()


def _exports(folder: pathlib.Path) -> Any:
    assert (folder / "saved" / "saved_model.pb").exists()
    return (folder / "model.tflite").read_bytes()


def subjects(log: pathlib.Path) -> list[Subject]:
    """Returns what is disturbed.

    Args:
      log: of clicks.
    """
    train = "--table-size 64 --batch-size 256 --steps 301".split()
    images = "--algorithm recommended --block-size 4 --size 16 --images 256 --epochs 12"
    images += " --batch-size 16 --classes 4"
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
        Subject(
            "ImageNet recipe",
            lambda f: ["-c", IMAGENET, *images.split(), "--output", str(f / "i")],
            _image_training,
        ),
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


def starve(subject: Subject, expected: Any, largest_file: int) -> bool:
    """Runs a subject with a limit on the size of its files, and then without.

    Args:
      subject: what is run.
      expected: its outcome, undisturbed.
      largest_file: bytes that a file may have.

    Returns:
      Whether the limit stopped it.

    Raises:
      RuntimeError: if the same command then does not end as the undisturbed one.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        process = _start(subject.command(folder), largest_file)
        process.communicate()
        stopped = process.returncode != 0
        _finish(_start(subject.command(folder)))
        if subject.outcome(folder) != expected:
            raise RuntimeError(f"{subject.name}: another outcome after a full disk.")
    return stopped


def _damage(path: pathlib.Path, how: str, rng: random.Random) -> None:
    """Changes a file: it is `how` "emptied", "cut" or "changed" in one byte."""
    content = bytearray(path.read_bytes())
    if how == "emptied":
        content.clear()
    elif how == "cut":
        del content[len(content) // 2 :]
    else:
        content[rng.randrange(len(content))] ^= 1
    path.write_bytes(content)


def _names_it(errors: str, path: pathlib.Path) -> bool:
    """Whether an error names a file, or a folder that it is in."""
    return path.name in errors or path.parent.name in errors


def _kind(path: pathlib.Path, root: pathlib.Path) -> str:
    """A file's folder and name without numbers, so that one shard stands for all."""
    return re.sub(r"[0-9a-f]{8,}|\d+", "#", str(path.relative_to(root)))


def _left_by_a_kill(
    subject: Subject, folder: pathlib.Path, seconds: float
) -> list[pathlib.Path]:
    """Kills a subject late in its work; returns a file of every kind in its folder."""
    process = _start(subject.command(folder))
    try:
        process.wait(0.8 * seconds)
    except subprocess.TimeoutExpired:
        process.kill()
    process.communicate()
    files = [p for p in sorted(folder.rglob("*")) if p.is_file() and p.stat().st_size]
    return list({_kind(path, folder): path for path in files}.values())


def tamper(
    subject: Subject, expected: Any, seconds: float, limit: int, rng: random.Random
) -> tuple[int, int]:
    """Damages files that a killed run left, one at a time, and goes on.

    Args:
      subject: what is run.
      expected: its outcome, undisturbed.
      seconds: that it takes, undisturbed.
      limit: number of damages; they are drawn from all that are possible.
      rng: draws them.

    Returns:
      How many were mended or did no harm, and how many were named by an error.

    Raises:
      RuntimeError: if a run ends otherwise than undisturbed, or with another error.
    """
    mended = named = 0
    with tempfile.TemporaryDirectory() as name:
        left = pathlib.Path(name) / "left"
        left.mkdir()
        files = [
            path.relative_to(left) for path in _left_by_a_kill(subject, left, seconds)
        ]
        every = [(f, how) for f in files for how in ("emptied", "cut", "changed")]
        for file, how in rng.sample(every, min(limit, len(every))):
            # In one place, since a run may note where it works.
            folder = pathlib.Path(name) / "run"
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(left, folder, symlinks=True)
            _damage(folder / file, how, rng)
            process = _start(subject.command(folder))
            _, errors = process.communicate()
            if process.returncode and _names_it(errors, folder / file):
                named += 1
            elif process.returncode:
                raise RuntimeError(f"{subject.name}, {file} {how}:\n{errors[-3000:]}")
            elif subject.outcome(folder) != expected:
                raise RuntimeError(f"{subject.name}, {file} {how}: another outcome.")
            else:
                mended += 1
    return mended, named


def disturbed_in_every_way(
    subject: Subject, kills: int, damages: int, rng: random.Random
) -> list[str]:
    """Returns a row of the table: name, seconds, kills, full disk, damages."""
    expected, seconds = undisturbed(subject)
    hits = disturb(subject, expected, seconds, kills, rng)
    stopped = sum(starve(subject, expected, largest) for largest in _LARGEST_FILES)
    mended, named = tamper(subject, expected, seconds, damages, rng)
    counts = [hits, stopped, mended, named]
    return [subject.name, f"{seconds:.0f}", *map(str, counts)]


_TITLES = [
    "subject",
    "seconds undisturbed",
    "kills at work, all resumed to the same end",
    "stopped by a full disk, resumed to the same end",
    "damaged files mended",
    "damaged files named by an error",
]


def _known(results: pathlib.Path | None) -> dict[str, list[str]]:
    path = results.with_suffix(".json") if results else None
    return json.loads(path.read_text()) if path and path.exists() else {}


def _page(rows: list[list[str]]) -> str:
    kills = sum(int(row[2]) for row in rows)
    text = f"{kills} kills in all. Made by `{command_text('tools.chaos', None)}`."
    return f"# Disturbed runs\n\n{text}\n\n{markdown_table(_TITLES, rows)}"


def main() -> None:
    """Disturbs every subject and prints a table of what happened."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20, help="at least, of each")
    parser.add_argument("--damages", type=int, default=12, help="at most, of each")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--subjects", nargs="+", help="names; all by default")
    parser.add_argument(
        "--results",
        type=pathlib.Path,
        help="Markdown file for the table; subjects that it has are not repeated",
    )
    options = parser.parse_args()
    # What an interrupted run has found, by subject.
    rows = _known(options.results)
    with tempfile.TemporaryDirectory() as name:
        log = pathlib.Path(name) / "clicks.txt"
        made = (
            "import sys; from tf_seqattn.criteo.log.synthetic import ClickSource; "
            "ClickSource(3, 60).write_tsv(__import__('pathlib').Path(sys.argv[1]), "
            "20_000, progress=False)"
        )
        _finish(_start(["-c", made, str(log)]))
        for subject in subjects(log):
            chosen = options.subjects is None or subject.name in options.subjects
            if not chosen or subject.name in rows:
                continue
            rng = random.Random(f"{options.seed} {subject.name}")
            rows[subject.name] = disturbed_in_every_way(
                subject, options.kills, options.damages, rng
            )
            print(" | ".join(rows[subject.name]), flush=True)
            if options.results:
                write_json(options.results.with_suffix(".json"), rows)
                write_whole(options.results, _page(list(rows.values())))
    print(f"\n{markdown_table(_TITLES, rows.values())}")


if __name__ == "__main__":
    main()
