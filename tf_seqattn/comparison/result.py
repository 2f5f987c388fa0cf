"""What a comparison found: points, and which of them no other beats."""

import dataclasses
from collections.abc import Callable, Sequence

from tf_seqattn.comparison.candidates import FAMILIES, Candidate
from tf_seqattn.comparison.files import Latency
from tf_seqattn.experiments.markdown_table import markdown_table


@dataclasses.dataclass(frozen=True)
class Point:
    """One file, measured.

    Attributes:
      family: "dense", or how it was pruned.
      amount: width of a dense network relative to the first, or the share removed.
      precision: of the file.
      quality: what `evaluate` returned for the file, the mean over seeds.
      spread: standard deviation of it over seeds; 0 for one seed.
      latency: microseconds of one call.
      bytes: size of the file.
    """

    family: str
    amount: float
    precision: str
    quality: float
    spread: float
    latency: Latency
    bytes: int

    @property
    def name(self) -> str:
        """Such as "dense, width 0.5, int8"."""
        return f"{Candidate(self.family, self.amount).name}, {self.precision}"


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

    def _equal_in_quality(self, family: str) -> list[Point]:
        (reference, *_) = self.points
        worst = reference.quality + self.allowed * abs(reference.quality)
        return [p for p in self.points if p.family == family and p.quality <= worst]

    def headline(self) -> str:
        """The fastest file of each family that is as good as the first dense one."""
        (reference, *_) = self.points
        parts = []
        for family in FAMILIES:
            equal = self._equal_in_quality(family)
            if equal:
                fastest = min(equal, key=lambda p: p.latency.median)
                faster = reference.latency.median / fastest.latency.median
                smaller = reference.bytes / fastest.bytes
                parts.append(f"{fastest.name}: {faster:.1f}x, {smaller:.1f}x smaller")
            elif any(p.family == family for p in self.points):
                parts.append(f"{family}: none")
        return (
            f"Fastest at the quality of {reference.name} (at most {self.allowed:.1%} "
            f"worse) - {'; '.join(parts)}."
        )

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
