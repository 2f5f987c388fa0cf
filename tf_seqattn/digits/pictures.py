"""Pictures of a run: the blocks that are kept, and the curves of training."""

import pathlib

import numpy as np
from matplotlib.figure import Figure

from tf_seqattn.digits.training import Trained


def save_masks(masks: dict[str, np.ndarray], path: pathlib.Path) -> None:
    """Draws each mask as a grid of blocks: dark is kept, light is pruned.

    Args:
      masks: bool arrays by the name of their layer; at least one.
      path: the PNG file to write.
    """
    figure = Figure(figsize=(2 + 2 * len(masks), 6), layout="constrained")
    axes = figure.subplots(1, len(masks), squeeze=False)[0]
    for panel, (name, mask) in zip(axes, masks.items(), strict=True):
        panel.imshow(mask, cmap="Greys", vmin=0, vmax=1, aspect="auto")
        panel.set_title(f"{name}: {mask.mean():.0%} kept")
        panel.set_xlabel("output block")
        panel.set_ylabel("input block")
    figure.savefig(path)


def save_curves(runs: dict[str, Trained], path: pathlib.Path) -> None:
    """Draws test accuracy, and the share of masked blocks, over the epochs.

    Args:
      runs: what training returned, by the name to show.
      path: the PNG file to write.
    """
    figure = Figure(figsize=(8, 6), layout="constrained")
    accuracy_panel, sparsity_panel = figure.subplots(2, 1, sharex=True)
    for name, trained in runs.items():
        epochs = np.arange(1, len(trained.accuracy) + 1)
        accuracy_panel.plot(epochs, trained.accuracy, label=name)
        sparsity_panel.plot(epochs, trained.sparsity, label=name)
    accuracy_panel.set_ylabel("test accuracy")
    accuracy_panel.legend()
    sparsity_panel.set_ylabel("masked blocks")
    sparsity_panel.set_xlabel("epoch")
    figure.savefig(path)
