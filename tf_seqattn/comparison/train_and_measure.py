"""Trains and measures candidates, and says which ones no other beats."""

import dataclasses
import itertools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import tensorflow as tf

from tf_seqattn.comparison import files
from tf_seqattn.comparison.candidates import (
    DENSE,
    Candidate,
    Recipe,
    candidates,
    trained,
)
from tf_seqattn.comparison.picture import save_picture
from tf_seqattn.comparison.result import Frontier, Point
from tf_seqattn.comparison.store import Store
from tf_seqattn.files import write_json, write_whole
from tf_seqattn.keras_api import Callback, Model, keras2, keras3

PRECISIONS = ("float32", "float16", "dynamic", "int8")


def _check_shares(name: str, values: Sequence[float], highest: float) -> None:
    if any(not 0 < value <= highest or value == 1 < highest for value in values):
        raise ValueError(
            f"`{name}` must hold shares above 0 and at most {highest:g}. Received: "
            f"{name}={tuple(values)!r}"
        )


def _check(
    widths: Sequence[float],
    sparsities: Sequence[float],
    channels: Sequence[float],
    precisions: Sequence[str],
    steps: int,
    seeds: int,
) -> None:
    if not widths or widths[0] != 1:
        raise ValueError(
            "`widths` must begin with 1.0, the network that all others are compared "
            f"with. Received: widths={tuple(widths)!r}"
        )
    _check_shares("widths", widths, 1)
    _check_shares("sparsities", sparsities, 0.999)
    _check_shares("channels", channels, 0.999)
    unknown = [p for p in precisions if p not in PRECISIONS]
    if unknown or not precisions:
        raise ValueError(
            f"`precisions` must hold some of {PRECISIONS}. Received: "
            f"precisions={tuple(precisions)!r}"
        )
    for name, value in (("steps", steps), ("seeds", seeds)):
        if value < 1:
            raise ValueError(f"`{name}` must be at least 1. Received: {name}={value}")


def frontier(
    build_model: Callable[[float], Model],
    train: Callable[[Model, list[Callback]], object],
    evaluate: Callable[[Callable[[Any], Any]], float],
    inputs: Any,
    steps: int,
    output: str | pathlib.Path = "out/frontier",
    widths: Sequence[float] = (1.0, 0.7, 0.5, 0.35),
    sparsities: Sequence[float] = (0.8, 0.9),
    channels: Sequence[float] = (0.5,),
    block_size: tuple[int, int] = (16, 16),
    precisions: Sequence[str] = ("float32", "int8"),
    seeds: int = 1,
    num_threads: int = 1,
    allowed: float = 0.01,
    seconds: float = 10.0,
    print_fn: Callable[[str], object] = print,
    recipes: Mapping[str, Recipe] = MappingProxyType({}),
    callbacks_for: Callable[[str], Sequence[Callback]] = lambda name: (),
) -> Frontier:
    """Compares pruned networks with narrower ones: quality, latency and bytes.

    Every candidate is trained for the same steps: dense networks of several widths,
    gradual magnitude and `SequentialAttentionSchedule` on blocks, and the latter on
    channels, which are then removed. Each becomes a TFLite file in every precision. The
    quality is that of the file, run with LiteRT, and all files are timed in turns on
    this machine. The folder `output` gets the files, the trained models as Keras files,
    `frontier.md`, `frontier.json` and `frontier.png`. The same call goes on after an
    interruption.

    Args:
      build_model: from a width, such as 0.5, to a new model of Keras 2 or 3 that is not
        compiled. The width multiplies the units, channels or heads of hidden layers.
      train: compiles the model that it is given and fits it with the callbacks that it
        is given, for `steps` training steps.
      evaluate: from a function that predicts to a quality, smaller is better, such as
        `lambda predict: log_loss(labels, predict(x))`. The function takes an array, or
        a list or dictionary with one for each input, and returns the outputs.
      inputs: one batch of inputs likewise. Its rows are the batch that is timed, and
        they give the ranges of int8: a hundred or more.
      steps: training steps of `train`, which end the schedules.
      output: folder to write, and to continue from.
      widths: of the dense networks, from 1.0.
      sparsities: shares of the blocks to remove.
      channels: shares of the channels to remove.
      block_size: (rows, columns) of a block.
      precisions: of the files: "float32", "float16", "dynamic", "int8".
      seeds: trainings of each candidate, whose quality is averaged.
      num_threads: of the runtime.
      allowed: how much worse, relative, still counts as equal in the first line.
      seconds: how long all files are timed, in all.
      print_fn: called with the table and what was left out.
      recipes: more ways to a smaller network, by name: a function that changes the
        whole-width model before it is trained, such as
        `lambda model: sa.prune(model, schedule, ...)`, and one that finishes the
        trained model, such as `sa.strip_pruning`.
      callbacks_for: from the name of a network, such as "dense, width 0.5", to further
        callbacks of its training.

    Returns:
      A `Frontier`.

    Raises:
      ValueError: if an argument is out of range, or `output` holds a comparison with
        other arguments.

    Example:

    >>> def build_model(width):
    ...     hidden = keras.layers.Dense(round(64 * width), activation="relu")
    ...     return keras.Sequential([keras.Input((64,)), hidden, keras.layers.Dense(1)])
    >>> x = np.random.default_rng(0).normal(size=(256, 64)).astype("float32")
    >>> def train(model, callbacks):
    ...     model.compile("adam", "mse")
    ...     model.fit(x, x[:, :1], epochs=5, verbose=0, callbacks=callbacks)
    >>> def evaluate(predict):
    ...     return float(np.mean((predict(x) - x[:, :1]) ** 2))
    >>> import tempfile
    >>> found = frontier(  # doctest: +SKIP
    ...     build_model, train, evaluate, x, steps=40, output=tempfile.mkdtemp()
    ... )
    """
    _check(widths, sparsities, channels, precisions, steps, seeds)
    every = candidates(widths, sparsities, channels, tuple(recipes))
    request = {
        "steps": steps,
        "block_size": list(block_size),
        "rows": len(tf.nest.flatten(inputs)[0]),
        "num_threads": num_threads,
    }
    store = Store(pathlib.Path(output), request)
    results: dict[Candidate, list[dict[str, Any]]] = {c: [] for c in every}
    left_out: dict[str, str] = {}

    def result(candidate: Candidate, seed: int) -> dict[str, Any]:
        known = store.load(candidate, seed)
        if known is not None and set(precisions) <= set(known["quality"]):
            return known
        _set_seeds(seed)
        model = trained(
            candidate,
            build_model,
            train,
            steps,
            block_size,
            recipes,
            callbacks_for(candidate.name),
        )
        unsaved = _save(model, store.model(candidate)) if seed == 0 else None
        if unsaved:
            print_fn(f"No Keras file: {candidate.name}: {unsaved}")
        known = _measured_quality(
            model,
            evaluate,
            inputs,
            {p: store.file(candidate, p) for p in precisions},
            num_threads,
            keep=seed == 0,
        )
        store.save(candidate, seed, known)
        return known

    # It needs tqdm, and nothing else of the package does.
    from tf_seqattn.experiments.progress import progress_bar

    with progress_bar(seeds * len(every), "networks", "frontier") as progress:
        for seed, candidate in itertools.product(range(seeds), every):
            progress.set_postfix_str(candidate.name)
            if candidate.name not in left_out:
                try:
                    results[candidate].append(result(candidate, seed))
                except ValueError as error:
                    if candidate.family == DENSE:
                        raise
                    left_out[candidate.name] = str(error)
            progress.update(1)
    points = _points(results, store, inputs, precisions, num_threads, seconds)
    found = Frontier(points, left_out, allowed)
    _write(found, pathlib.Path(output))
    print_fn(f"{found.text()}\nWritten to {output}.")
    return found


