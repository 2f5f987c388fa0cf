"""The table of losses, the mean ranks and the picture of `benchmarks/quality.py`."""

import collections
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np

from benchmarks.quality_tasks.latency import BATCH, EqualLatency
from tf_seqattn.experiments.algorithms import ALGORITHMS
from tf_seqattn.experiments.markdown_table import markdown_table
from tf_seqattn.experiments.mean_and_error import mean_and_error, mean_and_error_text

_OURS = "recommended"
_OTHERS = {
    "narrow": ("dense, as many weights", "#999999"),
    "narrow_fast": ("dense, as fast", "#666666"),
    "random": ("random support", "#bbbb88"),
    "regrowth": ("regrowth (RigL)", "#222222"),
}
_RESAMPLES = 10_000

# (task, sparsity, side of a block).
Column = tuple[str, float, int]


def title(arm: str) -> str:
    """What a table calls an arm."""
    return _OTHERS[arm][0] if arm in _OTHERS else ALGORITHMS[arm].title


def colour(arm: str) -> str:
    """Its colour in a picture."""
    return _OTHERS[arm][1] if arm in _OTHERS else ALGORITHMS[arm].colour


def by_column(results: Sequence[dict], columns: Sequence[Column]) -> dict:
    """Losses `(columns, seeds)` of each arm, in the order of the seeds."""
    found = collections.defaultdict(list)
    for result in sorted(results, key=lambda r: r["seed"]):
        key = (result["task"], result["sparsity"], result["block_size"])
        found[result["arm"], key].append(result["loss"])
    arms = dict.fromkeys(result["arm"] for result in results)
    return {
        arm: np.array(
            [found[arm, (c[0], 0.0, 0) if arm == "dense" else c] for c in columns]
        )
        for arm in arms
    }


def differences_from(
    results: Sequence[dict], arms: Iterable[str], tasks: Sequence[str], first: str
) -> list[list[str]]:
    """Rows of losses: those of one arm, and of the others their difference from it.

    Args:
      results: of all trainings, with `arm`, `task`, `seed` and `loss`.
      arms: a row for each.
      tasks: a column for each.
      first: the arm from which the differences are taken, seed by seed.
    """
    losses: dict[tuple[str, str], list[float]] = {}
    for r in sorted(results, key=lambda r: r["seed"]):
        losses.setdefault((r["arm"], r["task"]), []).append(r["loss"])

    def cell(arm: str, task: str) -> str:
        own = np.array(losses[arm, task])
        if arm == first:
            return mean_and_error_text(own)
        return mean_and_error_text(own - losses[first, task], signed=True)

    return [[arm, *(cell(arm, task) for task in tasks)] for arm in arms]


