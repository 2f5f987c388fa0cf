"""What a report tells of corrupted images: which samples flip, and how features change.

The last features have an angle to their true class, a length and a margin
(arXiv 2206.07918). The page shows them for every network, corruption and strength.
"""

import json
import pathlib
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from tf_seqattn.keras_api import (
    Layer,
    Model,
    classes,
    flat,
    graph_calls,
    graph_ends,
    keras_of,
    stored,
)
from tf_seqattn.reporting import page, pictures
from tf_seqattn.sparsity.pruning_warning import PruningWarning
from tf_seqattn.sparsity.stripping import strip_pruning
from tf_seqattn.sparsity.wrapper import pruned_layers
from tf_seqattn.study.corruptions import CORRUPTIONS, STRENGTHS, corrupt
from tf_seqattn.study.last_features import geometry

# Of a thumbnail, in pixels.
_SIDE = 32
_FOLDER = pathlib.Path(__file__).parent
_EXPLANATION = (
    "The networks see the same images, clean or corrupted. A sample flips if the two "
    "networks predict different classes. The last features of an image have an angle "
    "to the weights of the true class, a length, and a margin, which is the distance "
    "to the nearest boundary of the true class and negative on its wrong side. Each "
    "mark is a sample; it shows how these change from the first network to the "
    "second. Choose a sample in the list or in a plot, by a click or with the arrow "
    "keys: it is marked everywhere."
)
_CONTROLS = """
<form class="controls">
<label>First network <select id="first"></select></label>
<label>Second network <select id="second"></select></label>
<label>Corruption <select id="corruption"></select></label>
<label>Strength <output id="strength-text" for="strength"></output>
<input type="range" id="strength" min="0" step="1"></label>
<label>Show <select id="shown"><option value="all">all samples</option>
<option value="flips">samples that flip</option></select></label>
<label class="tick"><input type="checkbox" id="clean">
The first network sees clean images</label>
</form>
<p id="robustness-summary" role="status"></p>
<ul id="legend" class="legend"></ul>
<div id="plots" class="plots"></div>
<div class="samples">
<div><h3 id="flips-title">Samples that flip</h3>
<ul id="flips" class="flips" role="listbox" tabindex="0"
aria-labelledby="flips-title"></ul></div>
<div id="sample"></div>
</div>
<noscript><p>The plots need JavaScript. The table above does not.</p></noscript>
"""


def style() -> str:
    """The style of the controls, the plots and the list."""
    return (_FOLDER / "robustness.css").read_text()


def check_images(images: np.ndarray, labels: np.ndarray) -> None:
    """Checks that images can be corrupted and that there is a label for each.

    Args:
      images: float `(n, height, width, 1 or 3)` from 0 to 1.
      labels: int `(n,)`.

    Raises:
      ValueError: if they are anything else.
    """
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or not len(images):
        raise ValueError(
            "`images` must be an array (n, height, width, 1 or 3) with one image or "
            f"more. Received: images of shape {images.shape}"
        )
    low, high = float(images.min()), float(images.max())
    if not (low >= 0 and high <= 1):
        raise ValueError(
            "`images` must be from 0 to 1, for the corruptions are made for that. "
            f"Scale them inside of the model. Received: values from {low} to {high}"
        )
    if labels.shape != (len(images),) or labels.dtype.kind not in "iu":
        raise ValueError(
            "`labels` must be the number of the true class of each image, int "
            f"({len(images)},). Received: {labels.dtype} of shape {labels.shape}"
        )


def _last_call(model: Model, name: str) -> Any:
    """The call of the dense layer that returns the logits."""
    found = None
    if getattr(model, "inputs", None):
        calls = {id(o): call for call in graph_calls(model) for o in call.outputs}
        outputs = flat(graph_ends(model)[1])
        found = calls.get(id(outputs[0])) if len(outputs) == 1 else None
        while found and isinstance(found.operation, classes("Activation", "Softmax")):
            found = calls.get(id(found.inputs[0]))
    if (
        found is None
        or not isinstance(found.operation, classes("Dense"))
        or len(found.inputs[0].shape) != 2
    ):
        raise ValueError(
            "The report of robustness reads what the last Dense layer reads: the model "
            "must be Sequential or functional, with a Dense layer, of one vector for "
            "an image, as its last layer but for a Softmax or an Activation. Received: "
            f"{name!r}, {model}"
        )
    return found


def _weights(last: Layer) -> tuple[np.ndarray, np.ndarray]:
    kernel = np.asarray(stored(last.kernel), np.float32)
    if not last.use_bias:
        return kernel, np.zeros(kernel.shape[1], np.float32)
    return kernel, np.asarray(stored(last.bias), np.float32)


