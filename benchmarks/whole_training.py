"""A whole training from its first step to its last: time and loss beside dense ones.

Wide perceptrons on 5,000 of MNIST, Adam. `sa.SkipPrunedBlocks` makes the steps after
the last mask faster, so a schedule that ends at a third of the steps makes the training
cheaper, if its quality stands that. All networks of a case have the same steps and
batches, and train in turns in one process; a time holds all of `fit`, tracing included.

    pip install 'tf-seqattn[quality]'
    python -m benchmarks.whole_training
"""

import argparse
import json
import os
import pathlib
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf
import tf_keras as keras

import tf_seqattn as sa
from benchmarks.quality_tasks.data import split
from benchmarks.quality_tasks.tasks import HiddenLayers
from tf_seqattn.experiments.markdown_table import markdown_table
from tf_seqattn.experiments.mean_and_error import mean_and_error_text
from tf_seqattn.experiments.progress import progress_bar
from tf_seqattn.files import write_json, write_whole

RESULTS = pathlib.Path(__file__).parent / "results"
STEPS, RATE, SPARSITY = 200, 1e-3, 0.9
# Steps of the schedules; the masks are final after three quarters of them.
RISE = STEPS // 3


class Case(NamedTuple):
    """Width of both hidden layers, side of a block, rows of a batch."""

    width: int
    block: int
    batch: int

    def file(self, folder: pathlib.Path, seed: int) -> pathlib.Path:
        """Where the results of a seed are kept."""
        return folder / f"{'_'.join(map(str, self))}_{STEPS}_{seed}.json"


CASES = (Case(2048, 64, 1024), Case(2048, 32, 1024), Case(1024, 32, 4096))


def network(width: int) -> keras.Sequential:
    """A perceptron of two hidden layers."""
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((784,)),
            layers.Dense(width, activation="relu", name="hidden_1"),
            layers.Dense(width, activation="relu", name="hidden_2"),
            layers.Dense(10, name="logits"),
        ]
    )


def narrow_width(width: int) -> int:
    """Width of the dense network of as many weights as the pruned one keeps."""
    wanted = (1 - SPARSITY) * (784 * width + width * width)
    return next(w for w in range(width, 0, -1) if 784 * w + w * w <= wanted)


def fit(model: keras.Model, case: Case, seed: int, steps: range, callbacks=()) -> None:
    """Runs some of the steps of a training."""
    rows, labels, *_ = split("digits")
    random = np.random.default_rng(seed)
    passes = -(-STEPS * case.batch // len(rows))
    order = np.concatenate([random.permutation(len(rows)) for _ in range(passes)])
    order = order[steps.start * case.batch : steps.stop * case.batch]
    data = tf.data.Dataset.from_tensor_slices(order).batch(case.batch)
    data = data.map(lambda chosen: (tf.gather(rows, chosen), tf.gather(labels, chosen)))
    # The rate falls to 0 as a cosine over all of the training.
    rate = keras.optimizers.schedules.CosineDecay(RATE, STEPS)
    if steps.start:
        whole = rate
        rate = _Later(whole, steps.start)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(rate), loss, jit_compile=False)
    model.fit(data.prefetch(2), verbose=0, callbacks=list(callbacks))


class _Later(keras.optimizers.schedules.LearningRateSchedule):
    """A schedule from one of its later steps on."""

    def __init__(self, schedule, first_step: int):
        self.schedule, self.first_step = schedule, first_step

    def __call__(self, step):
        return self.schedule(tf.cast(step, tf.float32) + self.first_step)


def pruned(case: Case, schedule, importance=None) -> keras.Model:
    """The network with its hidden layers pruned."""
    return sa.prune(
        network(case.width),
        schedule,
        (case.block, case.block),
        importance,
        pruning_policy=HiddenLayers(),
    )


def dense(case: Case, seed: int) -> keras.Model:
    """The whole network."""
    model = network(case.width)
    fit(model, case, seed, range(STEPS))
    return model


def narrow(case: Case, seed: int) -> keras.Model:
    """A dense network of as many weights."""
    model = network(narrow_width(case.width))
    fit(model, case, seed, range(STEPS))
    return model


def schedule_of(steps: int) -> sa.SequentialAttentionSchedule:
    """Our default, with a rise over three quarters of the steps."""
    return sa.SequentialAttentionSchedule(SPARSITY, steps, rate_power=0.0)


def masked(case: Case, seed: int) -> keras.Model:
    """Our default, to the last step."""
    model = pruned(case, schedule_of(STEPS))
    fit(model, case, seed, range(STEPS), [sa.UpdatePruningStep()])
    return model


def skipping(case: Case, seed: int) -> keras.Model:
    """Our default, with a third of the steps, then kept blocks alone."""
    model = pruned(case, schedule_of(RISE))
    callback = sa.SkipPrunedBlocks(batch_size=case.batch)
    fit(model, case, seed, range(STEPS), [callback])
    return model


