"""Chooses a learning rate for every task and arm, for all in the same way.

A cell is one training: a named tuple with `task`, `arm`, `seed` and `factor`, that of
the task's learning rate.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

# Of each (task, arm), a factor of the task's learning rate.
Factors = dict[tuple[str, str], float]


def trial_losses(
    cells: Sequence[Any], losses: Sequence[float]
) -> dict[tuple[str, str], dict[float, float]]:
    """Of each task and arm, the mean loss over the seeds at each factor.

    A training that diverged has an infinite loss.

    Args:
      cells: of the trials.
      losses: of each cell.
    """
    found: dict[tuple[str, str], dict[float, list[float]]] = {}
    for cell, loss in zip(cells, losses, strict=True):
        trials = found.setdefault((cell.task, cell.arm), {})
        trials.setdefault(cell.factor, []).append(math.inf if loss != loss else loss)
    return {
        key: {factor: float(np.mean(same)) for factor, same in trials.items()}
        for key, trials in found.items()
    }


def trials_at(
    cells: Sequence[Any],
    factors: dict[tuple[str, str], list[float]],
    seeds: Sequence[int],
) -> list[Any]:
    """Trials of each task and arm at some factors and seeds.

    Args:
      cells: of earlier trials.
      factors: for each task and arm.
      seeds: of the weights and the order of the rows.
    """
    examples = {(cell.task, cell.arm): cell for cell in cells}
    return [
        examples[key]._replace(factor=factor, seed=seed)
        for key, wanted in factors.items()
        for factor in wanted
        for seed in seeds
    ]


def untried(
    cells: Sequence[Any], losses: Sequence[float], scales: Sequence[float]
) -> list[Any]:
    """The trials around the best rates that were not made yet.

    Args:
      cells: of the trials so far.
      losses: of each cell.
      scales: of the best factor, at which it asks for trials.

    Example:

    >>> from typing import NamedTuple
    >>> Cell = NamedTuple("Cell", task=str, arm=str, seed=int, factor=float)
    >>> cells = [Cell("films", "narrow", 100, factor) for factor in (1.0, 2.0)]
    >>> [cell.factor for cell in untried(cells, [0.6, 0.5], scales=(0.5, 2.0))]
    [4.0]
    """
    wanted = {}
    for key, tried in trial_losses(cells, losses).items():
        best = min(tried, key=tried.__getitem__)
        wanted[key] = [scale * best for scale in scales if scale * best not in tried]
    return trials_at(cells, wanted, list(dict.fromkeys(cell.seed for cell in cells)))


def best_factors(
    first: Sequence[Any],
    run: Callable[[list[Any]], list[dict]],
    scales: Sequence[float] = (0.25, 0.5, 2.0, 4.0),
    more_seeds: Sequence[int] = (),
) -> Factors:
    """The factors with the lowest loss, around which all of `scales` are worse.

    By default two rates on either side: a few seeds are noisy, and a single rate that
    is no better ends no search.

    Args:
      first: the trials to begin with, of each task and arm at several factors.
      run: trains cells and returns a result with a `loss` for each.
      scales: of the best factor, at which there must be trials.
      more_seeds: on which the two best factors are then tried, too. The better of the
        two over all seeds is chosen.

    Example:

    >>> from typing import NamedTuple
    >>> Cell = NamedTuple("Cell", task=str, arm=str, seed=int, factor=float)
    >>> def run(cells):  # on the seed 101 large factors are bad
    ...     return [{"loss": abs(c.factor - 2) + 3 * c.factor * (c.seed == 101)}
    ...             for c in cells]
    >>> first = [Cell("films", "narrow", 100, 1.0)]
    >>> best_factors(first, run), best_factors(first, run, more_seeds=[101])
    ({('films', 'narrow'): 2.0}, {('films', 'narrow'): 1.0})
    """
    cells = list(first)
    losses = [result["loss"] for result in run(cells)]
    while missing := untried(cells, losses, scales):
        losses += [result["loss"] for result in run(missing)]
        cells += missing
    best = {
        key: sorted(trials, key=trials.__getitem__)[:2]
        for key, trials in trial_losses(cells, losses).items()
    }
    again = trials_at(cells, best, more_seeds)
    losses += [result["loss"] for result in run(again)] if again else []
    found = trial_losses(cells + again, losses)
    return {key: min(two, key=found[key].__getitem__) for key, two in best.items()}
