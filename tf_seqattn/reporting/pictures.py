"""Pictures of a report, as PNG inside HTML."""

import base64
import io
from typing import Any

import numpy as np

from tf_seqattn.kernels.blocks import BlockGrid, block_norms
from tf_seqattn.reporting.kernel_blocks import KernelFacts

_DROPPED, _KEPT = "#eef0f3", "#1f6fb2"


def _figure(width: float, height: float) -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def embedded(figure: Any) -> str:
    """Returns a matplotlib figure as the source of an `<img>`."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=110)
    return embedded_png(content.getvalue())


def embedded_png(content: bytes) -> str:
    """Returns the bytes of a PNG as the source of an `<img>`."""
    return "data:image/png;base64," + base64.b64encode(content).decode()


def embedded_pixels(pixels: np.ndarray) -> str:
    """Returns an array of pixels as the source of a picture.

    Args:
      pixels: float `(height, width, 1 or 3)` from 0 to 1.
    """
    from matplotlib.image import imsave

    content = io.BytesIO()
    whole = np.round(255 * pixels).astype(np.uint8)
    imsave(content, np.broadcast_to(whole, (*whole.shape[:2], 3)), format="png")
    return embedded_png(content.getvalue())


def kernel_picture(facts: KernelFacts) -> str:
    """Draws the norms of the kept blocks of a kernel, and how many a column keeps.

    While attention is trained, it also draws the histogram of kept and dropped blocks.
    """
    from matplotlib.colors import LinearSegmentedColormap

    rows, columns = facts.matrix.shape
    grid = BlockGrid((rows, columns), facts.block_size or (rows, columns))
    support, norms = facts.support, block_norms(facts.matrix, grid).numpy()
    panels = 3 if facts.attention is not None else 2
    figure = _figure(4.4 * panels, 3.6)
    axes = figure.subplots(1, panels, width_ratios=[1.4, *[1.0] * (panels - 1)])
    shades = LinearSegmentedColormap.from_list("blocks", ["#9ec9ea", "#08306b"])
    axes[0].set_facecolor(_DROPPED)
    picture = axes[0].imshow(
        np.ma.masked_where(~support, norms),
        cmap=shades,
        aspect="auto",
        interpolation="nearest",
    )
    figure.colorbar(picture, ax=axes[0], label="norm of the block")
    axes[0].set(
        xlabel="block of outputs",
        ylabel="block of inputs",
        title=f"{support.sum()} of {support.size} blocks kept",
    )
    counts = support.sum(axis=0)
    axes[1].hist(counts, bins=np.arange(counts.max() + 2) - 0.5, color=_KEPT)
    axes[1].set(
        xlabel="blocks kept in a column of blocks", ylabel="columns", title="Balance"
    )
    if facts.attention is not None:
        parts = [facts.attention[support], facts.attention[~support]]
        axes[2].hist(
            parts,
            bins=30,
            stacked=True,
            color=[_KEPT, "#b8bec7"],
            label=["kept", "dropped"],
        )
        axes[2].set(xlabel="attention (mean 1)", ylabel="blocks", title="Attention")
        axes[2].legend(frameon=False)
    for each in axes[1:]:
        each.spines[["top", "right"]].set_visible(False)
    return embedded(figure)
