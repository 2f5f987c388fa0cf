"""How wide a dense network is that takes as long as a pruned one, on this machine."""

import json
import pathlib
import tempfile
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tf_keras as keras

import tf_seqattn as sa
from benchmarks.quality_tasks.data import split
from benchmarks.quality_tasks.fixed_support import FixedSupport
from benchmarks.quality_tasks.tasks import Task
from tf_seqattn.comparison.files import time_files
from tf_seqattn.files import write_json

# Rows of a call.
BATCH = 64
# Of the full width; other widths are interpolated.
_SHARES = (0.02, 0.05, 0.1, 0.2, 0.3, 0.45, 0.6, 0.8, 1.0)
_SECONDS = 3.0


class EqualLatency(NamedTuple):
    """A pruned network and its dense rivals.

    Attributes:
      dense: microseconds of a call of the dense network.
      pruned: the same of the pruned one.
      share: of the width, at which a dense network takes as long as the pruned one.
    """

    dense: float
    pruned: float
    share: float


def share_as_fast(shares: np.ndarray, times: np.ndarray, wanted: float) -> float:
    """The share of the width at which a network takes a given time.

    Args:
      shares: of the full width, `(n,)`, rising to 1.
      times: of the networks of these widths, `(n,)`, in any unit.
      wanted: a time. Beyond both ends the nearest share is returned.

    Example:

    >>> share_as_fast(np.array([0.5, 1.0]), np.array([10.0, 30.0]), 20.0)
    0.75
    """
    # A wider network is no faster, whatever the clock says.
    return float(np.interp(wanted, np.maximum.accumulate(times), shares))


def tflite_of(model: keras.Model, rows: np.ndarray) -> bytes:
    """A TFLite file of a model without pruning, for a batch like `rows`."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "model.tflite"
        sa.export_tflite(model, path, batch_size=len(rows))
        return path.read_bytes()


def medians(files: dict[str, bytes], rows: np.ndarray) -> dict[str, float]:
    """Microseconds of a call of each TFLite file, timed in turns on one thread."""
    named = {name: (file, None) for name, file in files.items()}
    timed = time_files(named, rows, num_threads=1, seconds=_SECONDS)
    return {name: latency.median for name, latency in timed.items()}


def measured_once(
    file: pathlib.Path, measure: Callable[[], EqualLatency]
) -> EqualLatency:
    """What a file holds; if it is missing, it is measured and written first."""
    if not file.exists():
        write_json(file, measure()._asdict())
    return EqualLatency(**json.loads(file.read_text()))


def _without_blocks(task: Task, sparsity: float, block_size: int) -> keras.Model:
    """The network of a task, its random weights without random blocks."""
    model = task.network()
    support = FixedSupport(sparsity, block_size, task.steps, None, seed=0)
    support.set_model(model)
    support.on_train_begin()
    return model


def compare_latency(
    pruned: bytes, build: Callable[[float], keras.Model], rows: np.ndarray
) -> EqualLatency:
    """Times dense networks of several widths and a pruned one, in turns.

    Args:
      pruned: its TFLite file.
      build: makes a dense network of a share of the width.
      rows: the batch of a call.
    """
    files = {str(share): tflite_of(build(share), rows) for share in _SHARES}
    files["pruned"] = pruned
    median = medians(files, rows)
    dense = np.array([median[str(share)] for share in _SHARES])
    share = share_as_fast(np.array(_SHARES), dense, median["pruned"])
    return EqualLatency(float(dense[-1]), median["pruned"], share)


def equal_latency(task: Task, sparsity: float, block_size: int) -> EqualLatency:
    """Compares the network of a task with itself without random blocks.

    Args:
      task: gives the network and its rows.
      sparsity: share of the blocks that are removed from the hidden layers.
      block_size: side of a block.
    """
    keras.utils.set_random_seed(0)
    rows = split(task.data)[0][:BATCH]
    pruned = tflite_of(_without_blocks(task, sparsity, block_size), rows)
    return compare_latency(pruned, task.network, rows)
