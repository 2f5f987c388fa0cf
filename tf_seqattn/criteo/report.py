"""The table of a run and its notes, as text."""

from typing import NamedTuple

from tf_seqattn.criteo.deploy import Attempt, Latency


class Row(NamedTuple):
    """One line of the table; None where a column does not apply.

    Attributes:
      name: of the model.
      log_loss: on the validation rows, nats.
      auc: area under the ROC curve on the same rows.
      blocks: "kept of all" in the first layer.
      weights: number of weights other than zero in the perceptron.
      file_bytes: size of its TFLite file.
      latencies: of one call, by number of rows in it.
    """

    name: str
    log_loss: float
    auc: float | None = None
    blocks: str | None = None
    weights: int | None = None
    file_bytes: int | None = None
    latencies: dict[int, Latency] | None = None


def _latency(latency: Latency | None) -> str:
    if latency is None:
        return "–"
    return (
        f"{latency.median:.0f} ({latency.lower_quartile:.0f}–"
        f"{latency.upper_quartile:.0f})"
    )


def _or_dash(value, form: str = "") -> str:
    return "–" if value is None else format(value, form)


def table(rows: list[Row]) -> str:
    """Lays out rows as a Markdown table.

    Example:

    >>> print(table([Row("dense", log_loss=0.41, auc=0.84)]).splitlines()[-1])
    | dense | 0.4100 | 0.8400 | – | – | – |
    """
    batches = sorted({b for row in rows for b in row.latencies or {}})
    titles = ["model", "log loss", "AUC", "blocks kept", "weights ≠ 0", "file, kB"]
    titles += [f"µs, {b} {'row' if b == 1 else 'rows'}" for b in batches]
    lines = ["| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]
    for row in rows:
        kilobytes = None if row.file_bytes is None else row.file_bytes / 1000
        cells = [
            row.name,
            f"{row.log_loss:.4f}",
            _or_dash(row.auc, ".4f"),
            _or_dash(row.blocks),
            _or_dash(row.weights, ",d"),
            _or_dash(kilobytes, ",.0f"),
        ]
        cells += [_latency((row.latencies or {}).get(b)) for b in batches]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def attempts_text(name: str, attempts: list[Attempt]) -> str:
    """Says of each TFLite file that was tried whether it agrees with Keras."""
    lines = []
    for attempt in attempts:
        differences = ", ".join(
            f"{kind} {difference:.1e}"
            for kind, difference in attempt.differences.items()
        )
        verdict = "used" if attempt.right else "WRONG, not used"
        lines.append(
            f"- {name}, {attempt.name}, {len(attempt.file) / 1000:,.0f} kB: {verdict}; "
            f"largest difference from Keras: {differences}."
        )
    return "\n".join(lines) + "\n"
