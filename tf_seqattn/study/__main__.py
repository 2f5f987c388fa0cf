"""Studies of what happens when a network is pruned, on the small digits.

python -m tf_seqattn.study regimes --output out/study
"""

import argparse
import pathlib

from tf_seqattn.experiments import command_line
from tf_seqattn.experiments.progress import progress_bar
from tf_seqattn.files import write_json, write_whole
from tf_seqattn.study import regime_map, regimes

_MODULE = "tf_seqattn.study"


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line, or the list `arguments` in place of it."""
    parser = command_line.make_parser(_MODULE, __doc__)
    studies = parser.add_subparsers(dest="study", required=True)
    study = studies.add_parser(
        "regimes",
        help="temperature of the training against density (arXiv 2305.18383)",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    study.add_argument(
        "--output",
        type=command_line.output_folder,
        default=pathlib.Path("out/study"),
        help="folder for the cells; those that are there are not measured again",
    )
    study.add_argument(
        "--results", type=pathlib.Path, help="folder for the page, by default --output"
    )
    study.add_argument(
        "--temperature",
        nargs="+",
        choices=list(regimes.TEMPERATURES),
        default=["epochs"],
        help="what makes the training before pruning hot or cold",
    )
    study.add_argument(
        "--networks",
        type=command_line.integer(2),
        default=3,
        help="trained at each temperature; each of them is pruned",
    )
    study.add_argument(
        "--seeds", type=command_line.integer(2), default=3, help="of each retraining"
    )
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> list[dict]:
    """Runs the study, writes its page and prints it.

    Args:
      arguments: in place of the command line.

    Returns:
      The results of the cells.
    """
    options = parse_arguments(arguments)
    results_folder = options.results or options.output
    options.output.mkdir(parents=True, exist_ok=True)
    results_folder.mkdir(parents=True, exist_ok=True)
    number = len(regimes.METHODS) * len(regimes.DENSITIES) * options.networks
    number *= sum(len(regimes.TEMPERATURES[knob]) for knob in options.temperature)
    with progress_bar(number, "cells", "Regimes") as bar:
        results = regimes.run(
            options.output,
            options.seeds,
            options.networks,
            options.temperature,
            lambda: bar.update(1),
        )
    picture = results_folder / "regimes.png"
    regime_map.draw(results, picture)
    command = command_line.command_text(_MODULE, arguments)
    text = regime_map.report(results, options.seeds, command, picture)
    write_whole(results_folder / "regimes.md", text)
    write_json(results_folder / "regimes.json", results)
    print(text)
    return results


if __name__ == "__main__":
    command_line.run(main)
