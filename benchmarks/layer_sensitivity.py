"""How much each layer suffers from pruning: early, in the middle, late.

Dense networks of `benchmarks/quality.py` are trained as there, and one of six hidden
layers of which five are of one size, so that only their place differs. Then each layer
alone is pruned by the norm of its blocks of 4 x 4, without training again, by
`sa.sensitivity`. What is measured is the loss on rows held out.

    pip install 'tf-seqattn[quality]'
    python -m benchmarks.layer_sensitivity
"""

import argparse
import functools
import json
import pathlib
from typing import NamedTuple

import numpy as np
import tf_keras as keras

import tf_seqattn as sa
from benchmarks.quality_tasks.data import split
from benchmarks.quality_tasks.tasks import TASKS, Task, run_missing, start, train
from tf_seqattn.experiments.markdown_table import markdown_table
from tf_seqattn.experiments.mean_and_error import mean_and_error_text
from tf_seqattn.files import write_json, write_whole

RESULTS = pathlib.Path(__file__).parent / "results"
SPARSITIES = (0.5, 0.8, 0.9, 0.95)
_BLOCK = (4, 4)
_ROWS = 2_000


def deep_perceptron() -> keras.Model:
    """Of digits: six hidden layers of 128."""
    layers = [keras.Input((784,))]
    for number in range(6):
        name = f"hidden_{number}"
        layers.append(keras.layers.Dense(128, activation="relu", name=name))
    return keras.Sequential([*layers, keras.layers.Dense(10, name="logits")])


NETWORKS: dict[str, Task] = {
    "perceptron of six layers": TASKS["digits, Adam"]._replace(network=deep_perceptron),
    "convolutions": TASKS["digits, convolutions"],
    "transformer": TASKS["source code, transformer"],
}


class EveryLayer(sa.PruningPolicy):
    """All kernels but those of embeddings."""

    def allow_pruning(self, layer) -> bool:
        return layer.name.startswith(("stem", "hidden", "logits"))


class Cell(NamedTuple):
    """One training of a network."""

    network: str
    seed: int

    def file(self, folder: pathlib.Path) -> pathlib.Path:
        """Where its result is kept; the name tells the budget too."""
        name = self.network.replace(" ", "_")
        return folder / f"{name}_{NETWORKS[self.network].steps}_{self.seed}.json"


def run_cell(cell: Cell, folder: pathlib.Path) -> None:
    """Trains a network and writes its loss (nats) with each layer pruned."""
    start(cell.seed)
    task = NETWORKS[cell.network]
    model = train(task.network(), task, cell.seed)
    *_, rows, labels = split(task.data)
    rows, labels = rows[:_ROWS], labels[:_ROWS]

    def loss(model: keras.Model) -> float:
        found = model.evaluate(
            rows, labels, batch_size=1000, verbose=0, return_dict=True
        )
        return found["loss"]

    found = sa.sensitivity(
        model,
        sparsities=SPARSITIES,
        block_size=_BLOCK,
        pruning_policy=EveryLayer(),
        evaluate=loss,
        verbose=0,
    )
    (dense,) = found.dense.values()
    layers = {
        name: [next(iter(metrics.values())) - dense for metrics in values]
        for name, values in found.layers.items()
    }
    result = {**cell._asdict(), "dense": dense, "more": layers, "blocks": found.blocks}
    write_json(cell.file(folder), result)


def report(results: list[dict], command: str) -> str:
    """The page of results."""
    seeds = len({r["seed"] for r in results})
    text = functools.partial(mean_and_error_text, digits=3)
    parts = []
    for network in NETWORKS:
        mine = [r for r in results if r["network"] == network]
        rows = []
        for layer, blocks in mine[0]["blocks"].items():
            more = np.array([r["more"][layer] for r in mine])
            rows.append([layer, f"{blocks:,}", *(text(column) for column in more.T)])
        parts.append(
            f"## {network} (dense {text([r['dense'] for r in mine])})\n\n"
            + markdown_table(
                ["layer", "blocks", *(f"{s:.0%}" for s in SPARSITIES)], rows
            )
        )
    return (
        "# Sensitivity by layer\n\n"
        f"`{command}`: what pruning one layer alone, by the norm of its blocks and "
        "with no training afterwards, adds to the log loss on rows held out, at the "
        f"share of its blocks removed. {seeds} seeds, ± is a standard error; layers in "
        "their order from the input.\n\n" + "\n".join(parts)
    )


def main() -> None:
    """Trains what is missing and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], help="two or more")
    add("--workers", type=int, default=1, help="trainings at a time")
    add("--output", type=pathlib.Path, default=pathlib.Path("out/layer_sensitivity"))
    options = parser.parse_args()
    every = [Cell(network, seed) for seed in options.seeds for network in NETWORKS]
    run_missing(every, run_cell, options.output, options.workers)
    results = [json.loads(cell.file(options.output).read_text()) for cell in every]
    seeds = " ".join(map(str, options.seeds))
    text = report(results, f"python -m benchmarks.layer_sensitivity --seeds {seeds}")
    write_whole(RESULTS / "layer_sensitivity.md", text)
    write_json(RESULTS / "layer_sensitivity.json", results)
    print(text)


if __name__ == "__main__":
    main()
