"""Draws the picture at the top of the README.

A teacher's kernel has a known pattern of blocks; a student learns from its outputs
with SequentialAttention++, by the paper's recipe in cycles. The picture shows the
schedule, and the student's support at the end of some phases next to the teacher's.

    python docs/make_overview.py
"""

import pathlib

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import tf_keras as keras
from matplotlib.colors import ListedColormap

import tf_seqattn as sa

GRID, BLOCK, SPARSITY, STEPS = 16, 4, 0.9, 2000
HIT, MISS, MISSED, EMPTY = "#0072B2", "#D55E00", "#E69F00", "#F2F2F2"


def teacher_pattern(rng) -> np.ndarray:
    """Blocks of the teacher: 0/1 array (GRID, GRID) of density 1 - SPARSITY."""
    kept = round((1 - SPARSITY) * GRID * GRID)
    pattern = np.zeros(GRID * GRID)
    pattern[rng.permutation(GRID * GRID)[:kept]] = 1
    return pattern.reshape(GRID, GRID)


class MaskHistory(keras.callbacks.Callback):
    """Keeps the mask of the first pruned layer after each of the given steps."""

    def __init__(self, steps):
        super().__init__()
        self.masks = dict.fromkeys(steps)

    def on_train_batch_end(self, batch, logs=None):
        layer = sa.pruned_layers(self.model)[0]
        if layer.steps_begun in self.masks:
            self.masks[layer.steps_begun] = layer.masks[0].numpy()


def train(pattern, rng, schedule, steps) -> dict:
    """Trains the student; returns its mask after each of `steps`."""
    width = GRID * BLOCK
    kernel = rng.normal(size=(width, width)) * np.kron(pattern, np.ones((BLOCK, BLOCK)))
    mixing = rng.normal(size=(width, width)) / width**0.5
    x = (rng.normal(size=(65536, width)) @ (np.eye(width) + 4 * mixing)).astype("f")
    y = x @ kernel + 200 * rng.normal(size=(len(x), width))
    model = keras.Sequential([keras.layers.Dense(width, input_shape=(width,))])
    pruned = sa.prune(model, schedule, block_size=(BLOCK, BLOCK))
    pruned.compile(keras.optimizers.Adam(3e-3), "mse")
    history = MaskHistory(steps)
    epochs = -(-STEPS * 128 // len(x))
    pruned.fit(
        x, y, batch_size=128, epochs=epochs, verbose=0,
        callbacks=[sa.UpdatePruningStep(), history],
    )  # fmt: skip
    return history.masks


def draw(schedule, pattern, masks, path):
    """Draws the schedule above the masks and saves the picture."""
    figure, axes = plt.subplot_mosaic(
        [["schedule"] * (len(masks) + 1), [*map(str, masks), "teacher"]],
        figsize=(10, 5.2),
        height_ratios=[1, 1],
        layout="constrained",
    )
    top = schedule.plot(axes["schedule"], steps=STEPS)
    top.set_title("SequentialAttention++: share of blocks removed over one training")
    colours = ListedColormap([EMPTY, MISSED, MISS, HIT])
    for step, mask in [*masks.items(), ("teacher", pattern)]:
        panel = axes[str(step)]
        panel.imshow(2 * mask + pattern, cmap=colours, vmin=0, vmax=3)
        panel.set(xticks=[], yticks=[])
        if step == "teacher":
            panel.set_title("what the data\nwas made with", fontsize=10)
            continue
        right = int((mask * pattern).sum())
        panel.set_title(
            f"step {step}\n{right} of {int(pattern.sum())} right blocks, "
            f"{int(mask.sum())} kept",
            fontsize=10,
        )
        top.axvline(step, color="black", linewidth=0.8, linestyle=":")
    figure.text(
        0.5,
        -0.03,
        "blue: kept, and in the data   red: kept, not in the data   "
        "orange: in the data, removed",
        ha="center",
        fontsize=10,
    )
    figure.savefig(path, dpi=110, bbox_inches="tight")


def main():
    """Trains and draws."""
    rng = np.random.default_rng(3)
    keras.utils.set_random_seed(3)
    schedule = sa.SequentialAttentionSchedule.imagenet(SPARSITY, end_step=STEPS)
    sparse_ends = [
        int(segment.end) - 1
        for segment in schedule.segments
        if segment.phase == sa.Phase.SPARSE and segment.end < STEPS
    ]
    steps = [sparse_ends[0], sparse_ends[len(sparse_ends) // 2], STEPS]
    pattern = teacher_pattern(rng)
    masks = train(pattern, rng, schedule, steps)
    path = pathlib.Path(__file__).parent / "images" / "overview.png"
    draw(schedule, pattern, masks, path)


if __name__ == "__main__":
    main()
