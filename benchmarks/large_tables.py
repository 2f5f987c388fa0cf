"""A click model with 26 tables of a million rows: bytes of the whole model and loss.

Generated logs in which 12 of 39 fields act on the label. One value in ten is of a long
tail: it is drawn from all rows of its table, and says nothing. Every network has the
same rows, batches, learning rates and steps in all. Ours selects fields while it
trains, then keeps the rows that matter, and prunes the perceptron by blocks; or it
selects single dimensions of the tables. Beside it stand the same network with shorter
vectors, with smaller tables (hashing), and with half of the hidden units.

    pip install 'tf-seqattn[recommenders]'
    python -m benchmarks.large_tables
"""

import argparse
import functools
import gc
import json
import pathlib
import tempfile
import time
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import tensorflow as tf
import tf_keras as keras
from sklearn.metrics import log_loss

import tf_seqattn as sa
from benchmarks.quality_tasks.tasks import HiddenLayers
from tf_seqattn.criteo.conversion import convert
from tf_seqattn.criteo.log.encoding import Encoding
from tf_seqattn.criteo.log.fields import CATEGORICAL_NAMES, NUMERIC_NAMES
from tf_seqattn.criteo.log.in_memory import load_clicks
from tf_seqattn.criteo.log.synthetic import ClickSource
from tf_seqattn.criteo.models.optimizers import make_optimizer
from tf_seqattn.experiments.markdown_table import markdown_table
from tf_seqattn.experiments.mean_and_error import mean_and_error_text
from tf_seqattn.files import write_json, write_whole

RESULTS = pathlib.Path(__file__).parent / "results"
TABLE_ROWS, VECTOR, HIDDEN = 1_000_000, 10, 400
INFORMATIVE, VALUES, TAIL = 12, 500, 0.1
ROWS, HELD_OUT, BATCH = 1_000_000, 100_000, 1024
# Of all steps, those in which fields or dimensions go; then rows and blocks do.
STEPS, FIRST_STEPS = 3000, 2000
RATE = 1e-3
KEPT_FIELDS, KEPT_DIMENSIONS, KEPT_ROWS, SPARSITY, BLOCK = 16, 60, 0.01, 0.9, 20


class Rows(NamedTuple):
    """Rows of a click log: `(rows, 13)`, `(rows, 26)` and `(rows,)`."""

    counts: np.ndarray
    values: np.ndarray
    labels: np.ndarray

    def features(self) -> dict[str, np.ndarray]:
        """One array for each field."""
        return {
            **{name: self.counts[:, i : i + 1] for i, name in enumerate(NUMERIC_NAMES)},
            **{name: self.values[:, i] for i, name in enumerate(CATEGORICAL_NAMES)},
        }


@functools.cache
def load() -> tuple[Rows, Rows]:
    """Rows to train on, and rows held out."""
    source = ClickSource(0, VALUES, INFORMATIVE)
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder, "clicks.txt")
        source.write_tsv(file, ROWS + HELD_OUT)
        encoding = Encoding(table_size=TABLE_ROWS - 1)
        share = HELD_OUT / (ROWS + HELD_OUT)
        convert(file, folder + "/rows", encoding, validation_fraction=share)
        parts = [load_clicks(folder + "/rows", s) for s in ("train", "validation")]
    random = np.random.default_rng(0)
    found = []
    for part in parts:
        values = part.categorical.copy()
        tail = random.random(values.shape) < TAIL
        values[tail] = random.integers(0, TABLE_ROWS, int(tail.sum()))
        found.append(Rows(part.numeric, values, part.labels))
    return found[0], found[1]


@functools.cache
def _as_tensors() -> list[tf.Tensor]:
    """The rows to train on, once in memory for all networks."""
    return [tf.constant(array) for array in load()[0]]


