"""Clicks that stand in for the Criteo data: the Kaggle format, a known truth.

Real Criteo data need a licence and a download of gigabytes. `ClickSource` makes
rows of the same form: a label, 13 counts with a heavy tail (some negative in I2),
26 hexadecimal categories with a Zipf tail, and empty fields in every column that has
them in the Kaggle file. Labels are drawn from a known model of main effects and
pairwise interactions of a known subset of the fields, so the log loss of the best
possible predictor (the Bayes loss) is known, and so is which inputs carry signal.

Assumptions, where the real data were not at hand: the rates of empty fields, the
medians of the counts and the Zipf exponents are rough; rows are independent of one
another (no drift over time); empty and negative counts act on the label as a count
of 0 does, since that is all that the usual preprocessing keeps of them.
"""

import functools
import json
import math
import pathlib
from typing import BinaryIO, NamedTuple

import numpy as np
import polars as pl

from tf_seqattn.experiments.progress import progress_bar

CLICK_RATE = 0.256
# Rows are made chunk by chunk, each from (seed, number of the chunk) alone.
CHUNK_ROWS = 65_536
# A field of a row is one uniform 16-bit integer: an index into the field's tables.
LEVELS = 65_536
# Streams of random numbers that belong to no row; chunks are numbered from 0.
_TABLE_STREAM = 2**62
_CALIBRATION_STREAM = 2**63
_CALIBRATION_CHUNKS = 16
# Lets the lower bits of a category differ wherever those of its rank do.
_ODD_MULTIPLIER = 2_654_435_761
_WORD = 2**32


class CountField(NamedTuple):
    """A numeric column: share of empty fields, median of the rest, least value."""

    name: str
    missing: float
    median: float
    least: int = 0


class CategoryField(NamedTuple):
    """A categorical column: share of empty fields, values in the Kaggle file."""

    name: str
    missing: float
    cardinality: int
    exponent: float


COUNT_FIELDS = (
    CountField("I1", 0.45, 1),
    CountField("I2", 0.0, 4, least=-2),
    CountField("I3", 0.22, 6),
    CountField("I4", 0.22, 4),
    CountField("I5", 0.03, 2700),
    CountField("I6", 0.22, 32),
    CountField("I7", 0.04, 3),
    CountField("I8", 0.001, 7),
    CountField("I9", 0.04, 38),
    CountField("I10", 0.45, 1),
    CountField("I11", 0.04, 1),
    CountField("I12", 0.76, 1),
    CountField("I13", 0.22, 4),
)

_CARDINALITIES = (
    *(1460, 583, 10131227, 2202608, 305, 24, 12517, 633, 3, 93145, 5683, 8351593, 3194),
    *(27, 14992, 5461306, 10, 5652, 2173, 4, 7046547, 18, 15, 286181, 105, 142572),
)
_MISSING_CATEGORY = {
    **dict.fromkeys((3, 4, 12, 16, 21, 24), 0.03),
    **dict.fromkeys((19, 20, 25, 26), 0.45),
    6: 0.12,
    22: 0.76,
}
# Exponents 1.0, 1.1, 1.2 and 1.3 in turn.
CATEGORY_FIELDS = tuple(
    CategoryField(
        f"C{number}",
        _MISSING_CATEGORY.get(number, 0.0),
        cardinality,
        exponent=1.0 + 0.1 * (number % 4),
    )
    for number, cardinality in enumerate(_CARDINALITIES, start=1)
)
FIELDS = (*COUNT_FIELDS, *CATEGORY_FIELDS)


def _can_inform(field: CountField | CategoryField) -> bool:
    return field.missing < 0.5 and getattr(field, "cardinality", 10) >= 10


# Fields that can carry signal.
NUM_INFORMATIVE = sum(map(_can_inform, FIELDS))


class Rows(NamedTuple):
    """Consecutive rows of a `ClickSource`.

    Attributes:
      levels: uint16 `(rows, 39)`: index into the tables of each field.
      probabilities: float64 `(rows,)`: the true probability of a click.
      labels: uint8 `(rows,)`: 1 for a click.
    """

    levels: np.ndarray
    probabilities: np.ndarray
    labels: np.ndarray


