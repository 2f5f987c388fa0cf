"""What a demonstration found, as Markdown."""

import numpy as np

from tf_seqattn.criteo.log.in_memory import Clicks
from tf_seqattn.criteo.log.synthetic import ClickSource, binary_log_loss
from tf_seqattn.criteo.models.experiment import Training


def bounds(
    validation_rows: Clicks, source: ClickSource | None, first_row: int
) -> dict[str, float]:
    """Log losses that need no training, in nats, by name.

    Args:
      validation_rows: the rows they are taken on.
      source: where synthetic rows come from.
      first_row: number of the first validation row in `source`.
    """
    labels = validation_rows.labels
    rate = np.full(len(labels), labels.mean())
    found = {"always the click rate": binary_log_loss(labels, rate)}
    if source is not None:
        truth = source.rows(first_row, first_row + len(labels))
        loss = binary_log_loss(truth.labels, truth.probabilities)
        found["best possible, the truth itself"] = loss
    return found


def fields_text(kept: list[str], informative: list[str] | None) -> str:
    """Which fields are still read, as a sentence.

    Args:
      kept: names of the fields that the model without fields reads.
      informative: names of the fields that carry signal, where they are known.

    Example:

    >>> fields_text(["I1", "C2"], ["I1", "C1"])
    'The model without fields reads 2 of them, I1 and C2: 1 of the 2 that carry signal.'
    """
    names = f"{', '.join(kept[:-1])} and {kept[-1]}" if kept[1:] else kept[0]
    text = f"The model without fields reads {len(kept)} of them, {names}"
    if informative is None:
        return f"{text}."
    found = len(set(kept) & set(informative))
    return f"{text}: {found} of the {len(informative)} that carry signal."


def blocks_text(facts: dict) -> str:
    """What the blocks of the first layer read, as a sentence.

    Args:
      facts: of `experiment.what_is_kept`.
    """
    text = f"Of {facts['blocks']} blocks of the first layer {facts['blocks_kept']} stay"
    if "informative_share_of_kept" not in facts:
        return f"{text}."
    return (
        f"{text}; {facts['informative_share_of_kept']:.0%} of these read a field that "
        f"carries signal, against {facts['informative_share_of_all']:.0%} of all."
    )


def notes(
    command: str,
    training: Training,
    num_training_rows: int,
    num_validation_rows: int,
    limits: dict[str, float],
    sentences: list[str],
) -> str:
    """What to know in order to read the table, as Markdown."""
    losses = "; ".join(f"{name} {loss:.4f}" for name, loss in limits.items())
    return (
        f"Made by `{command}`. Quality is the log loss in nats of the TFLite file "
        f"itself, smaller is better ({losses}). {num_training_rows:,} rows to train "
        f"on, {num_validation_rows:,} later ones to validate on; {training.steps:,} "
        f"steps of {training.batch_size:,} rows for each network, one seed. Times are "
        "microseconds of one call of 64 rows on one thread, tables included: the "
        "median, with the quartiles in brackets.\n\n"
        "What pruning gains depends on the data. Harder rows, more algorithms and "
        "several seeds: `benchmarks/results/criteo_grid_hard.md`.\n\n"
        f"{' '.join(sentences)}\n"
    )
