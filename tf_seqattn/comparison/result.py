"""What a comparison found: points, and which of them no other beats."""

import dataclasses
from collections.abc import Callable, Sequence

from tf_seqattn.comparison.candidates import Candidate
from tf_seqattn.comparison.files import Latency
from tf_seqattn.experiments.markdown_table import markdown_table


@dataclasses.dataclass(frozen=True)
class Point:
    """One file, measured.

    Attributes:
      family: "dense", how it was pruned, or the name of a recipe.
      amount: width of a dense network relative to the first, or the share removed;
        None for a recipe.
      precision: of the file.
      quality: what `evaluate` returned for the file, the mean over seeds.
      spread: standard deviation of it over seeds; 0 for one seed.
      latency: microseconds of one call.
      bytes: size of the file.
    """

    family: str
    amount: float | None
    precision: str
    quality: float
    spread: float
    latency: Latency
    bytes: int

    @property
    def name(self) -> str:
        """Such as "dense, width 0.5, int8"."""
        return f"{Candidate(self.family, self.amount).name}, {self.precision}"


# What the families of sequential attention have in their names.
OURS = "SequentialAttention++"
# Latencies whose ratio is below this are told as equal.
_ALIKE = 1.1
# What a point costs, such as its latency.
Cost = Callable[[Point], float]


def beaten(point: Point, points: Sequence[Point], cost: Cost) -> bool:
    """Whether another point is at least as good and as cheap, and better in one."""
    return any(
        (cost(other), other.quality) != (cost(point), point.quality)
        and cost(other) <= cost(point)
        and other.quality <= point.quality
        for other in points
    )


def _gain(point: Point, other: Point) -> str:
    """Such as "2.1 times faster and 3.0 times smaller"."""
    faster = other.latency.median / point.latency.median
    smaller = other.bytes / point.bytes
    size = f"{smaller:.1f} times smaller"
    if smaller < 1:
        size = f"{1 / smaller:.1f} times larger"
    return f"{faster:.1f} times faster and {size}"


def families_of(points: Sequence[Point]) -> list[str]:
    """The kinds of networks that were measured, in the order of the points."""
    return list(dict.fromkeys(point.family for point in points))


@dataclasses.dataclass(frozen=True)
class Frontier:
    """What was measured.

    Attributes:
      points: one for each file.
      left_out: why a candidate has none, by its name.
      allowed: how much worse than the first dense file a quality may be and still
        count as equal, relative.
    """

    points: list[Point]
    left_out: dict[str, str]
    allowed: float

    @property
    def families(self) -> list[str]:
        """The kinds of networks that were measured."""
        return families_of(self.points)

    def fastest(self, families: Sequence[str]) -> Point | None:
        """The fastest file of some families that is as good as the first dense one.

        Args:
          families: some of `families`.

        Returns:
          A point, or None where no file is as good.
        """
        (reference, *_) = self.points
        worst = reference.quality + self.allowed * abs(reference.quality)
        equal = [p for p in self.points if p.family in families and p.quality <= worst]
        return min(equal, key=lambda p: p.latency.median, default=None)

    def headline(self) -> str:
        """What sequential attention gains at equal quality over the best alternative.

        It compares the fastest files that are as good as the first dense one.
        """
        own = [family for family in self.families if OURS in family]
        ours = self.fastest(own)
        other = self.fastest([f for f in self.families if f not in own])
        # The first dense network is always as good as itself.
        assert other is not None
        if not own:
            return f"The fastest at equal quality is {other.name}."
        if ours is None:
            return (
                f"No network of {OURS} is as good as the dense one at these "
                f"sparsities. The fastest at equal quality is {other.name}."
            )
        ratio = other.latency.median / ours.latency.median
        if 1 / _ALIKE < ratio < _ALIKE:
            return (
                f"At equal quality, {ours.name} is as fast as the best alternative, "
                f"{other.name}: {ours.latency.median:.0f} and "
                f"{other.latency.median:.0f} us."
            )
        if ratio > 1:
            return (
                f"At equal quality, {ours.name} is {_gain(ours, other)} than the best "
                f"alternative, {other.name}."
            )
        return (
            f"At equal quality, {other.name} is {_gain(other, ours)} than the best of "
            f"ours, {ours.name}."
        )

    def by_family(self) -> str:
        """The fastest file of each family at equal quality, as a Markdown list."""
        (reference, *_) = self.points
        lines = []
        for family in self.families:
            point = self.fastest([family])
            gain = f"{point.name}: {_gain(point, reference)}" if point else None
            lines.append(f"- {gain or f'{family}: none'}")
        return (
            f"Fastest at the quality of {reference.name} (at most {self.allowed:.1%} "
            "worse), beside that network:\n\n" + "\n".join(lines) + "\n"
        )

    def text(self) -> str:
        """The first line, the fastest files and the table, as Markdown."""
        left_out = "".join(f"\nLeft out: {n}: {w}\n" for n, w in self.left_out.items())
        return f"{self.headline()}\n\n{self.by_family()}\n{self.table()}{left_out}"

    def table(self) -> str:
        """All points as a Markdown table, the fastest first."""
        titles = ["network", "quality", "us a call", "kB", "no other is better"]
        rows = []
        for point in sorted(self.points, key=lambda p: p.latency.median):
            median, low, high = point.latency
            scales = {
                "latency": lambda p: p.latency.median,
                "bytes": lambda p: p.bytes,
            }
            best = [n for n, cost in scales.items() if not self._beaten(point, cost)]
            spread = f" ± {point.spread:.4f}" if point.spread else ""
            rows.append(
                [
                    point.name,
                    f"{point.quality:.4f}{spread}",
                    f"{median:.0f} ({low:.0f}-{high:.0f})",
                    f"{point.bytes / 1000:,.0f}",
                    " and ".join(best) or None,
                ]
            )
        return markdown_table(titles, rows)

    def _beaten(self, point: Point, cost: Cost) -> bool:
        return beaten(point, self.points, cost)
