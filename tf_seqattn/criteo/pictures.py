"""Pictures of a run: training curves, the schedule, and the blocks that are kept."""

import itertools
import pathlib

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

import tf_seqattn as sa
from tf_seqattn.comparison.picture import COLOURS
from tf_seqattn.criteo.models.experiment import fields_of_block_rows
from tf_seqattn.sparsity.schedule_plot import plot_schedule, shade_phases

_INFORMATIVE = "#0072B2"
_BLOCKS = LinearSegmentedColormap.from_list("blocks", ["#FBE3D0", "#D55E00", "#5A1F00"])
_DPI = 150


def _tidy(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)


def save_curves(
    curves: dict[str, dict],
    schedule: sa.PruningSchedule,
    path: pathlib.Path,
    bayes_log_loss: float | None = None,
) -> None:
    """Draws validation loss against step, the phases of the pruned run shaded.

    Args:
      curves: `steps` and `losses` of each network, by its name.
      schedule: of the pruned run.
      path: the PNG file to write.
      bayes_log_loss: the best possible loss in nats, where it is known.
    """
    figure = Figure(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    steps = max(curve["steps"][-1] for curve in curves.values())
    handles = shade_phases(axes, schedule, steps)
    lines = [
        axes.plot(
            curve["steps"], curve["losses"], color=colour, linewidth=1.6, label=name
        )[0]
        for colour, (name, curve) in zip(itertools.cycle(COLOURS), curves.items())
    ]
    if bayes_log_loss is not None:
        lines.append(
            axes.axhline(
                bayes_log_loss,
                color="grey",
                linestyle="--",
                label="best possible",
            )
        )
    losses = np.concatenate([curve["losses"] for curve in curves.values()])
    lowest = (
        losses.min() if bayes_log_loss is None else min(losses.min(), bayes_log_loss)
    )
    # The first points are far above the rest and would flatten it.
    highest = np.percentile(losses, 98)
    margin = 0.06 * (highest - lowest) + 1e-3
    axes.set(
        xlabel="training step",
        ylabel="validation log loss (nats)",
        xlim=(0, steps),
        ylim=(lowest - margin, highest + margin),
    )
    axes.set_title("Validation loss while training", loc="left", fontweight="bold")
    _tidy(axes)
    figure.legend(
        handles=[*lines, *handles], loc="outside lower center", ncols=2, frameon=False
    )
    figure.savefig(path, dpi=_DPI)


def save_schedule(schedule: sa.PruningSchedule, steps: int, path: pathlib.Path) -> None:
    """Draws the share of blocks removed against the step (the paper's figure 2).

    Args:
      schedule: of the pruned run.
      steps: last step to draw.
      path: the PNG file to write.
    """
    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = plot_schedule(schedule, figure.subplots(), steps)
    axes.set_title("")
    axes.set_title(
        "When blocks are removed: the schedule of SequentialAttention++",
        loc="left",
        fontweight="bold",
    )
    figure.savefig(path, dpi=_DPI)


def save_mask(
    mask: np.ndarray,
    norms: np.ndarray,
    block_size: int,
    path: pathlib.Path,
    informative: list[str] | None = None,
) -> None:
    """Draws the blocks of the first layer; rows are labelled by the fields they read.

    Args:
      mask: bool `(block rows, block columns)`: blocks kept.
      norms: float, same shape: the Frobenius norm of each block.
      block_size: inputs of a block.
      path: the PNG file to write.
      informative: names of the fields that carry signal, where they are known.
    """
    rows, columns = mask.shape
    labels = fields_of_block_rows(rows, block_size)
    figure = Figure(figsize=(8.5, max(4.0, 2.6 + 0.24 * rows)), layout="constrained")
    axes = figure.subplots()
    shown = np.ma.masked_where(~mask, norms)
    image = axes.imshow(shown, cmap=_BLOCKS, vmin=0, aspect="auto")
    axes.set_xticks(np.arange(-0.5, columns), minor=True)
    axes.set_yticks(np.arange(-0.5, rows), minor=True)
    axes.grid(which="minor", color="#DDDDDD", linewidth=0.5)
    axes.tick_params(which="both", length=0)
    known = set(informative or ())
    ticks = [_row_label(fields, known) for fields in labels]
    axes.set_yticks(range(rows), ticks, fontsize=9)
    for label, fields in zip(axes.get_yticklabels(), labels, strict=True):
        if known & set(fields):
            label.set(color=_INFORMATIVE, fontweight="bold")
    axes.set_xticks(range(columns), range(1, columns + 1), fontsize=9)
    axes.set_xlabel(f"outputs of the layer, in blocks of {block_size}")
    axes.set_ylabel("fields read by the row of blocks")
    axes.set_title(
        f"Blocks kept in the first layer: {int(mask.sum())} of {mask.size}",
        loc="left",
        fontweight="bold",
    )
    for spine in axes.spines.values():
        spine.set_visible(False)
    figure.colorbar(
        image, ax=axes, label="Frobenius norm of the block", pad=0.02, shrink=0.7
    )
    if informative:
        handles = [
            Patch(color=_INFORMATIVE, label="reads a field that carries signal (★)"),
            Patch(facecolor="white", edgecolor="#DDDDDD", label="block removed"),
        ]
        figure.legend(
            handles=handles, loc="outside lower center", ncols=2, frameon=False
        )
    figure.savefig(path, dpi=_DPI)


def _row_label(fields: list[str], informative: set[str]) -> str:
    """The names of the fields, or the first and the last where they are many."""
    names = [f"{name}★" if name in informative else name for name in fields]
    return "  ".join(names) if len(names) <= 4 else f"{names[0]} … {names[-1]}"
