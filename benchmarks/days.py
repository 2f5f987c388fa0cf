"""A click model from day to day: its blocks kept, revised, or found again from nothing.

Generated days of clicks whose truth drifts (`DriftingClicks`): each night the effects
turn a little, and new values of the categories replace some. Every model trains on the
rows of a day alone, for two passes, and is judged by the rows of the next day, encoded
with the vocabulary of its own. The arms have the same rows, order and steps. Each
chooses its learning rate among four, on days of a seed that no result is taken on.

    pip install 'tf-seqattn[recommenders]'
    python -m benchmarks.days
"""

import argparse
import dataclasses
import functools
import io
import json
import os
import pathlib
import re
import tempfile
from typing import NamedTuple

import numpy as np
import tf_keras as keras

import tf_seqattn as sa
from benchmarks.quality_tasks.tasks import run_missing, start
from tf_seqattn.criteo.conversion import convert
from tf_seqattn.criteo.log.drifting import DriftingClicks
from tf_seqattn.criteo.log.encoding import Encoding
from tf_seqattn.criteo.log.fields import FIELD_NAMES
from tf_seqattn.criteo.log.in_memory import Clicks, load_clicks, training_batches
from tf_seqattn.criteo.log.vocabulary import Vocabulary, build_vocabulary
from tf_seqattn.criteo.models.click_model import (
    FIRST_HIDDEN,
    build_network,
    prune_first_layer,
)
from tf_seqattn.criteo.models.experiment import (
    importance,
    log_loss_of_logits,
    predict_logits,
    pruning_schedule,
)
from tf_seqattn.criteo.models.recipes import decaying_rate
from tf_seqattn.criteo.models.warm_start import kept_support, start_from
from tf_seqattn.experiments.markdown_table import markdown_table
from tf_seqattn.experiments.mean_and_error import mean_and_error_text
from tf_seqattn.files import write_json, write_whole
from tf_seqattn.kernels import blocks

RESULTS = pathlib.Path(__file__).parent / "results"
# Rows of a day; values of a category, those seen so often get a vector.
ROWS, VALUES, MIN_COUNT, HASHES, INFORMATIVE = 65_536, 300, 5, 2**16 - 1, 12
TURN, NEW_VALUES = 0.15, 0.03
# The last day is for judging alone, and all arms begin with the first one.
DAYS, TUNING_DAYS = 7, 4
HIDDEN, SPARSITY, BLOCK = (240, 60), 0.9, 20
BATCH, STEPS = 256, 2 * ROWS // 256
RATES, LAST_RATE = (5e-4, 1.5e-3, 4.5e-3, 1.35e-2), 0.15
TUNING_SEED = 100


class Arm(NamedTuple):
    """What a model is, and how it begins a day.

    Attributes:
      algorithm: of `experiments.algorithms`; "dense" and "narrow" prune nothing.
      warm: whether it starts from the model of the day before.
      keep: whether it keeps the blocks of the day before, from the second day on.
    """

    algorithm: str
    warm: bool
    keep: bool = False


REFERENCE = "dense, warm"
ARMS = {
    "dense, cold": Arm("dense", False),
    REFERENCE: Arm("dense", True),
    "narrow dense, as many weights, warm": Arm("narrow", True),
    "sequential attention, cold": Arm("long_rise", False),
    "sequential attention, warm, support kept": Arm("long_rise", True, keep=True),
    "sequential attention, warm, support revised": Arm("long_rise", True),
    # It ranks by attention alone, so blocks that were zero can win.
    "the paper's ten cycles, warm, support revised": Arm("seqattn", True),
    "gradual magnitude, warm, support revised": Arm("gradual", True),
}


@dataclasses.dataclass(frozen=True)
class Day:
    """Rows of a day with the rows of the hashed tables, and the best possible loss."""

    clicks: Clicks
    bayes_log_loss: float

    @functools.cached_property
    def vocabulary(self) -> Vocabulary:
        """Of the values seen often on this day."""
        columns = self.clicks.categorical.T
        counts = [np.bincount(column, minlength=HASHES + 1) for column in columns]
        return build_vocabulary(counts, MIN_COUNT)

    def encoded(self, vocabulary: Vocabulary) -> Clicks:
        """The rows with those of the smaller tables."""
        categorical = vocabulary.apply(self.clicks.categorical)
        return dataclasses.replace(self.clicks, categorical=categorical)


