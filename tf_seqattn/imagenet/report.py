"""The accuracy table of the trainings in a folder, beside the paper's."""

import json
import pathlib

from tf_seqattn.experiments.markdown_table import markdown_table
from tf_seqattn.imagenet.paper_results import DENSE, paper_accuracies


def load_results(folder: pathlib.Path) -> list[dict]:
    """Returns the results of all finished trainings below a folder."""
    return [
        json.loads(path.read_text()) for path in sorted(folder.glob("*/result.json"))
    ]


def table(results: list[dict]) -> str:
    """Lays out results as Markdown: ours, then the paper's for the same block sizes.

    Args:
      results: of `training.train`.

    Example:

    >>> print(table([]).splitlines()[-1])
    | dense, the paper's | – | 0 | – | 76.90 | – |
    """
    titles = ["training", "block", "zero weights, %", "layers pruned"]
    titles += ["top-1, %", "top-5, %"]
    rows: list[list[str | int | None]] = []
    for result in results:
        rows.append(
            [
                f"{result['algorithm']}, seed {result['seed']}",
                None if result["algorithm"] == "dense" else result["block_size"],
                f"{100 * result['sparsity']:.1f}",
                result["layers_pruned"],
                f"{100 * result['top_1']:.2f}",
                f"{100 * result['top_5']:.2f}",
            ]
        )
    sizes = {r["block_size"] for r in results if r["algorithm"] != "dense"}
    for size in sorted(sizes):
        for sparsity, (acdc, ours) in paper_accuracies(size).items():
            share = f"{100 * sparsity:.0f}"
            for name, value in (("acdc", acdc), ("seqattn", ours)):
                accuracy = None if value is None else f"{value:.2f}"
                rows.append([f"{name}, the paper's", size, share, None, accuracy, None])
    rows.append(["dense, the paper's", None, 0, None, f"{DENSE:.2f}", None])
    return markdown_table(titles, rows)
