"""How pruned networks stand corruptions, and what their last features look like.

The small digits of scikit-learn and the network of `python -m tf_seqattn.study
regimes`, pruned in blocks of 4 x 4 by every algorithm, each trained for the same steps
at the same learning rate. Beside them stand the dense network, narrower ones with as
many weights, and random blocks. Corruptions come from SciPy, at five strengths.

    pip install 'tf-seqattn[digits,linear]'
    python -m benchmarks.robustness

`--page FILE` writes the page of `sa.report` about the networks of the first seed, to
look at which images flip, in place of the table.
"""

import argparse
import functools
import itertools
import pathlib

import numpy as np
import tf_keras as keras

import tf_seqattn as sa
from benchmarks.quality_tasks.fixed_support import FixedSupport
from benchmarks.quality_tasks.networks import narrow_share
from benchmarks.quality_tasks.tasks import HiddenLayers
from tf_seqattn.digits.data import Digits, load_digits
from tf_seqattn.experiments.algorithms import ALGORITHMS, Phases, pruning_schedule
from tf_seqattn.experiments.markdown_table import markdown_table
from tf_seqattn.experiments.mean_and_error import mean_and_error_text
from tf_seqattn.experiments.progress import progress_bar
from tf_seqattn.files import write_json, write_whole
from tf_seqattn.study import regimes
from tf_seqattn.study.connectivity import reestimate_batch_norms
from tf_seqattn.study.corruptions import CORRUPTIONS, STRENGTHS, corrupt
from tf_seqattn.study.last_features import geometry

RESULTS = pathlib.Path(__file__).parent / "results"
SEEDS = range(3)
DENSITIES = (0.2, 0.05)
EPOCHS, BATCH, RATE, SIDE = 14, 32, 1e-2, 4
# Few steps have room for few cycles.
PHASES = Phases(cycles=3, dense_fraction=0.10, finetune_fraction=0.15)
NARROW, RANDOM = "narrower, as many weights", "random blocks"
PRUNED = [name for name, algorithm in ALGORITHMS.items() if algorithm.schedule]


def _network(method: str, density: float, steps: int, seed: int):
    """An untrained network, and the callbacks of its training."""
    if method == NARROW:
        return regimes.make_network(narrow_share(regimes.make_network, 1 - density)), []
    network = regimes.make_network()
    if method == RANDOM:
        return network, [FixedSupport(1 - density, SIDE, steps, None, seed)]
    if method == "dense":
        return network, []
    model = sa.prune(
        network,
        pruning_schedule(method, 1 - density, steps, PHASES),
        block_size=(SIDE, SIDE),
        importance=ALGORITHMS[method].importance(0.0),
        pruning_policy=HiddenLayers(),
    )
    return model, [sa.UpdatePruningStep()]


def train(method: str, density: float, digits: Digits, seed: int) -> keras.Model:
    """Trains a network by one of `methods`, with zeros in its pruned blocks."""
    keras.utils.set_random_seed(seed)
    steps = EPOCHS * -(-len(digits.train_images) // BATCH)
    model, callbacks = _network(method, density, steps, seed)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    rate = keras.optimizers.schedules.CosineDecay(RATE, steps)
    model.compile(keras.optimizers.Adam(rate), loss)
    rows, labels = digits.train_images, digits.train_labels
    model.fit(rows, labels, BATCH, EPOCHS, verbose=0, callbacks=callbacks)
    model = sa.strip_pruning(model) if sa.pruned_layers(model) else model
    reestimate_batch_norms(model, digits.train_images)
    return model


def methods() -> list[tuple[str, float]]:
    """What is measured: each method and the share of the blocks that stay."""
    sparse = itertools.product((NARROW, RANDOM, *PRUNED), DENSITIES)
    return [("dense", 1.0), *sparse]


def measure(network: keras.Model, digits: Digits) -> dict:
    """Errors by corruption and strength, and the geometry on clean images."""
    features_of = keras.Model(network.inputs, network.layers[-2].output)
    labels = digits.test_labels

    def error(images) -> float:
        logits = network(images, training=False).numpy()
        return float(np.mean(logits.argmax(axis=1) != labels))

    features = features_of(digits.test_images, training=False).numpy()
    last = network.layers[-1]
    found = geometry(features, last.kernel.numpy(), last.bias.numpy(), labels)
    return {
        "clean": error(digits.test_images),
        **{name: float(np.mean(values)) for name, values in found._asdict().items()},
        "corrupted": {
            name: [error(corrupt(digits.test_images, name, s)) for s in STRENGTHS]
            for name in CORRUPTIONS
        },
    }


def _title(method: str, density: float) -> str:
    name = ALGORITHMS[method].title if method in ALGORITHMS else method
    return name if density == 1 else f"{name}, density {density:g}"


def report(results: list[dict]) -> str:
    """The page of results."""
    rows = []
    for method, density in dict.fromkeys((r["method"], r["density"]) for r in results):
        mine = [r for r in results if (r["method"], r["density"]) == (method, density)]
        cell = functools.partial(mean_and_error_text, digits=1)
        rows.append(
            [
                _title(method, density),
                cell([100 * r["clean"] for r in mine]),
                *(
                    cell([100 * np.mean(r["corrupted"][name]) for r in mine])
                    for name in CORRUPTIONS
                ),
                cell([100 * np.mean(list(r["corrupted"].values())) for r in mine]),
                cell([r["angle"] for r in mine]),
                cell([r["length"] for r in mine]),
                cell([r["margin"] for r in mine], digits=2),
            ]
        )
    return (
        "# Robustness of pruned networks\n\n"
        f"`python -m benchmarks.robustness`: test error in per cent, a mean over five "
        f"strengths; {len(SEEDS)} seeds, ± is a standard error. Angle (degrees, to the "
        "true class), length and margin (signed distance to the nearest boundary) are "
        "those of the last features on clean images. All networks have the same steps "
        "and one learning rate, which was not tuned; the paper's recipe has 3 "
        "cycles.\n\n"
        + markdown_table(
            [
                "network",
                "clean",
                *CORRUPTIONS,
                "all corruptions",
                "angle",
                "length",
                "margin",
            ],
            rows,
        )
    )


def write_page(digits: Digits, path: pathlib.Path) -> None:
    """Writes the page of a report on the networks of the first seed."""
    models = {
        _title(method, density): train(method, density, digits, SEEDS[0])
        for method, density in methods()
    }
    name, last = models.popitem()
    sa.report(last, path, name, None, models, digits.test_images, digits.test_labels)
    print(path)


def main() -> None:
    """Trains and measures all networks and writes the page of results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--page", type=pathlib.Path, help="write this file alone")
    options = parser.parse_args()
    digits = load_digits()
    if options.page:
        write_page(digits, options.page)
        return
    results = []
    every = list(itertools.product(methods(), SEEDS))
    with progress_bar(len(every), "networks", "Robustness") as bar:
        for (method, density), seed in every:
            found = measure(train(method, density, digits, seed), digits)
            results.append(
                {"method": method, "density": density, "seed": seed, **found}
            )
            keras.backend.clear_session()
            bar.update(1)
    text = report(results)
    write_whole(RESULTS / "robustness.md", text)
    write_json(RESULTS / "robustness.json", results)
    print(text)


if __name__ == "__main__":
    main()
