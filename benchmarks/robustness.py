"""How pruned networks stand corruptions, and what their last features look like.

The small digits of scikit-learn, the network of `python -m tf_seqattn.study regimes`:
trained, pruned once in blocks of 4 x 4 and trained again, all for the same epochs. The
dense network is trained again as well. Corruptions come from SciPy, at five strengths.

    pip install 'tf-seqattn[digits,linear]'
    python -m benchmarks.robustness

`--page FILE` writes the page of `sa.report` about the networks of the first seed, to
look at which images flip, in place of the table.
"""

import argparse
import functools
import pathlib

import numpy as np
import tf_keras as keras

import tf_seqattn as sa
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
EPOCHS = 4


def _random_blocks(weights, density: float, seed: int):
    """Dense weights with random blocks of the hidden layers at 0."""
    random = np.random.default_rng(seed)
    found = []
    for w in weights:
        if w.ndim == 2 and w.shape[1] == 128:
            shape = (w.shape[0] // 4, w.shape[1] // 4)
            kept = np.zeros(shape[0] * shape[1], bool)
            kept[: round(density * kept.size)] = True
            mask = random.permutation(kept).reshape(shape)
            w = w * np.repeat(np.repeat(mask, 4, axis=0), 4, axis=1)
        found.append(w)
    return found


def networks(digits, retraining, seed: int):
    """Yields (method, density, weights) of the networks of a seed."""
    for method in regimes.METHODS:
        dense = regimes.train_dense(method, "epochs", EPOCHS, digits, seed)
        whole = regimes.pruned_weights(dense, 0.999_999)
        if method == "magnitude":
            yield "dense", 1.0, retraining(whole, seed)
            for density in DENSITIES:
                start = _random_blocks(whole, density, seed)
                yield "random blocks", density, retraining(start, seed)
        for density in DENSITIES:
            weights = regimes.pruned_weights(dense, density)
            yield method, density, retraining(weights, seed)


def measure(network: keras.Model, weights, digits) -> dict:
    """Errors by corruption and strength, and the geometry on clean images."""
    network.set_weights(weights)
    reestimate_batch_norms(network, digits.train_images)
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
    return method if density == 1 else f"{method}, density {density:g}"


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
        "those of the last features on clean images.\n\n"
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


def write_page(digits, retraining, path: pathlib.Path) -> None:
    """Writes the page of a report on the networks of the first seed."""
    models = {}
    for method, density, weights in networks(digits, retraining, SEEDS[0]):
        network = regimes.make_network()
        network.set_weights(weights)
        reestimate_batch_norms(network, digits.train_images)
        models[_title(method, density)] = network
    name, last = models.popitem()
    sa.report(last, path, name, None, models, digits.test_images, digits.test_labels)
    print(path)


def main() -> None:
    """Trains and measures all networks and writes the page of results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--page", type=pathlib.Path, help="write this file alone")
    options = parser.parse_args()
    digits = regimes.load_digits()
    retraining = regimes.Retraining(digits)
    if options.page:
        write_page(digits, retraining, options.page)
        return
    results = []
    with progress_bar(len(SEEDS), "seeds", "Robustness") as bar:
        for seed in SEEDS:
            for method, density, weights in networks(digits, retraining, seed):
                found = measure(retraining.network, weights, digits)
                results.append(
                    {"method": method, "density": density, "seed": seed, **found}
                )
            bar.update(1)
    text = report(results)
    write_whole(RESULTS / "robustness.md", text)
    write_json(RESULTS / "robustness.json", results)
    print(text)


if __name__ == "__main__":
    main()
