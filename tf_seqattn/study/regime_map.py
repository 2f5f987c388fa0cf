"""The map of the three regimes, as a picture and as tables."""

import collections
import pathlib
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np

from tf_seqattn.experiments.markdown_table import markdown_table
from tf_seqattn.experiments.mean_and_error import mean_and_error_text
from tf_seqattn.study.rule import regime, score_rule, threshold

_COLOURS = {"I": "#cc6677", "II-A": "#ddcc77", "II-B": "#44aa99"}
_KNOBS = {"epochs": "epochs before pruning", "batch": "batch size before pruning"}


def _parts(results: Sequence[dict]) -> dict[tuple[str, str], list[dict]]:
    """The results of each method and knob."""
    keys = dict.fromkeys((r["method"], r["knob"]) for r in results)
    return {
        key: [r for r in results if (r["method"], r["knob"]) == key] for key in keys
    }


def average(part: Sequence[dict]) -> list[dict]:
    """The cells of one method and one knob, each the mean of its networks.

    Returns:
      As `measure` does; `errors` are those of the networks.
    """
    cells = dict.fromkeys((r["setting"], r["density"]) for r in part)
    averaged = []
    for setting, density in cells:
        same = [r for r in part if (r["setting"], r["density"]) == (setting, density)]
        means = {
            name: float(np.mean([r[name] for r in same]))
            for name in ("error", "barrier", "cka")
        }
        errors = [r["error"] for r in same]
        averaged.append({**same[0], **means, "errors": errors})
    return averaged


def _networks(part: Sequence[dict]) -> list[list[dict]]:
    """The results of each network."""
    seeds = dict.fromkeys(r["network"] for r in part)
    return [[r for r in part if r["network"] == seed] for seed in seeds]


def draw(results: Sequence[dict], path: pathlib.Path) -> None:
    """Draws a map for each method and knob, with the test error in each cell.

    A cell shows the means of its networks. The regimes differ in their letters too, so
    that the picture is legible in grey.
    """
    parts = {key: average(part) for key, part in _parts(results).items()}
    figure, every = plt.subplots(
        1, len(parts), figsize=(5 * len(parts), 3.6), squeeze=False
    )
    for ((method, knob), part), axes in zip(parts.items(), every[0], strict=True):
        alike = threshold(part)
        settings = sorted({r["setting"] for r in part})
        densities = sorted({r["density"] for r in part})
        for result in part:
            x = densities.index(result["density"])
            y = settings.index(result["setting"])
            name = regime(result, alike)
            axes.add_patch(plt.Rectangle((x, y), 1, 1, color=_COLOURS[name], alpha=0.6))
            label = f"{name}\n{100 * result['error']:.1f}"
            axes.text(x + 0.5, y + 0.5, label, ha="center", va="center", fontsize=8)
        axes.set_xlim(0, len(densities))
        axes.set_ylim(0, len(settings))
        axes.set_xticks(np.arange(len(densities)) + 0.5, densities)
        axes.set_yticks(np.arange(len(settings)) + 0.5, settings)
        axes.set_xlabel("density")
        axes.set_ylabel(f"{_KNOBS[knob]} (colder upwards)")
        axes.set_title(method)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def report(
    results: Sequence[dict], seeds: int, command: str, picture: pathlib.Path
) -> str:
    """The page: the map, the measures and how the rule did."""
    parts = _parts(results)
    rules = []
    for (method, knob), part in parts.items():
        counts: collections.Counter = collections.Counter()
        regimes = []
        for network in _networks(part):
            counts.update(score_rule(network))
            regimes += [regime(r, threshold(network)) for r in network]
        rules.append(
            [
                f"{method}, {knob}",
                *(str(regimes.count(name)) for name in _COLOURS),
                f"{counts['right']} / {counts['wrong']} / {counts['equal']}",
                f"{counts['colder_right']} / {counts['colder_wrong']}",
                *_choices(part),
            ]
        )
    tables = []
    for (method, knob), part in parts.items():
        averaged = average(part)
        densities = sorted({r["density"] for r in averaged})
        rows = []
        for setting in sorted({r["setting"] for r in averaged}):
            row = sorted(
                (r for r in averaged if r["setting"] == setting),
                key=lambda r: r["density"],
            )
            rows.append(
                [
                    str(setting),
                    *(
                        f"{mean_and_error_text(100 * np.array(r['errors']), 1)}, "
                        f"{100 * r['barrier']:.1f}, {r['cka']:.3f}"
                        for r in row
                    ),
                ]
            )
        titles = [_KNOBS[knob], *(f"density {d:g}" for d in densities)]
        tables.append(f"## {method}, {knob}\n\n{markdown_table(titles, rows)}")
    networks = len(_networks(results))
    return (
        "# Three regimes of pruning\n\n"
        f"`{command}`: the 1,797 digits of scikit-learn, two hidden layers of 128, "
        f"blocks of 4 x 4 pruned once, {networks} networks at each temperature, each "
        f"with {seeds} retrainings a cell and all their pairs. "
        "The regimes are I (not connected: a barrier above 1 % of training error), "
        "II-A (connected; outputs less alike than the median connected cell) and II-B "
        "(connected and alike). In the picture a cell shows the means of its "
        "networks.\n\n"
        f"![The maps, with test errors in per cent]({picture.name})\n\n"
        "Below, each network has a map of its own, and the counts are sums over them. "
        "The rule (in I raise the temperature, in II-A lower it) is tested on every "
        "other density, with the threshold of the rest: one step in its direction "
        "makes the test error lower (right), higher (wrong) or leaves it. Which of the "
        "networks of one seed to prune is chosen at each density by connection and "
        "similarity, or by the least error at density "
        f"{max(r['density'] for r in results):g}; the test error (%) of the choice is "
        "averaged over the densities, and ± is a standard error over the seeds.\n\n"
        + markdown_table(
            [
                "method, knob",
                "I",
                "II-A",
                "II-B",
                "rule: right / wrong / equal",
                "always colder: right / wrong",
                "chosen by the measures",
                "by nearly dense error",
                "best in hindsight",
            ],
            rules,
        )
        + "\n\nThe cells below are test error ± standard error over the networks (%), "
        "barrier (%) and similarity.\n\n" + "\n".join(tables)
    )


def _choices(part: Sequence[dict]) -> list[str]:
    """Mean errors (%) of the networks chosen by measures, by the densest, by hindsight.

    ± is a standard error over the seeds.
    """
    errors = 100 * np.array([_choice(network) for network in _networks(part)])
    return [mean_and_error_text(column, 1) for column in errors.T]


def _choice(part: Sequence[dict]) -> tuple[float, float, float]:
    """Mean errors of the three choices among the networks of one seed."""
    densest = max(r["density"] for r in part)
    nearly_dense = min(
        (r for r in part if r["density"] == densest), key=lambda r: r["error"]
    )
    chosen, usual, best = [], [], []
    for density in sorted({r["density"] for r in part} - {densest}):
        row = [r for r in part if r["density"] == density]
        chosen.append(min(row, key=lambda r: (regime(r, 2.0) == "I", -r["cka"])))
        usual += [r for r in row if r["setting"] == nearly_dense["setting"]]
        best.append(min(row, key=lambda r: r["error"]))
    by_measures, by_dense, by_hindsight = (
        float(np.mean([r["error"] for r in rows])) for rows in (chosen, usual, best)
    )
    return by_measures, by_dense, by_hindsight
