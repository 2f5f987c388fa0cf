"""Writes the page about a pruned model."""

import datetime
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from tf_seqattn.files import check_file_path, write_whole
from tf_seqattn.keras_api import check_layer
from tf_seqattn.reporting import page, pictures
from tf_seqattn.reporting.kernel_blocks import KernelFacts, kernels_of
from tf_seqattn.sparsity.layer_summary import summary
from tf_seqattn.sparsity.schedule_plot import schedule_figure
from tf_seqattn.sparsity.schedules import PruningSchedule
from tf_seqattn.sparsity.wrapper import pruned_layers

_EXPLANATION = (
    "Each kernel of this model is read as a matrix, inputs by outputs, and cut into "
    "blocks. Training found out which blocks matter and removed the others as a whole. "
    "A packed or exported model neither stores nor computes removed blocks. In the "
    "pictures a coloured square is a block that is kept, and it is darker if its "
    "weights are larger. Grey blocks were removed. Nothing reads the inputs of a grey "
    "row, and the outputs of a grey column do not depend on the inputs."
)


def _size(num_weights: int) -> str:
    num_bytes = 4 * num_weights
    if num_bytes < 1e6:
        return f"{num_bytes / 1e3:.1f} kB"
    return f"{num_bytes / 1e6:.1f} MB"


def _headline(facts: list[KernelFacts], num_weights: int) -> list[tuple[str, str]]:
    sparse = [kernel for kernel in facts if kernel.zeros > 0]
    removed = sum(int((kernel.matrix == 0).sum()) for kernel in sparse)
    figures = [
        (f"{num_weights - removed:,}", f"weights kept of {num_weights:,}"),
        (_size(num_weights - removed), f"of {_size(num_weights)} as float32"),
        (f"{len(sparse)} of {len(facts)}", "kernels have zeros"),
    ]
    if sparse:
        entries = sum(kernel.matrix.size for kernel in sparse)
        figures.insert(1, (f"{removed / entries:.1%}", "of their entries are zero"))
    return figures


def _table(facts: list[KernelFacts], reasons: dict[str, str]) -> str:
    rows = []
    for kernel in facts:
        blocks = kept = ""
        if kernel.block_size is not None:
            support = kernel.support
            height, width = kernel.block_size
            blocks = f"{support.size} of {height} x {width}"
            kept = str(support.sum())
        rows.append(
            (
                kernel.name,
                " x ".join(map(str, kernel.matrix.shape)),
                blocks,
                kept,
                f"{kernel.zeros:.1%}",
                reasons.get(kernel.name, "") if kernel.zeros == 0 else "",
            )
        )
    titles = ("kernel", "matrix", "blocks", "kept", "zeros", "why it is dense")
    return page.table(titles, rows)


def _training(model: Any) -> list[str]:
    """The progress of the training, if the model is still pruned."""
    wrappers = pruned_layers(model)
    if not wrappers:
        return []
    schedule, step = wrappers[0].pruning_schedule, wrappers[0].steps_begun
    parts = [page.heading("Training")]
    phase = ""
    if isinstance(schedule, PruningSchedule):
        phase = f", in a {schedule.phase(step).name.lower()} phase"
        picture = pictures.embedded(schedule_figure(schedule, step))
        parts.append(page.image(picture, "Share of blocks removed by training step"))
    parts.insert(
        1,
        page.paragraph(
            f"{step:,} training steps have begun{phase}. In dense phases all blocks "
            "are active. In sparsification phases the least important blocks go, a few "
            "at a time. In sparse phases the mask stays."
        ),
    )
    return parts


def _note(title: str, note: str | pathlib.Path) -> list[str]:
    parts = [page.heading(title)]
    if isinstance(note, pathlib.Path):
        parts.append(page.image(pictures.embedded_png(note.read_bytes()), title))
    else:
        parts.append(page.markdown_text(str(note)))
    return parts


def report(
    model: Any,
    path: pathlib.Path | str,
    title: str | None = None,
    notes: Mapping[str, str | pathlib.Path] | None = None,
) -> pathlib.Path:
    """Writes one HTML page about a pruned model. The page needs no other file.

    It says how many weights are left, shows the blocks of every kernel with zeros, and
    says why the other kernels are dense. For a model that is still being pruned, it
    also shows the schedule and the attention. The model does not change.

    Args:
      model: a built model: pruned, stripped, or with zeros made by another tool.
      path: path of the page. An existing file is overwritten.
      title: title of the page; by default the name of the model.
      notes: more sections by their titles. A section is a text in Markdown, or the
        `pathlib.Path` of a PNG picture, which is copied into the page.

    Returns:
      The path.

    Raises:
      ValueError: if `model` is not a model or a layer.
      FileNotFoundError: if the folder of `path`, or a picture, does not exist.
      ImportError: if matplotlib is not installed.

    Example:

    >>> import tempfile
    >>> model = keras.Sequential([keras.layers.Dense(4, input_shape=(4,))])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     report(model, f"{folder}/model.html").name
    'model.html'
    """
    check_layer(model, "model")
    path = check_file_path(path)
    facts = kernels_of(model)
    rows = summary(model, print_fn=lambda line: None)
    reasons = {row["layer"]: row["left_alone"] or "" for row in rows}
    num_weights = int(sum(np.prod(w.shape) for w in model.trainable_weights))
    num_weights -= sum(
        kernel.attention.size for kernel in facts if kernel.attention is not None
    )
    title = title or f"{model.name}, pruned by blocks"
    parts = [
        page.heading(title, 1),
        page.paragraph(f"Written on {datetime.date.today():%d %B %Y}.", "pale"),
        page.figures(_headline(facts, num_weights)),
        page.paragraph(_EXPLANATION),
        page.heading("Kernels"),
        _table(facts, reasons),
        *_training(model),
    ]
    shown = [k for k in facts if k.block_size is not None and k.zeros > 0]
    if shown:
        parts.append(page.heading("Blocks"))
    for kernel in shown:
        description = f"Blocks of {kernel.name}"
        parts.append(page.heading(kernel.name, 3))
        parts.append(page.image(pictures.kernel_picture(kernel), description))
    for name, note in (notes or {}).items():
        parts += _note(name, note)
    write_whole(path, page.page(title, parts))
    return path
