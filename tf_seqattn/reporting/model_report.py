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
from tf_seqattn.sparsity.phases import PruningSchedule
from tf_seqattn.sparsity.schedule_plot import schedule_figure
from tf_seqattn.sparsity.wrapper import pruned_layers

_EXPLANATION = (
    "Each kernel of this model is read as a matrix, inputs by outputs, and cut into "
    "blocks. Training found out which blocks matter and removed the others as a whole. "
    "A packed or exported model neither stores nor computes removed blocks. In the "
    "pictures a coloured square is a block that is kept, and it is darker if its "
    "weights are larger. Grey blocks were removed. Nothing reads the inputs of a grey "
    "row, and the outputs of a grey column do not depend on the inputs."
)
# The name of the model among those that it is compared with.
_THIS = "this model"


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


def _robustness(
    model: Any,
    others: Mapping[str, Any] | None,
    images: np.ndarray | None,
    labels: np.ndarray | None,
) -> tuple[list[str], str]:
    """The part about robustness and its style; nothing without images."""
    if (images is None) != (labels is None) or (others and images is None):
        raise ValueError(
            "`images` and `labels` go together, and `others` needs both of them. "
            f"Received: images {'not ' * (images is None)}given, labels "
            f"{'not ' * (labels is None)}given, others={list(others or ())}"
        )
    if images is None or labels is None:
        return [], ""
    if _THIS in (others or {}):
        raise ValueError(
            f"A network of `others` must have another name than {_THIS!r}, which "
            f"`model` has on the page. Received: others={list(others or ())}"
        )
    # It needs SciPy, and the rest of the page does not.
    from tf_seqattn.reporting import robustness

    data = robustness.robustness_data({**(others or {}), _THIS: model}, images, labels)
    return robustness.robustness_parts(data), robustness.style()


def report(
    model: Any,
    path: pathlib.Path | str,
    title: str | None = None,
    notes: Mapping[str, str | pathlib.Path] | None = None,
    others: Mapping[str, Any] | None = None,
    images: np.ndarray | None = None,
    labels: np.ndarray | None = None,
) -> pathlib.Path:
    """Writes one HTML page about a pruned model. The page needs no other file.

    It says how many weights are left, shows the blocks of every kernel with zeros, and
    says why the other kernels are dense. For a model that is still being pruned, it
    also shows the schedule and the attention. The model does not change.

    With `images`, the page has a part to explore as well: which samples other networks
    and this one classify differently, clean and under five corruptions, and how angle,
    length and margin of the last features change (arXiv 2206.07918). The page grows by
    26 thumbnails of each image, and by about half a kilobyte for each image and
    network.

    Args:
      model: a built model: pruned, stripped, or with zeros made by another tool.
      path: path of the page. An existing file is overwritten.
      title: title of the page; by default the name of the model.
      notes: more sections by their titles. A section is a text in Markdown, or the
        `pathlib.Path` of a PNG picture, which is copied into the page.
      others: built classifiers by their names, to compare with, such as the dense one.
        Like the model, they are Sequential or functional with a Dense layer at their
        end.
      images: float `(n, height, width, 1 or 3)` from 0 to 1, held out; a few hundred.
      labels: int `(n,)`, their true classes.

    Returns:
      The path.

    Raises:
      ValueError: if `model` is not a model or a layer, or if networks, images and
        labels do not go together.
      FileNotFoundError: if the folder of `path`, or a picture, does not exist.
      ImportError: if matplotlib, or SciPy for `images`, is not installed.

    Example:

    >>> import tempfile
    >>> model = keras.Sequential([keras.layers.Dense(4, input_shape=(4,))])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     report(model, f"{folder}/model.html").name
    'model.html'
    """
    check_layer(model, "model")
    path = check_file_path(path)
    explored, style = _robustness(model, others, images, labels)
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
    write_whole(path, page.page(title, parts + explored, style))
    return path