def gradual(case: Case, seed: int) -> keras.Model:
    """Gradual magnitude in as many steps, then kept blocks alone."""
    schedule = sa.GradualSchedule(SPARSITY, end_step=3 * RISE // 4)
    model = pruned(case, schedule, sa.Magnitude())
    callback = sa.SkipPrunedBlocks(batch_size=case.batch)
    fit(model, case, seed, range(STEPS), [callback])
    return model


def packed(case: Case, seed: int) -> keras.Model:
    """Our default, with a third of the steps, then packed, with a new optimizer."""
    model = pruned(case, schedule_of(RISE))
    fit(model, case, seed, range(RISE), [sa.UpdatePruningStep()])
    smaller = sa.pack(sa.strip_pruning(model), batch_size=case.batch, trainable=True)
    fit(smaller, case, seed, range(RISE, STEPS))
    return smaller


ARMS: dict[str, Callable[[Case, int], keras.Model]] = {
    "dense": dense,
    "dense, as many weights": narrow,
    "magnitude, gradual, to a quarter; then kept blocks": gradual,
    "our default, masked": masked,
    "our default with a third of the steps; then kept blocks": skipping,
    "the same, then packed": packed,
}


def loss_of(model: keras.Model) -> float:
    """Log loss (nats) on the rows held out."""
    *_, rows, labels = split("digits")
    if sa.pruned_layers(model):
        model = sa.strip_pruning(model)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return float(loss(labels, model.predict(rows, batch_size=1000, verbose=0)))


def run(case: Case, seed: int, bar) -> list[dict]:
    """Trains every arm, in an order that the seed turns."""
    names = list(ARMS)
    results = []
    for name in names[seed % len(names) :] + names[: seed % len(names)]:
        keras.backend.clear_session()
        keras.utils.set_random_seed(seed)
        started = time.perf_counter()
        model = ARMS[name](case, seed)
        seconds = time.perf_counter() - started
        results.append(
            {"case": list(case), "seed": seed, "arm": name, "seconds": seconds,
             "loss": loss_of(model)}
        )  # fmt: skip
        bar.update(1)
    return results


def report(results: list[dict]) -> str:
    """Times beside that of the dense training, and losses less its loss."""
    lines = []
    for case in dict.fromkeys(tuple(r["case"]) for r in results):
        found = {
            name: sorted(
                (r for r in results if tuple(r["case"]) == case and r["arm"] == name),
                key=lambda r: r["seed"],
            )
            for name in ARMS
        }

        def values(name: str, key: str, found=found) -> np.ndarray:
            return np.array([r[key] for r in found[name]])

        for name in ARMS:
            ratio = values(name, "seconds") / values("dense", "seconds")
            more = values(name, "loss") - values("dense", "loss")
            lines.append(
                [
                    f"{case[0]} wide, {case[1]} x {case[1]}, batch {case[2]}",
                    name,
                    f"{ratio.mean():.2f} ({ratio.min():.2f} to {ratio.max():.2f})",
                    f"{values(name, 'loss').mean():.4f}",
                    None if name == "dense" else mean_and_error_text(more, signed=True),
                ]
            )
    titles = ["network", "training", "time to dense", "loss", "loss less dense"]
    return markdown_table(titles, lines)


def main(arguments: list[str] | None = None) -> None:
    """Trains what is missing and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], help="two or more")
    add("--output", type=pathlib.Path, default=pathlib.Path("out/whole_training"))
    options = parser.parse_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    cells = [(case, seed) for seed in options.seeds for case in CASES]
    missing = [(c, s) for c, s in cells if not c.file(options.output, s).exists()]
    with progress_bar(len(missing) * len(ARMS), "trainings", "Trained") as bar:
        for case, seed in missing:
            write_json(case.file(options.output, seed), run(case, seed, bar))
    results = [
        r for c, s in cells for r in json.loads(c.file(options.output, s).read_text())
    ]
    seeds = " ".join(map(str, options.seeds))
    text = (
        "# Whole trainings\n\n"
        f"`python -m benchmarks.whole_training --seeds {seeds}` on {os.cpu_count()} "
        f"cores: {len(options.seeds)} seeds, {STEPS} steps, {SPARSITY:.0%} of the "
        "blocks of both hidden layers removed. Times hold all of `fit`; ratios are "
        "taken seed by seed, as mean (least to most). Log losses in nats on the rows "
        "held out, ± is a standard error. Our default has `rate_power=0` here.\n\n"
        f"{report(results)}"
    )
    write_whole(RESULTS / "whole_training.md", text)
    write_json(RESULTS / "whole_training.json", results)
    print(text)


if __name__ == "__main__":
    main()
