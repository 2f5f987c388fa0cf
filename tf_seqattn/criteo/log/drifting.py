"""Days of clicks whose truth changes: weights drift, new values appear."""

import functools
import math

import numpy as np
import polars as pl

from tf_seqattn.criteo.log.synthetic import (
    FIELDS,
    CategoryField,
    ClickSource,
    category_texts,
    check_range,
    generator,
    random_effect,
)

# Streams of random numbers of the days; the rows have those below.
_DAY_STREAM = 2**61
# A field has at most so many values, so those of each generation have other numbers.
_VALUES = 4096


class DriftingClicks(ClickSource):
    """One day of clicks. Day 0 is a `ClickSource`, and each day follows the one before.

    Overnight every effect on the log-odds turns by an angle towards a random one of the
    same variance. Some values of the categories go, and new ones of the same frequency,
    with effects of their own, come in their place. Which fields act, which of them
    interact and the click rate stay.

    Row `r` has the same random numbers on every day: take rows of its own for each,
    such as `rows(day * n, (day + 1) * n)`.

    Args:
      seed: decides all days and rows.
      day: 0 or more.
      turn: angle in radians from 0 to 1. Effects of one day and of the next have the
        correlation `cos(turn)`.
      new_values: share of the values of each category that are new, from 0 to 1.
      **kwargs: passed to `ClickSource`.

    Raises:
      ValueError: naming the argument, for a value outside its range.

    Example:

    >>> monday, tuesday = (DriftingClicks(1, day, max_categories=60) for day in (0, 1))
    >>> monday.informative_fields == tuesday.informative_fields
    True
    """

    def __init__(
        self,
        seed: int = 0,
        day: int = 0,
        turn: float = 0.15,
        new_values: float = 0.03,
        **kwargs,
    ):
        check_range("day", day, 0, 10_000)
        check_range("turn", turn, 0.0, 1.0)
        check_range("new_values", new_values, 0.0, 1.0)
        self.day, self.turn, self.new_values = day, turn, new_values
        super().__init__(seed, **kwargs)

    def _calibrate(self) -> tuple[float, float]:
        """Lets the nights pass, and then sets the click rate."""
        # How often the value of each level has been replaced.
        self._generations = [np.zeros_like(ranks) for ranks in self._ranks]
        for number in range(1, self.day + 1):
            self._pass_night(generator(self.seed, _DAY_STREAM + number))
        return super()._calibrate()

    def _pass_night(self, random: np.random.Generator) -> None:
        new = [self._new_levels(j, random) for j in range(len(FIELDS))]
        for generations, levels in zip(self._generations, new, strict=True):
            generations += levels

        def next_day(j: int, effect: np.ndarray) -> np.ndarray:
            fresh = effect.std() * random_effect(FIELDS[j], self._ranks[j], random)
            turned = math.cos(self.turn) * effect + math.sin(self.turn) * fresh
            return np.where(new[j], fresh, turned).astype(np.float32)

        self._main = {j: next_day(j, effect) for j, effect in self._main.items()}
        self._interactions = [
            (next_day(j, left), next_day(k, right))
            for (j, k), (left, right) in zip(
                self._pairs, self._interactions, strict=True
            )
        ]

    def _new_levels(self, j: int, random: np.random.Generator) -> np.ndarray:
        """Which levels of a field stand for a new value, bool `(LEVELS,)`."""
        ranks = self._ranks[j]
        if not isinstance(FIELDS[j], CategoryField):
            return np.zeros(len(ranks), bool)
        # The last is for the rank -1: an empty field stays one.
        new = np.append(random.random(ranks.max() + 1) < self.new_values, False)
        return new[ranks]

    @functools.cached_property
    def _texts(self) -> list[pl.Series]:
        texts = list(super()._texts)
        for j, (ranks, generations) in enumerate(
            zip(self._ranks, self._generations, strict=True)
        ):
            if isinstance(FIELDS[j], CategoryField):
                texts[j] = category_texts(j, ranks + _VALUES * generations)
        return texts

    def describe(self) -> dict:
        """What `ClickSource.describe` returns, with `day`, `turn` and `new_values`."""
        return {
            **super().describe(),
            "day": self.day,
            "turn": self.turn,
            "new_values": self.new_values,
        }
