"""The table of a run and its notes, as text."""

from typing import NamedTuple

from tf_seqattn import Frontier, TFLiteReport
from tf_seqattn.criteo.models.deploy import Latency
from tf_seqattn.experiments.markdown_table import markdown_table


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


def _latency(latency: Latency | None) -> str | None:
    if latency is None:
        return None
    return (
        f"{latency.median:.0f} ({latency.lower_quartile:.0f}–"
        f"{latency.upper_quartile:.0f})"
    )


def _formatted(value: float | None, form: str) -> str | None:
    return None if value is None else format(value, form)


def table(rows: list[Row]) -> str:
    """Lays out rows as a Markdown table.

    Example:

    >>> print(table([Row("dense", log_loss=0.41, auc=0.84)]).splitlines()[-1])
    | dense | 0.4100 | 0.8400 | – | – | – |
    """
    batches = sorted({b for row in rows for b in row.latencies or {}})
    titles = ["model", "log loss", "AUC", "blocks kept", "weights ≠ 0", "file, kB"]
    titles += [f"µs, {b} {'row' if b == 1 else 'rows'}" for b in batches]
    lines = []
    for row in rows:
        kilobytes = None if row.file_bytes is None else row.file_bytes / 1000
        cells = [
            row.name,
            f"{row.log_loss:.4f}",
            _formatted(row.auc, ".4f"),
            row.blocks,
            _formatted(row.weights, ",d"),
            _formatted(kilobytes, ",.0f"),
        ]
        cells += [_latency((row.latencies or {}).get(b)) for b in batches]
        lines.append(cells)
    return markdown_table(titles, lines)


def frontier_text(found: Frontier, steps: int) -> str:
    """What the frontier shows, as Markdown.

    Args:
      found: whole click models, timed on calls of 64 rows.
      steps: training steps of each.
    """
    return (
        f"{found.headline()}\n\nWhole models with their tables, every hidden layer "
        f"pruned, {steps:,} steps each, one seed, calls of 64 rows on one thread "
        f"(`frontier/frontier.png` draws them):\n\n{found.table()}\n"
        "The models below are trained for all steps, with only the first layer pruned."
    )


def exported_text(name: str, layout: str, exported: TFLiteReport) -> str:
    """Says how a file was stored, and how far it is from Keras, as a list item."""
    differences = ", ".join(f"{k} {d:.1e}" for k, d in exported.differences.items())
    packed = [plan.name for plan in exported.plans if plan.layout == "packed"]
    kernels = f" ({', '.join(packed)})" if packed else ""
    return (
        f"- {name}, {layout}{kernels}, {exported.num_bytes / 1000:,.0f} kB; largest "
        f"difference from Keras: {differences}.\n"
    )