@functools.cache
def load(seed: int, day: int, folder: pathlib.Path) -> Day:
    """The rows of a day, made and converted unless the folder has them."""
    file = folder / f"rows_{seed}_{day}_{ROWS}.npz"
    if not file.exists():
        source = DriftingClicks(
            seed,
            day,
            TURN,
            NEW_VALUES,
            max_categories=VALUES,
            informative=INFORMATIVE,
        )
        with tempfile.TemporaryDirectory() as temporary:
            log = pathlib.Path(temporary, "clicks.txt")
            with open(log, "wb") as stream:
                source.write_rows(stream, day * ROWS, (day + 1) * ROWS)
            rows = pathlib.Path(temporary, "rows")
            convert(log, rows, Encoding(table_size=HASHES), progress=False)
            parts = [vars(load_clicks(rows, s)) for s in ("train", "validation")]
        arrays = {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}
        content = io.BytesIO()
        np.savez(content, bayes=source.bayes_log_loss, **arrays)
        write_whole(file, content.getvalue())
    with np.load(file) as stored:
        found = dict(stored)
    bayes = float(found.pop("bayes"))
    return Day(Clicks(**found), bayes)


def units(arm: Arm) -> tuple[int, ...]:
    """Hidden units; those of a narrow network make as many weights as the kept blocks.

    A pruned perceptron keeps a tenth of the first kernel; both have the last layers.
    """
    if arm.algorithm != "narrow":
        return HIDDEN
    inputs = 10 * len(FIELD_NAMES)
    kept = (1 - SPARSITY) * inputs * HIDDEN[0] + HIDDEN[0] * HIDDEN[1]
    return round(kept / (inputs + HIDDEN[1])), *HIDDEN[1:]


def build(
    arm: Arm, today: Day, earlier: keras.Model | None, before: Day | None
) -> keras.Model:
    """The model of a day before its training, pruned where the arm prunes."""
    network = build_network(today.vocabulary.table_sizes, hidden_units=units(arm))
    schedule = pruning_schedule(arm.algorithm, SPARSITY, STEPS)
    scores = importance(arm.algorithm)
    if arm.warm and earlier is not None:
        start_from(network, earlier, before.vocabulary, today.vocabulary)
        if arm.keep:
            schedule, scores = kept_support(network, BLOCK), sa.Magnitude()
    if schedule is None:
        return network
    return prune_first_layer(network, schedule, BLOCK, scores)


def train(network: keras.Model, clicks: Clicks, rate: float, seed: int) -> keras.Model:
    """Trains for the steps of a day, and returns the model without pruning."""
    rates = decaying_rate(rate, LAST_RATE * rate, STEPS)
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    network.compile(keras.optimizers.Adam(rates), loss)
    data = training_batches(clicks, BATCH, seed).map(lambda x, y: (x, y[:, None]))
    callbacks = [sa.UpdatePruningStep()] if sa.pruned_layers(network) else []
    network.fit(data, steps_per_epoch=STEPS, verbose=0, callbacks=callbacks)
    if sa.pruned_layers(network):
        network = sa.strip_pruning(network)
    return network


def kept_blocks(network: keras.Model) -> np.ndarray:
    """Which blocks of the first hidden layer are not zero."""
    kernel = network.get_layer(FIRST_HIDDEN).kernel
    grid = blocks.BlockGrid(tuple(kernel.shape), (BLOCK, BLOCK))
    return blocks.block_norms(kernel, grid).numpy() > 0


class Cell(NamedTuple):
    """An arm from the first day on.

    Attributes:
      arm: of `ARMS`.
      seed: of the days, and of weights and batches.
      rate: learning rate at the first step of a day.
      days: how many, with the last one to judge by.
    """

    arm: str
    seed: int
    rate: float
    days: int

    def file(self, folder: pathlib.Path) -> pathlib.Path:
        """Where its results are kept."""
        name = re.sub(r"\W+", "_", self.arm)
        return folder / f"{name}_{self.seed}_{self.rate:g}_{self.days}_{STEPS}.json"


def run_cell(cell: Cell, folder: pathlib.Path) -> None:
    """Trains day after day, and judges each model by the day after."""
    arm, results = ARMS[cell.arm], []
    network = kept = before = None
    for number in range(cell.days - 1):
        start(1000 * cell.seed + number)
        today, tomorrow = (load(cell.seed, number + i, folder) for i in (0, 1))
        network = build(arm, today, network, before)
        network = train(
            network,
            today.encoded(today.vocabulary),
            cell.rate,
            1000 * cell.seed + number,
        )
        rows = tomorrow.encoded(today.vocabulary)
        loss = log_loss_of_logits(rows.labels, predict_logits(network, rows))
        now = kept_blocks(network)
        stayed = None if kept is None else float((now & kept).sum() / kept.sum())
        results.append(
            {**cell._asdict(), "day": number, "loss": loss,
             "bayes": tomorrow.bayes_log_loss, "kept": float(now.mean()),
             "kept_again": stayed}
        )  # fmt: skip
        kept, before = now, today
    write_json(cell.file(folder), results)