def _measure(
    model: Model, name: str, seen: list[np.ndarray], labels: np.ndarray
) -> dict[str, list[list[float]]]:
    """Predictions and geometry of a network, a list for each condition."""
    if pruned_layers(model) and getattr(model, "inputs", None):
        with warnings.catch_warnings():
            # A report may be written while the sparsity still rises.
            warnings.simplefilter("ignore", PruningWarning)
            model = strip_pruning(model)
    call = _last_call(model, name)
    kernel, bias = _weights(call.operation)
    if labels.min() < 0 or labels.max() >= len(bias):
        raise ValueError(
            f"`labels` must be from 0 to {len(bias) - 1}, for {name!r} has {len(bias)} "
            f"classes. Received: labels from {labels.min()} to {labels.max()}"
        )
    features_of = keras_of(model).Model(model.inputs, call.inputs[0])
    every = features_of.predict(np.concatenate(seen), batch_size=256, verbose=0)
    found: dict[str, list[list[float]]] = {}
    for features in np.split(np.asarray(every, np.float32), len(seen)):
        classes_found = (features @ kernel + bias).argmax(axis=1)
        found.setdefault("prediction", []).append(classes_found.tolist())
        measured = geometry(features, kernel, bias, labels)._asdict()
        for measure, values in measured.items():
            # A page of fewer bytes; nobody sees a third digit.
            rounded = np.round(values.astype(float), 2).tolist()
            found.setdefault(measure, []).append(rounded)
    return found


def _thumbnails(images: np.ndarray) -> np.ndarray:
    """Means of squares of pixels, so that no side is longer than `_SIDE`."""
    number, height, width, channels = images.shape
    step = -(-max(height, width) // _SIDE)
    rows, columns = max(1, height // step), max(1, width // step)
    cut = images[:, : rows * step, : columns * step]
    squares = cut.reshape(number, rows, -1, columns, cut.shape[2] // columns, channels)
    return squares.mean(axis=(2, 4))


def _sheet(images: np.ndarray, columns: int) -> str:
    """All images in rows of so many, as the source of an `<image>`."""
    number, height, width, channels = images.shape
    rows = -(-number // columns)
    sheet = np.zeros((rows * columns, height, width, channels), np.float32)
    sheet[:number] = images
    sheet = sheet.reshape(rows, columns, height, width, channels)
    sheet = sheet.transpose(0, 2, 1, 3, 4)
    return pictures.embedded_pixels(
        sheet.reshape(rows * height, columns * width, channels)
    )


def robustness_data(
    networks: Mapping[str, Any], images: np.ndarray, labels: np.ndarray
) -> dict[str, Any]:
    """Measures networks on clean and corrupted images.

    Args:
      networks: built classifiers by their names, Sequential or functional, with a Dense
        layer at their end. What is still being pruned is measured as it would be
        stripped. No network changes.
      images: float `(n, height, width, 1 or 3)` from 0 to 1.
      labels: int `(n,)`, the true classes.

    Returns:
      What the page shows, ready for JSON. `prediction`, `angle` (degrees), `length` and
      `margin` are lists by network, condition and image. Condition 0 is clean, and
      `1 + 5 c + s - 1` is corruption `c` at strength `s`. `sheets` has a picture of all
      images for each condition.

    Raises:
      ValueError: if the images, the labels or a network are not as above.

    Example:

    >>> model = keras.Sequential(
    ...     [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(2)]
    ... )
    >>> images, labels = np.zeros((3, 8, 8, 1)), np.array([0, 1, 0])
    >>> data = robustness_data({"dense": model}, images, labels)
    >>> len(data["angle"][0]), len(data["angle"][0][0])
    (26, 3)
    """
    images, labels = np.asarray(images, np.float32), np.asarray(labels)
    check_images(images, labels)
    seen = [images]
    seen += [corrupt(images, name, s) for name in CORRUPTIONS for s in STRENGTHS]
    columns = int(np.ceil(np.sqrt(len(images))))
    height, width = _thumbnails(images[:1]).shape[1:3]
    measured = [_measure(m, name, seen, labels) for name, m in networks.items()]
    return {
        "networks": list(networks),
        "corruptions": list(CORRUPTIONS),
        "strengths": list(STRENGTHS),
        "labels": labels.tolist(),
        "height": height,
        "width": width,
        "columns": columns,
        "sheets": [_sheet(_thumbnails(each), columns) for each in seen],
        **{key: [found[key] for found in measured] for key in measured[0]},
    }


def _errors(data: dict[str, Any]) -> str:
    """The table of errors, for readers without the plots."""
    labels = np.array(data["labels"])
    rows = []
    for name, predictions in zip(data["networks"], data["prediction"], strict=True):
        errors = 100 * np.mean(np.array(predictions) != labels, axis=1)
        by_corruption = errors[1:].reshape(len(data["corruptions"]), -1).mean(axis=1)
        values = [errors[0], *by_corruption, errors[1:].mean()]
        rows.append([name, *(f"{value:.1f} %" for value in values)])
    titles = ["errors of", "clean", *data["corruptions"], "all corruptions"]
    return page.table(titles, rows)


def robustness_parts(data: dict[str, Any]) -> list[str]:
    """Returns the HTML of the part about robustness.

    Args:
      data: of `robustness_data`.
    """
    # No text may end the element that it stands in.
    text = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    number, strengths = len(data["labels"]), len(data["strengths"])
    return [
        page.heading("Robustness"),
        page.paragraph(_EXPLANATION),
        page.paragraph(
            f"{number} images; the errors of a corruption are a mean over {strengths} "
            "strengths.",
            "pale",
        ),
        _errors(data),
        _CONTROLS,
        f'<script type="application/json" id="robustness-data">{text}</script>',
        f"<script>\n{(_FOLDER / 'robustness.js').read_text()}</script>",
    ]