def binary_log_loss(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Mean log loss in nats of predicted click probabilities.

    Args:
      labels: `(rows,)` of 0 and 1.
      probabilities: `(rows,)`, strictly between 0 and 1.

    Example:

    >>> round(binary_log_loss(np.array([0, 1]), np.array([0.5, 0.5])), 4)
    0.6931
    """
    clicked = np.asarray(labels) > 0
    probabilities = np.asarray(probabilities, np.float64)
    chosen = np.where(clicked, probabilities, 1.0 - probabilities)
    return float(-np.log(chosen).mean())


class ClickSource:
    """An endless, reproducible table of clicks with a known model behind it.

    Row `r` depends on the seed and on `r` alone, so any rows can be made again, in
    any order. The log-odds of a click are

        intercept + sum_j main_j(x_j) + sum_(j, k) left_jk(x_j) * right_jk(x_k)

    over informative fields `j` and pairs `(j, k)` of them. Every term has mean 0 and
    the same variance among the main effects, and among the interactions.

    Args:
      seed: decides the model and every row, 0 or more.
      max_categories: most distinct values of a category (without the empty field).
        The Kaggle file has up to 10 million; the tables of levels limit it to 4096.
      informative: number of fields that act on the label, 2 to 35. They are
        drawn among the fields that are filled in most rows and have at least 10
        values; each takes part in two interactions.
      signal: standard deviation of the log-odds.
      interaction_share: share of their variance that is due to interactions.

    Raises:
      ValueError: naming the argument, for a value outside its range.

    Example:

    >>> source = ClickSource(seed=1)
    >>> rows = source.rows(70_000, 70_003)
    >>> rows.levels.shape, rows.labels.shape
    ((3, 39), (3,))
    """

    def __init__(
        self,
        seed: int = 0,
        max_categories: int = 500,
        informative: int = 24,
        signal: float = 1.85,
        interaction_share: float = 0.6,
    ):
        check_range("seed", seed, 0, 2**61)
        check_range("max_categories", max_categories, 2, 4096)
        check_range("signal", signal, 0.0, 10.0)
        check_range("interaction_share", interaction_share, 0.0, 1.0)
        self.seed = seed
        self.max_categories = max_categories
        random = generator(seed, _TABLE_STREAM)
        candidates = [i for i, field in enumerate(FIELDS) if _can_inform(field)]
        check_range("informative", informative, 2, NUM_INFORMATIVE)
        chosen = random.permutation(candidates)[:informative]
        self._informative = sorted(int(index) for index in chosen)
        # A ring through the chosen fields in random order; two fields make one pair.
        last = informative if informative > 2 else 1
        self._pairs = [
            (int(chosen[i]), int(chosen[(i + 1) % informative])) for i in range(last)
        ]
        self._ranks = [_ranks(field, max_categories) for field in FIELDS]
        main_scale = signal * math.sqrt((1 - interaction_share) / informative)
        pair_scale = signal * math.sqrt(interaction_share / len(self._pairs))
        self._main = {
            j: main_scale * random_effect(FIELDS[j], self._ranks[j], random)
            for j in self._informative
        }
        self._interactions = [
            (
                pair_scale * random_effect(FIELDS[j], self._ranks[j], random),
                random_effect(FIELDS[k], self._ranks[k], random),
            )
            for j, k in self._pairs
        ]
        self.intercept, self.bayes_log_loss = self._calibrate()

    @property
    def informative_fields(self) -> list[str]:
        """Names of the fields that act on the label, in the order of the columns."""
        return [FIELDS[j].name for j in self._informative]

    @property
    def interacting_pairs(self) -> list[tuple[str, str]]:
        """Names of the pairs of fields that interact."""
        return [(FIELDS[j].name, FIELDS[k].name) for j, k in self._pairs]

    def _signal(self, levels: np.ndarray) -> np.ndarray:
        """Log-odds without the intercept, float32 `(rows,)`."""
        columns = {j: levels[:, j] for j in self._informative}
        total = np.zeros(len(levels), np.float32)
        for j, effect in self._main.items():
            total += effect[columns[j]]
        for (j, k), (left, right) in zip(self._pairs, self._interactions, strict=True):
            total += left[columns[j]] * right[columns[k]]
        return total

    def _calibrate(self) -> tuple[float, float]:
        """Intercept for the click rate, and the Bayes loss, over rows of its own.

        With 2^20 rows the standard error of the loss is about 0.0003 nats.
        """
        signal = np.concatenate(
            [
                self._signal(_levels(generator(self.seed, _CALIBRATION_STREAM + i)))
                for i in range(_CALIBRATION_CHUNKS)
            ]
        ).astype(np.float64)
        low, high = -50.0, 50.0
        while high - low > 1e-9:
            middle = (low + high) / 2
            too_low = _sigmoid(signal + middle).mean() < CLICK_RATE
            low, high = (middle, high) if too_low else (low, middle)
        probability = _sigmoid(signal + low)
        entropy = -(
            probability * np.log(probability)
            + (1 - probability) * np.log1p(-probability)
        )
        return low, float(entropy.mean())

    def _chunk(self, index: int) -> Rows:
        random = generator(self.seed, index)
        levels = _levels(random)
        probabilities = _sigmoid(
            self._signal(levels).astype(np.float64) + self.intercept
        )
        labels = random.random(CHUNK_ROWS) < probabilities
        return Rows(levels, probabilities, labels.astype(np.uint8))

    def rows(self, start: int, stop: int) -> Rows:
        """Makes the rows `start <= row < stop`.

        Args:
          start: number of the first row, 0 or more.
          stop: number after the last row.

        Returns:
          `Rows`, the same for the same numbers however they are asked for.
        """
        if not 0 <= start <= stop:
            raise ValueError(
                "`start` and `stop` must satisfy 0 <= start <= stop. Received: "
                f"start={start!r}, stop={stop!r}"
            )
        parts = []
        for index in range(start // CHUNK_ROWS, -(-max(stop, start + 1) // CHUNK_ROWS)):
            first = index * CHUNK_ROWS
            part = slice(max(start - first, 0), min(stop - first, CHUNK_ROWS))
            parts.append([array[part] for array in self._chunk(index)])
        return Rows(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))

    @functools.cached_property
    def _texts(self) -> list[pl.Series]:
        """What the file says for each level of each field; null is an empty field."""
        return [
            category_texts(j, ranks)
            if isinstance(field, CategoryField)
            else _count_texts(field, ranks)
            for j, (field, ranks) in enumerate(zip(FIELDS, self._ranks, strict=True))
        ]

    def write_rows(self, file: BinaryIO, start: int, stop: int) -> None:
        """Writes rows in the Kaggle format: tab-separated, no header.

        Args:
          file: open for writing bytes.
          start: number of the first row.
          stop: number after the last row.
        """
        rows = self.rows(start, stop)
        columns = {"label": pl.Series(rows.labels)}
        for j, (field, texts) in enumerate(zip(FIELDS, self._texts, strict=True)):
            levels = np.ascontiguousarray(rows.levels[:, j])
            columns[field.name] = texts.gather(pl.Series(levels).cast(pl.UInt32))
        pl.DataFrame(columns).write_csv(
            file, separator="\t", include_header=False, quote_style="never"
        )

    def write_tsv(self, path: pathlib.Path | str, rows: int, progress: bool = True):
        """Writes rows 0 to `rows` as a file, and what is known of them beside it.

        The second file has the same name with the ending `.json`; see `describe`.

        Args:
          path: of the file to write; its folder is made.
          rows: number of rows; 2 million take about 500 MB.
          progress: whether to show a progress bar.
        """
        path = pathlib.Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with (
            open(path, "wb") as file,
            progress_bar(rows, "rows", "Writing", progress) as bar,
        ):
            for start in range(0, rows, CHUNK_ROWS):
                stop = min(start + CHUNK_ROWS, rows)
                self.write_rows(file, start, stop)
                bar.update(stop - start)
        description = json.dumps({**self.describe(), "rows": rows}, indent=2)
        path.with_suffix(".json").write_text(description + "\n")

    def describe(self) -> dict:
        """Returns what is known of the data, ready for JSON.

        Returns:
          A dict of `seed`, `max_categories`, `click_rate`, `intercept`,
          `bayes_log_loss` (nats, expected over all rows), `informative_fields` and
          `interacting_pairs` (names of columns).
        """
        return {
            "seed": self.seed,
            "max_categories": self.max_categories,
            "click_rate": CLICK_RATE,
            "intercept": self.intercept,
            "bayes_log_loss": self.bayes_log_loss,
            "informative_fields": self.informative_fields,
            "interacting_pairs": [list(pair) for pair in self.interacting_pairs],
        }


def make_synthetic(source: ClickSource, path: pathlib.Path, rows: int) -> None:
    """Writes synthetic rows, unless the file has them from an earlier run.

    Args:
      source: of the rows.
      path: of the file; what is known of the rows stands beside it, see `write_tsv`.
      rows: number of rows, from row 0.
    """
    description = path.with_suffix(".json")
    wanted = {**source.describe(), "rows": rows}
    if path.exists() and description.exists():
        if json.loads(description.read_text()) == wanted:
            print(f"Using the {rows:,} synthetic rows in {path}.")
            return
    description.unlink(missing_ok=True)
    source.write_tsv(path, rows)


def check_range(name: str, value, low, high) -> None:
    """Raises a `ValueError` that names an argument outside its range."""
    if not low <= value <= high:
        raise ValueError(
            f"`{name}` must be between {low} and {high}. Received: {name}={value!r}"
        )


def generator(seed: int, stream: int) -> np.random.Generator:
    """A random generator of its own for each (seed, stream)."""
    key = np.array([seed, stream], np.uint64)
    return np.random.Generator(np.random.Philox(key=key))


def _levels(random: np.random.Generator) -> np.ndarray:
    return random.integers(0, LEVELS, (CHUNK_ROWS, len(FIELDS)), dtype=np.uint16)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-x))


def _ranks(field: CountField | CategoryField, max_categories: int) -> np.ndarray:
    """What each level stands for: int64 `(LEVELS,)`, -1 for an empty field.

    For a category the rank of its value, 0 the most frequent. For a count the count,
    before the least value is added.
    """
    uniform = (np.arange(LEVELS) + 0.5) / LEVELS
    filled = (uniform - field.missing) / (1.0 - field.missing)
    if isinstance(field, CategoryField):
        size = min(field.cardinality, max_categories)
        weights = np.arange(1, size + 1) ** -field.exponent
        edges = np.cumsum(weights) / weights.sum()
        ranks = np.searchsorted(edges, filled.clip(0.0, 1.0 - 1e-12), side="right")
    else:
        # A Lomax tail: the share of counts above x falls about as 1 / x.
        tail = (1.0 - filled.clip(0.0)) ** (-1.0 / 1.1) - 1.0
        scale = field.median / (2.0 ** (1.0 / 1.1) - 1.0)
        ranks = np.floor(scale * tail)
    return np.where(filled < 0.0, -1, ranks).astype(np.int64)


def _count_values(field: CountField, ranks: np.ndarray) -> np.ndarray:
    """The counts in the file; the value of an empty field means nothing."""
    return ranks + field.least


def random_effect(
    field: CountField | CategoryField,
    ranks: np.ndarray,
    random: np.random.Generator,
) -> np.ndarray:
    """A random effect of a field on the log-odds, by level.

    A category has a normal effect per value, "empty" being one of them; a count a
    smooth function of `log(1 + count)`.

    Returns:
      float32 `(LEVELS,)` of mean 0 and variance 1 over the levels.
    """
    if isinstance(field, CategoryField):
        values = random.standard_normal(ranks.max() + 2)
        effect = values[ranks + 1]
    else:
        counts = np.where(ranks < 0, 0, _count_values(field, ranks))
        logs = np.log1p(counts.clip(0))
        standard = (logs - logs.mean()) / logs.std()
        frequency, phase = random.uniform(1.0, 2.0), random.uniform(0.0, 2 * np.pi)
        effect = np.sin(frequency * standard + phase)
    return ((effect - effect.mean()) / effect.std()).astype(np.float32)


def category_texts(index: int, ranks: np.ndarray) -> pl.Series:
    """Hexadecimal names, distinct modulo any power of two above the largest rank."""
    words = (ranks + index * 40_503) * _ODD_MULTIPLIER % _WORD
    distinct = {int(r): f"{int(w):08x}" for r, w in zip(ranks, words, strict=True)}
    distinct[-1] = None
    return pl.Series([distinct[rank] for rank in ranks.tolist()], dtype=pl.String)


def _count_texts(field: CountField, ranks: np.ndarray) -> pl.Series:
    counts = _count_values(field, ranks).tolist()
    texts = [None if r < 0 else str(c) for r, c in zip(ranks, counts, strict=True)]
    return pl.Series(texts, dtype=pl.String)