def _set_seeds(seed: int) -> None:
    """Of the weights, and of the order of the data, in both versions of Keras."""
    for library in (keras2, keras3):
        library.utils.set_random_seed(seed)


def _save(model: Model, path: pathlib.Path) -> str | None:
    """Writes a Keras file; returns why that is impossible, where it is."""
    try:
        model.save(path)
    except (NotImplementedError, TypeError, ValueError) as error:
        return str(error)
    return None


def _measured_quality(
    model: Model,
    evaluate: Callable[[Callable[[Any], Any]], float],
    inputs: Any,
    paths: dict[str, pathlib.Path],
    num_threads: int,
    keep: bool,
) -> dict[str, Any]:
    """The quality of a model in every precision, by its TFLite files.

    Args:
      model: without pruning.
      evaluate: see `frontier`.
      inputs: see `files.write`.
      paths: a file for each precision.
      num_threads: of the runtime.
      keep: whether the files stay.
    """
    quality, names = {}, []
    for precision, path in paths.items():
        place = path if keep else path.with_suffix(".other_seed")
        names = files.write(model, place, precision, inputs, num_threads)
        predict = files.predictor(place.read_bytes(), names)
        quality[precision] = float(evaluate(predict))
        if not keep:
            place.unlink()
    return {"quality": quality, "input_names": names}


def _points(
    results: dict[Candidate, list[dict[str, Any]]],
    store: Store,
    inputs: Any,
    precisions: Sequence[str],
    num_threads: int,
    seconds: float,
) -> list[Point]:
    contents = {
        (candidate, precision): (
            store.file(candidate, precision).read_bytes(),
            found[0]["input_names"],
        )
        for candidate, found in results.items()
        if found
        for precision in precisions
    }
    names = {f"{c.file_name}_{p}": key for key in contents for c, p in [key]}
    latencies = files.time_files(
        {name: contents[key] for name, key in names.items()},
        inputs,
        num_threads,
        seconds,
    )
    points = []
    for name, (candidate, precision) in names.items():
        values = [found["quality"][precision] for found in results[candidate]]
        points.append(
            Point(
                candidate.family,
                candidate.amount,
                precision,
                float(np.mean(values)),
                float(np.std(values, ddof=1)) if len(values) > 1 else 0.0,
                latencies[name],
                len(contents[candidate, precision][0]),
            )
        )
    return points


def _write(found: Frontier, folder: pathlib.Path) -> None:
    save_picture(found.points, folder / "frontier.png")
    write_whole(folder / "frontier.md", f"# Frontier\n\n{found.text()}")
    points = [dataclasses.asdict(point) for point in found.points]
    write_json(folder / "frontier.json", {"points": points, "left_out": found.left_out})