def mean_loss(results: list[dict]) -> float:
    """Over all days but the first, which all arms begin with alike."""
    return float(np.mean([r["loss"] for r in results if r["day"]]))


def tuned_rate(arm: str, folder: pathlib.Path) -> float:
    """The rate of the lowest loss on the seed for tuning."""
    losses = {
        rate: mean_loss(
            json.loads(
                Cell(arm, TUNING_SEED, rate, TUNING_DAYS).file(folder).read_text()
            )
        )
        for rate in RATES
    }
    return min(losses, key=losses.__getitem__)


def report(results: list[dict], rates: dict[str, float]) -> str:
    """Loss beside the dense network that goes on, over all days and day by day."""
    seeds = sorted({r["seed"] for r in results})
    days = sorted({r["day"] for r in results if r["day"]})
    # {arm: (seeds, days)}
    losses, again = (
        {
            arm: np.array(
                [
                    [
                        r[what]
                        for r in sorted(results, key=lambda r: r["day"])
                        if (r["arm"], r["seed"]) == (arm, seed) and r["day"]
                    ]
                    for seed in seeds
                ]
            )
            for arm in ARMS
        }
        for what in ("loss", "kept_again")
    )
    lines, by_day = [], []
    for arm, (algorithm, *_) in ARMS.items():
        more = losses[arm] - losses[REFERENCE]
        pruned = algorithm not in ("dense", "narrow")
        beside = mean_and_error_text(more.mean(axis=1), signed=True)
        lines.append(
            [
                arm,
                f"{rates[arm]:g}",
                f"{losses[arm].mean():.4f}",
                None if arm == REFERENCE else beside,
                f"{again[arm].mean():.0%}" if pruned else None,
            ]
        )
        by_day.append(
            [
                arm,
                *(
                    f"{losses[arm][:, i].mean():.4f}"
                    if arm == REFERENCE
                    else f"{more[:, i].mean():+.4f}"
                    for i in range(len(days))
                ),
            ]
        )
    titles = ["model", "rate", "loss on the next day", "less dense, warm"]
    return (
        markdown_table([*titles, "blocks kept again"], lines)
        + "\nDay by day (mean of the seeds; `dense, warm` itself, the others less it):"
        "\n\n" + markdown_table(["model", *(f"day {day + 1}" for day in days)], by_day)
    )


def main(arguments: list[str] | None = None) -> None:
    """Trains what is missing and writes the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], help="two or more")
    add("--workers", type=int, default=os.cpu_count(), help="trainings at a time")
    add("--output", type=pathlib.Path, default=pathlib.Path("out/days"))
    options = parser.parse_args(arguments)
    tuning = [Cell(arm, TUNING_SEED, r, TUNING_DAYS) for r in RATES for arm in ARMS]
    run_missing(tuning, run_cell, options.output, options.workers)
    rates = {arm: tuned_rate(arm, options.output) for arm in ARMS}
    cells = [Cell(arm, s, rates[arm], DAYS) for s in options.seeds for arm in ARMS]
    run_missing(cells, run_cell, options.output, options.workers)
    results = [
        r for cell in cells for r in json.loads(cell.file(options.output).read_text())
    ]
    bayes = np.mean([r["bayes"] for r in results if r["day"]])
    seeds = " ".join(map(str, options.seeds))
    text = (
        "# A click model from day to day\n\n"
        f"`python -m benchmarks.days --seeds {seeds}`: {len(options.seeds)} seeds, "
        f"{DAYS} generated days of {ROWS:,} rows. Each night effects turn by {TURN} "
        f"rad and {NEW_VALUES:.0%} of the values are replaced. {STEPS} steps of "
        f"{BATCH} rows a day for every model, its rate chosen among "
        f"{', '.join(f'{rate:g}' for rate in RATES)} on a seed of its own. Log loss "
        "(nats) on the next day, over all days but the first; the best possible one "
        f"is {bayes:.4f}. Differences are taken seed by seed, with their standard "
        f"error. Sparse models keep {1 - SPARSITY:.0%} of the blocks ({BLOCK} x "
        f"{BLOCK}) of the first hidden layer, which has "
        f"{390 * HIDDEN[0] / (390 * HIDDEN[0] + HIDDEN[0] * HIDDEN[1]):.0%} of the "
        "perceptron's weights. `blocks kept again` is the "
        "share of a day's blocks that the next day keeps. Our default has "
        "`rate_power=0` here.\n\n" + report(results, rates)
    )
    write_whole(RESULTS / "days.md", text)
    write_json(RESULTS / "days.json", results)
    print(text)


if __name__ == "__main__":
    main()
