"""What a trained model is worth: accuracy, zero blocks, size, and its TFLite twin."""

import gzip
from typing import NamedTuple

import numpy as np
import tf_keras as keras

from tf_seqattn.digits.data import Digits
from tf_seqattn.experiments.markdown_table import markdown_table
from tf_seqattn.inference import litert
from tf_seqattn.kernels.blocks import BlockGrid, block_norms


class Row(NamedTuple):
    """One line of the table.

    Attributes:
      name: which model.
      accuracy: test accuracy of the Keras model.
      litert_accuracy: test accuracy of the TFLite file.
      largest_difference: of the logits, Keras against LiteRT, over the test images.
      zero_blocks: share of blocks that are zero in the kernels that have such.
      zero_weights: share of zeros among all weights of the model.
      file_bytes: size of the TFLite file.
      gzip_bytes: size of that file when compressed, as for a download.
    """

    name: str
    accuracy: float
    litert_accuracy: float
    largest_difference: float
    zero_blocks: float
    zero_weights: float
    file_bytes: int
    gzip_bytes: int


def block_masks(
    model: keras.Model, block_size: tuple[int, int]
) -> dict[str, np.ndarray]:
    """Finds the blocks that are kept in the kernels that have zero blocks.

    Args:
      model: a stripped or a dense model.
      block_size: (rows, columns) of a block.

    Returns:
      For the name of each such layer, a bool array of the shape of its grid of blocks.
    """
    masks = {}
    for layer in model.layers:
        kernel = getattr(layer, "kernel", None)
        if kernel is not None:
            grid = BlockGrid(tuple(kernel.shape), block_size)
            mask = block_norms(kernel, grid).numpy() > 0
            if not mask.all():
                masks[layer.name] = mask
    return masks


def evaluate(
    name: str,
    model: keras.Model,
    file: bytes,
    digits: Digits,
    block_size: tuple[int, int],
) -> Row:
    """Measures a model and the TFLite file made of it on the test images."""
    keras_logits = model.predict(digits.test_images, verbose=0)
    (litert_logits,) = litert.run(file, [digits.test_images])
    masks = [np.ravel(mask) for mask in block_masks(model, block_size).values()]
    weights = np.concatenate([np.ravel(weight) for weight in model.get_weights()])
    return Row(
        name=name,
        accuracy=_accuracy(keras_logits, digits.test_labels),
        litert_accuracy=_accuracy(litert_logits, digits.test_labels),
        largest_difference=float(np.abs(keras_logits - litert_logits).max()),
        zero_blocks=1.0 - float(np.concatenate(masks).mean()) if masks else 0.0,
        zero_weights=float((weights == 0).mean()),
        file_bytes=len(file),
        gzip_bytes=len(gzip.compress(file)),
    )


def _accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    return float((logits.argmax(axis=1) == labels).mean())


def table(rows: list[Row]) -> str:
    """Lays out rows as a Markdown table."""
    titles = ["model", "accuracy", "LiteRT accuracy", "largest difference"]
    titles += ["zero blocks", "zero weights", "file", "file, gzip"]
    cells = [
        [
            row.name,
            f"{row.accuracy:.2%}",
            f"{row.litert_accuracy:.2%}",
            f"{row.largest_difference:.1e}",
            f"{row.zero_blocks:.1%}",
            f"{row.zero_weights:.1%}",
            f"{row.file_bytes / 1000:.0f} kB",
            f"{row.gzip_bytes / 1000:.0f} kB",
        ]
        for row in rows
    ]
    return markdown_table(titles, cells)