def network(
    vector: int = VECTOR, table_rows: int = TABLE_ROWS, hidden: int = HIDDEN
) -> keras.Model:
    """The paper's click model with an input for each field."""
    layers = keras.layers
    counts = {name: keras.Input((1,), name=name) for name in NUMERIC_NAMES}
    values = {
        name: keras.Input((), dtype="int32", name=name) for name in CATEGORICAL_NAMES
    }
    vectors = [
        layers.Embedding(table_rows, vector, name=f"table_{name}")(
            value if table_rows == TABLE_ROWS else value % table_rows
        )
        for name, value in values.items()
    ]
    x = layers.Concatenate()([*counts.values(), *vectors])
    for number in (1, 2, 3):
        x = layers.Dense(hidden, activation="relu", name=f"hidden_{number}")(x)
    return keras.Model({**counts, **values}, layers.Dense(1, name="logits")(x))


def batches(seed: int, first_step: int, steps: int) -> tf.data.Dataset:
    """Batches of steps of one training, in a random order of all rows."""
    passes = -(-STEPS * BATCH // ROWS)
    random = np.random.default_rng(seed)
    order = np.concatenate([random.permutation(ROWS) for _ in range(passes)])
    order = order[first_step * BATCH : (first_step + steps) * BATCH]

    tensors = _as_tensors()

    def batch(chosen):
        found = [tf.gather(tensor, chosen) for tensor in tensors]
        return Rows(*found).features(), found[-1][:, None]

    return tf.data.Dataset.from_tensor_slices(order).batch(BATCH).map(batch).prefetch(2)


def train(model: keras.Model, seed: int, first_step: int, steps: int) -> float:
    """Adagrad for the tables and Adam for the rest; returns seconds a step."""
    share = 1 - first_step / STEPS
    rate = keras.optimizers.schedules.PolynomialDecay(RATE * share, steps, 0.0)
    if first_step + steps < STEPS:
        rate = keras.optimizers.schedules.PolynomialDecay(
            RATE, steps, RATE * (1 - steps / STEPS)
        )
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    model.compile(make_optimizer(model, rate, "adagrad"), loss)
    callbacks = [sa.UpdatePruningStep()] if sa.pruned_layers(model) else []
    data = batches(seed, first_step, steps)
    started = time.perf_counter()
    model.fit(data, verbose=0, callbacks=callbacks)
    return (time.perf_counter() - started) / steps


def loss_of(model: keras.Model) -> float:
    """Log loss (nats) on the rows held out."""
    _, rows = load()
    features = rows.features()
    names = model.input if isinstance(model.input, dict) else features
    taken = {name: features[name] for name in names}
    logits = model.predict(taken, batch_size=8192, verbose=0).astype("float64")
    return float(log_loss(rows.labels, 1 / (1 + np.exp(-logits.ravel()))))


def weight_bytes(model: keras.Model) -> int:
    """Bytes of all weights, row numbers and indices of blocks included."""
    return sum(w.dtype.size * w.shape.num_elements() for w in model.weights)


Result = tuple[str, keras.Model, float]


def alternatives(seed: int) -> Iterator[Result]:
    """Dense networks that are smaller from the start, and the whole one."""
    for name, options in (
        ("dense", {}),
        ("vectors of 1", {"vector": 1}),
        ("tables of 100,000 rows", {"table_rows": 100_000}),
        ("tables of 10,000 rows", {"table_rows": 10_000}),
        ("vectors of 1, 10,000 rows, half of the units",
         {"vector": 1, "table_rows": 10_000, "hidden": HIDDEN // 2}),
    ):  # fmt: skip
        keras.utils.set_random_seed(seed)
        model = network(**options)
        yield name, model, train(model, seed, 0, STEPS)


def ours(seed: int) -> Iterator[Result]:
    """Dimensions selected; or fields, then rows, then blocks of the perceptron."""
    rest = STEPS - FIRST_STEPS
    for by, keep, name in (
        ("dimension", KEPT_DIMENSIONS, f"{KEPT_DIMENSIONS} dimensions selected"),
        ("feature", KEPT_FIELDS, f"{KEPT_FIELDS} fields selected"),
    ):
        keras.utils.set_random_seed(seed)
        model = sa.select_features(network(), keep, end_step=FIRST_STEPS, by=by)
        train(model, seed, 0, FIRST_STEPS)
        selected = sa.drop_features(model)
        whole = copy_of(selected)
        yield name, whole, train(whole, seed, FIRST_STEPS, rest)
    rows, _ = load()
    features = rows.features()
    counts = sa.count_rows(selected, [{n: features[n] for n in selected.input}])
    small = sa.prune_rows(selected, KEPT_ROWS, counts)
    plain = copy_of(small)
    yield (
        f"and {KEPT_ROWS:.0%} of rows kept",
        plain,
        train(plain, seed, FIRST_STEPS, rest),
    )
    schedule = sa.SequentialAttentionSchedule(SPARSITY, end_step=rest, rate_power=0.0)
    pruned = sa.prune(small, schedule, (BLOCK, BLOCK), pruning_policy=HiddenLayers())
    seconds = train(pruned, seed, FIRST_STEPS, rest)
    packed = sa.pack(sa.strip_pruning(pruned))
    yield f"and {SPARSITY:.0%} of the perceptron's blocks removed", packed, seconds


def copy_of(model: keras.Model) -> keras.Model:
    """A model of its own with the same weights."""
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    return copy


def run(seed: int) -> list[dict]:
    """All networks of a seed."""
    results = []
    for make in (alternatives, ours):
        for name, model, seconds in make(seed):
            results.append(
                {"network": name, "seed": seed, "loss": loss_of(model),
                 "bytes": weight_bytes(model), "seconds_a_step": seconds}
            )  # fmt: skip
            print(results[-1], flush=True)
            # Each whole network has 2 GB of weights and slots.
            del model
            keras.backend.clear_session()
            gc.collect()
    return results


def report(results: list[dict]) -> str:
    """Bytes and loss beside those of the dense network."""
    lines = []
    dense = [r for r in results if r["network"] == "dense"]
    for name in dict.fromkeys(r["network"] for r in results):
        mine = [r for r in results if r["network"] == name]
        more = np.array([r["loss"] for r in mine]) - [r["loss"] for r in dense]
        size = np.mean([r["bytes"] for r in mine])
        lines.append(
            [
                name,
                f"{size / 1e6:,.1f}",
                f"{dense[0]['bytes'] / size:,.0f}",
                f"{np.mean([r['loss'] for r in mine]):.4f}",
                None if name == "dense" else mean_and_error_text(more, signed=True),
                f"{1000 * np.median([r['seconds_a_step'] for r in mine]):.0f}",
            ]
        )
    titles = ["network", "MB of the whole model", "times smaller", "loss"]
    return markdown_table([*titles, "loss less dense", "ms a step"], lines)


def main(arguments: list[str] | None = None) -> None:
    """Trains what is missing and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], help="two or more")
    add("--output", type=pathlib.Path, default=pathlib.Path("out/large_tables"))
    options = parser.parse_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    results = []
    for seed in options.seeds:
        file = options.output / f"{seed}_{STEPS}.json"
        if not file.exists():
            write_json(file, run(seed))
        results += json.loads(file.read_text())
    seeds = " ".join(map(str, options.seeds))
    text = (
        "# A click model with 26 tables of a million rows\n\n"
        f"`python -m benchmarks.large_tables --seeds {seeds}`: {len(options.seeds)} "
        f"seeds, {STEPS:,} steps of {BATCH:,} rows for each network, one pass "
        "after another. Bytes are those of all weights, row numbers and indices of "
        "blocks included, in float32. Differences of the log loss (nats, on rows held "
        "out) are taken seed by seed, with their standard error. In ours the first "
        f"{FIRST_STEPS:,} steps select; the rest trains what is left.\n\n"
        + report(results)
    )
    write_whole(RESULTS / "large_tables.md", text)
    write_json(RESULTS / "large_tables.json", results)
    print(text)


if __name__ == "__main__":
    main()
