"""Which regime a training is in, and whether the rule for the temperature holds.

- I: its retrained networks are not connected by a line of low error;
- II-A: they are connected, and their outputs are not alike;
- II-B: they are connected and alike.

The rule of arXiv 2305.18383: in I raise the temperature, in II-A lower it.
"""

import itertools
from collections.abc import Sequence

import numpy as np

# The largest barrier, as a share of wrong rows.
CONNECTED = 0.01


def regime(result: dict, alike: float) -> str:
    """The regime of a cell: "I", "II-A" or "II-B".

    Args:
      result: of `measure`.
      alike: the similarity from which outputs are alike.

    Example:

    >>> regime({"barrier": 0.0, "cka": 0.9}, alike=0.95)
    'II-A'
    """
    if result["barrier"] > CONNECTED:
        return "I"
    return "II-B" if result["cka"] >= alike else "II-A"


def threshold(results: Sequence[dict]) -> float:
    """The median similarity of the connected cells."""
    connected = [r["cka"] for r in results if r["barrier"] <= CONNECTED]
    return float(np.median(connected)) if connected else 1.0


def score_rule(results: Sequence[dict]) -> dict[str, int]:
    """Tests the rule on every other density; the rest gives the threshold.

    At each held-out cell of regime I or II-A with a neighbour on the side that the rule
    names, the rule is right if the neighbour has a lower error, and wrong if it has a
    higher one.

    Args:
      results: of one method, one knob and one network.

    Returns:
      Counts: `right`, `wrong`, `equal`; and `colder_right` and `colder_wrong` for the
      advice to always lower the temperature, at the same cells.
    """
    densities = sorted({r["density"] for r in results})
    held = densities[1::2]
    alike = threshold([r for r in results if r["density"] not in held])
    settings = sorted({r["setting"] for r in results})
    # Cold last: many epochs, large batches.
    at = {(r["setting"], r["density"]): r for r in results}
    counts = dict.fromkeys(
        ("right", "wrong", "equal", "colder_right", "colder_wrong"), 0
    )
    for density, place in itertools.product(held, range(len(settings))):
        here = at[settings[place], density]
        found = regime(here, alike)
        if found == "II-B":
            continue
        step = -1 if found == "I" else 1
        if 0 <= place + step < len(settings):
            change = at[settings[place + step], density]["error"] - here["error"]
            name = "equal" if change == 0 else "right" if change < 0 else "wrong"
            counts[name] += 1
        if place + 1 < len(settings):
            change = at[settings[place + 1], density]["error"] - here["error"]
            if change:
                counts["colder_right" if change < 0 else "colder_wrong"] += 1
    return counts