def mean_ranks(losses: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Rank of every arm in each column, 1 for the lowest loss, a mean over the seeds.

    Args:
      losses: `(columns, seeds)` of each arm.

    Example:

    >>> mean_ranks({"a": np.array([[1.0, 1.0]]), "b": np.array([[2.0, 0.0]])})
    {'a': array([1.5]), 'b': array([1.5])}
    """
    every = np.stack(list(losses.values()))
    ranks = 1.0 + np.argsort(np.argsort(every, axis=0), axis=0)
    return dict(zip(losses, ranks.mean(axis=2), strict=True))


def interval(differences: np.ndarray, tasks: Sequence[str]) -> tuple[float, float]:
    """95 % interval of a mean over columns, by resampling their tasks.

    Columns of one task share data and network, so they are drawn together.

    Args:
      differences: one for each column.
      tasks: of each column.

    Example:

    >>> interval(np.array([0.0, 0.0, 3.0]), ["flights", "flights", "films"])
    (0.0, 3.0)
    """
    random = np.random.default_rng(0)
    names = np.array(tasks)
    of_task = [differences[names == task] for task in dict.fromkeys(tasks)]
    sums = np.array([found.sum() for found in of_task])
    sizes = np.array([len(found) for found in of_task])
    drawn = random.integers(len(sums), size=(_RESAMPLES, len(sums)))
    means = sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def _losses(losses: dict[str, np.ndarray], columns: Sequence[Column]) -> str:
    titles = ["log loss", *map(_name, columns)]
    rows = []
    for arm, found in losses.items():
        rows.append([title(arm), *map(mean_and_error_text, found)])
    # A row a column of the experiment: there are too many to stand side by side.
    turned = [list(row) for row in zip(*[titles, *rows], strict=True)]
    return markdown_table(turned[0], turned[1:])


def _ranks(losses: dict[str, np.ndarray], tasks: Sequence[str]) -> str:
    pruned = {arm: found for arm, found in losses.items() if arm != "dense"}
    ranks = mean_ranks(pruned)
    rows = []
    for arm in sorted(ranks, key=lambda arm: ranks[arm].mean()):
        row = [title(arm), f"{ranks[arm].mean():.2f}"]
        if arm == _OURS:
            rows.append([*row, None, None, None, None])
            continue
        low, high = interval(ranks[arm] - ranks[_OURS], tasks)
        pairs = [
            mean_and_error(ours - theirs)
            for ours, theirs in zip(pruned[_OURS], pruned[arm], strict=True)
        ]
        ahead = sum(mean < -error for mean, error in pairs)
        behind = sum(mean > error for mean, error in pairs)
        far_behind = sum(mean > 2 * error for mean, error in pairs)
        counts = [str(ahead), str(behind), str(far_behind)]
        rows.append([*row, f"{low:+.2f} to {high:+.2f}", *counts])
    return markdown_table(
        [
            "arm",
            "mean rank",
            "its rank less ours (95 %)",
            "ours ahead by over 1 standard error",
            "ours behind by over 1",
            "ours behind by over 2",
        ],
        rows,
    )


def _factors(
    factors: Mapping[tuple[str, str], float],
    tasks: Iterable[str],
    arms: Sequence[str],
) -> str:
    rows = [[task, *(f"{factors[task, arm]:g}" for arm in arms)] for task in tasks]
    return markdown_table(["task", *map(title, arms)], rows)


def _name(column: Column) -> str:
    """What a table or a picture calls a column."""
    task, sparsity, block = column
    return f"{task}, {sparsity:.0%}, {block} x {block}"


def _latencies(latencies: Mapping[Column, EqualLatency]) -> str:
    rows = [
        [
            _name(column),
            f"{found.dense:.0f}",
            f"{found.pruned:.0f}",
            f"{found.dense / found.pruned:.2f}",
            f"{found.share:.0%}",
        ]
        for column, found in latencies.items()
    ]
    titles = ["cell", "dense, us", "pruned, us", "ratio", "width of dense, as fast"]
    return (
        f"## Latency of {BATCH} rows\n\n"
        "TFLite files, float32, one thread: the dense network, and one without random "
        "blocks, whose layers are packed where that is faster. The last column is the "
        "share of the width at which a dense network takes as long: the arm "
        f"`{title('narrow_fast')}`.\n\n{markdown_table(titles, rows)}\n"
    )


def _draw(
    losses: dict[str, np.ndarray], columns: Sequence[Column], path: pathlib.Path
) -> None:
    """Draws the loss of each arm less that of gradual magnitude, with the spread."""
    figure, axes = plt.subplots(figsize=(9, 0.6 * len(columns) + 1.5))
    arms = [arm for arm in losses if arm not in ("dense", "gradual")]
    places = np.arange(len(columns))[::-1]
    markers = "osD^vPhX><pd8*H1"
    for number, arm in enumerate(arms):
        differences = 100 * (losses[arm] / losses["gradual"] - 1)
        error = differences.std(axis=1, ddof=1) / np.sqrt(differences.shape[1])
        axes.errorbar(
            differences.mean(axis=1),
            places + 0.055 * (number - len(arms) / 2),
            xerr=error,
            fmt="*" if arm == _OURS else markers[number],
            color=colour(arm),
            label=title(arm),
            markersize=9 if arm == _OURS else 5,
            zorder=3 if arm == _OURS else 2,
        )
    for place in places[:-1]:
        axes.axhline(place - 0.5, color="#dddddd", linewidth=0.8)
    axes.axvline(0, color=colour("gradual"), label=title("gradual"))
    axes.set_yticks(places, [_name(column) for column in columns])
    axes.set_xlim(-55, 60)
    axes.set_xlabel("log loss, % above gradual magnitude (left is better)")
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    figure.savefig(path, bbox_inches="tight", dpi=120)
    plt.close(figure)


def report(
    results: Sequence[dict],
    columns: Sequence[Column],
    held_back: Sequence[str],
    heading: str,
    how: str,
    factors: Mapping[tuple[str, str], float],
    latencies: Mapping[Column, EqualLatency],
    command: str,
    picture: pathlib.Path,
) -> str:
    """Returns the page, and draws its picture.

    Args:
      results: of the cells, with `task`, `arm`, `sparsity`, `block_size`, `seed` and
        `loss`.
      columns: of the table.
      held_back: tasks on which nothing was chosen.
      heading: of the page.
      how: the learning rates were chosen, in words.
      factors: of the learning rate, for each task and arm.
      latencies: of each column.
      command: that gives these results.
      picture: file to draw.
    """
    losses = by_column(results, columns)
    _draw(losses, columns, picture)
    unseen = [index for index, column in enumerate(columns) if column[0] in held_back]
    of_unseen = {arm: found[unseen] for arm, found in losses.items()}
    tasks = [task for task, *_ in columns]
    seeds = next(iter(losses.values())).shape[1]
    return (
        f"# {heading}\n\n"
        f"`{command}` on {os.cpu_count()} cores, {seeds} seeds. All arms have the same "
        f"steps and batches. {how} SequentialAttention++ and ACDC have the paper's "
        "phases for ImageNet. Errors are standard errors; differences are taken seed "
        "by seed. The intervals of ranks resample the tasks, since the cells of one "
        "share data and network. Five of the nine tasks have the same digits.\n\n"
        f"![Losses]({picture.name})\n\n"
        f"## All {len(columns)} cells\n\n{_ranks(losses, tasks)}\n"
        f"## The tasks that were held back: {', '.join(held_back)}\n\n"
        f"{_ranks(of_unseen, [tasks[index] for index in unseen])}\n"
        f"## Losses\n\n{_losses(losses, columns)}\n"
        f"{_latencies(latencies) if latencies else ''}"
        "## Learning rates: factors of the task's own\n\n"
        f"{_factors(factors, dict.fromkeys(c[0] for c in columns), list(losses))}"
    )
