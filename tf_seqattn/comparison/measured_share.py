"""The share of the channels without which a model is as fast as wanted."""

import pathlib
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np

from tf_seqattn.comparison import files
from tf_seqattn.comparison.train_and_measure import PRECISIONS
from tf_seqattn.inference.latency import time_files
from tf_seqattn.keras_api import Model
from tf_seqattn.kernels.channel_groups import channel_groups
from tf_seqattn.kernels.channel_walk import has_graph
from tf_seqattn.kernels.smaller_model import smaller_model
from tf_seqattn.model_editing import copy_layer
from tf_seqattn.sparsity.channel_pruning import (
    LARGEST_SHARE,
    check_channels,
    live_after,
    prunable_groups,
)

# Where the bisection ends. Rounding to units is coarser in most models.
_PRECISION = 0.01


def share_for_latency(
    model: Model,
    latency: float,
    inputs: Any,
    precision: str = "float32",
    num_threads: int = 1,
    round_to: int = 8,
    seconds: float = 2.0,
    print_fn: Callable[[str], object] = print,
) -> float:
    """The smallest share of the channels to remove for a latency, by measurement.

    It is the share for a schedule of `sa.prune(..., block_size="channels")`. Copies of
    the model without some of its channels become TFLite files, which LiteRT runs in
    turns with the file of the whole model, on this machine. Which channels go does not
    matter for that, so nothing is trained, and the model is not changed. The share is
    found by bisection, in about seven steps.

    Args:
      model: a built Sequential or functional model, without pruning.
      latency: the time of a call to reach, as a share of the whole model's, between 0
        and 1.
      inputs: the batch of a call: an array, or a list or dictionary with one for each
        input. It also gives the ranges of int8.
      precision: of the files: "float32", "float16", "dynamic" or "int8".
      num_threads: of LiteRT.
      round_to: as in `sa.prune`, to which the same value must be given.
      seconds: how long two files are timed, in all; ten turns of each at least.
      print_fn: called with a line after each measurement.

    Returns:
      The share, in (0, 1). Times are noisy, and so are its last digits: keep it with
      the results.

    Raises:
      ValueError: if an argument is out of range, the latency cannot be reached, or the
        model cannot be copied, such as a subclassed one.

    Example:

    >>> hidden = [keras.layers.Dense(512, activation="relu") for _ in range(2)]
    >>> model = keras.Sequential([keras.Input((8,)), *hidden, keras.layers.Dense(2)])
    >>> one, quiet = np.ones((1, 8)), lambda line: None
    >>> share = share_for_latency(
    ...     model, 0.8, one, round_to=256, seconds=0.2, print_fn=quiet
    ... )
    >>> schedule = sa.SequentialAttentionSchedule(share, end_step=1000)
    >>> pruned = sa.prune(model, schedule, block_size="channels", round_to=256)
    """
    check_channels(model, None, round_to)
    _check(latency, precision)
    groups = channel_groups(model)
    _check_copies(model, list(groups.trace.holders.values()))
    prunable = prunable_groups(groups)
    whole, names = _file(model, precision, inputs, num_threads)
    batch = files.in_order(inputs, names)
    known: dict[bytes, float] = {}

    def ratio(share: float) -> float:
        live = live_after(groups, ((group, share) for group in prunable), round_to)
        if live.tobytes() not in known:
            smaller = smaller_model(model, groups.trace, live)
            file, _ = _file(smaller, precision, inputs, num_threads)
            both = {"whole": (whole, batch, names), "smaller": (file, batch, names)}
            times = time_files(both, num_threads, seconds)
            # Other work slows both of a turn alike.
            found = float(np.median(times["smaller"] / times["whole"]))
            known[live.tobytes()] = found
            print_fn(f"without {share:.1%} of the channels: {found:.1%} of the time")
        return known[live.tobytes()]

    low, high = 0.0, LARGEST_SHARE
    if not prunable or ratio(high) > latency:
        least = ratio(high) if prunable else 1.0
        raise ValueError(
            f"A latency of {latency:.1%} cannot be reached: removing {high:.0%} of "
            f"each group leaves {least:.1%}. print(sa.channel_groups(model)) shows "
            f"what stays, and why. Received: latency={latency!r}"
        )
    while high - low > _PRECISION:
        middle = (low + high) / 2
        low, high = (middle, high) if ratio(middle) > latency else (low, middle)
    return high


def _check(latency: float, precision: str) -> None:
    if not 0.0 < latency < 1.0:
        raise ValueError(
            "`latency` must be between 0 and 1: a share of the time that the whole "
            f"model takes. Received: latency={latency!r}"
        )
    if precision not in PRECISIONS:
        raise ValueError(
            f"`precision` must be one of {PRECISIONS}. Received: "
            f"precision={precision!r}"
        )


def _check_copies(model: Model, holders: list[Any]) -> None:
    """Raises if a smaller model would be the same object, changed."""
    only = [layer.name for layer in holders if copy_layer(layer) is None]
    if not has_graph(model) or only:
        why = f"layers {only} have no configuration"
        why = why if has_graph(model) else "it is subclassed"
        raise ValueError(
            f"Model {model.name!r} cannot be copied: {why}. Make a Sequential or "
            "functional model, or give sa.prune `target_flops` in place of a latency."
        )


def _file(
    model: Model, precision: str, inputs: Any, num_threads: int
) -> tuple[bytes, list[str]]:
    """The TFLite file of a model, and the names of its inputs."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "model.tflite"
        # Only its time counts: without its channels the model computes nothing useful.
        names = files.write(
            model, path, precision, inputs, num_threads, tolerance=np.inf
        )
        return path.read_bytes(), names
