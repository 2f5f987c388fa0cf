"""Starts a click model from one that was trained on earlier rows.

The tables of the earlier model may have other rows: a value that both vocabularies know
keeps its vector, a new one begins with the vector that rare values share, and one that
is no longer frequent is gone.
"""

import dataclasses
import json
import pathlib
import tempfile
from typing import NamedTuple

import numpy as np
import tensorflow as tf
import tf_keras as keras

import tf_seqattn as sa
from tf_seqattn.criteo.log.encoding import Encoding
from tf_seqattn.criteo.log.manifest import VOCABULARY_FILE, Manifest
from tf_seqattn.criteo.log.paths import Path, RemotePath
from tf_seqattn.criteo.log.vocabulary import EMPTY, RARE, Vocabulary
from tf_seqattn.criteo.models.click_model import FIRST_HIDDEN
from tf_seqattn.files import write_json
from tf_seqattn.kernels import blocks

MODEL_FILE, _ENCODING_FILE = "model.keras", "encoding.json"


class Earlier(NamedTuple):
    """A trained model and how its rows were encoded.

    Attributes:
      network: without pruning.
      encoding: of the rows that it was trained on.
      vocabulary: of these rows, or None where the encoding has none.
    """

    network: keras.Model
    encoding: Encoding
    vocabulary: Vocabulary | None


def save_encoding(folder: pathlib.Path, manifest: Manifest) -> None:
    """Writes beside a trained model how its rows were encoded.

    Args:
      folder: of the model.
      manifest: of the rows.
    """
    write_json(folder / _ENCODING_FILE, manifest.encoding.to_json())
    if manifest.vocabulary is not None:
        source = manifest.folder / VOCABULARY_FILE
        tf.io.gfile.copy(str(source), str(folder / VOCABULARY_FILE), overwrite=True)


def check_finished(folder: Path) -> None:
    """Raises a FileNotFoundError unless a folder has a trained model to start from.

    Args:
      folder: where `python -m tf_seqattn.criteo.train` wrote it.
    """
    for name in (MODEL_FILE, _ENCODING_FILE):
        if not (folder / name).exists():
            raise FileNotFoundError(
                f"`--start` must name the --output of a finished training of --model "
                f"dnn. {folder} has no {name}."
            )


def load_earlier(folder: Path, manifest: Manifest) -> Earlier:
    """Reads a trained model to start from.

    Args:
      folder: where `python -m tf_seqattn.criteo.train` wrote it, or a copy of
        it wherever `tf.io.gfile` reads.
      manifest: of the new rows, which must be encoded alike.

    Raises:
      FileNotFoundError: if there is no trained model with its encoding.
      ValueError: for rows of another encoding, or a damaged file.
    """
    check_finished(folder)
    path = folder / _ENCODING_FILE
    try:
        encoding = Encoding(**json.loads(path.read_text()))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{path} is damaged ({error}). Train that model again, or leave out "
            "`--start`."
        ) from error
    same = dataclasses.replace(encoding, min_count=manifest.encoding.min_count)
    if same != manifest.encoding:
        raise ValueError(
            "`--start` must name a model of rows encoded alike: "
            f"{encoding} there, {manifest.encoding} here."
        )
    vocabulary = None
    if encoding.min_count:
        path = folder / VOCABULARY_FILE
        vocabulary = Vocabulary.load(path, encoding.table_sizes)
    return Earlier(_load_network(folder / MODEL_FILE), encoding, vocabulary)


def _load_network(path: Path) -> keras.Model:
    if not isinstance(path, RemotePath):
        return keras.models.load_model(path, compile=False)
    # Keras reads archives on a local disk alone.
    with tempfile.TemporaryDirectory() as folder:
        copy = pathlib.Path(folder, path.name)
        tf.io.gfile.copy(str(path), str(copy))
        return keras.models.load_model(copy, compile=False)


def earlier_rows(old: Vocabulary, new: Vocabulary) -> np.ndarray:
    """Returns the row of the earlier tables that each row of the new ones begins with.

    Args:
      old: of the earlier rows.
      new: of the new rows.

    Returns:
      int64 `(total,)`, into all earlier tables one after another.

    Example:

    >>> old = Vocabulary([np.array([2, 5])], [6])
    >>> new = Vocabulary([np.array([3, 5])], [6])
    >>> earlier_rows(old, new)  # empty, rare, 3 as rare, 5
    array([0, 1, 1, 3])
    """
    first = 0
    parts = []
    for column, frequent in enumerate(new.frequent):
        parts.append([first + EMPTY, first + RARE])
        parts.append(first + old.rows[old.first[column] + frequent].astype(np.int64))
        first += old.table_sizes[column] + 1
    return np.concatenate(parts).astype(np.int64)


def start_from(
    network: keras.Model,
    earlier: keras.Model,
    old: Vocabulary | None = None,
    new: Vocabulary | None = None,
) -> None:
    """Gives a network the weights of an earlier one.

    Args:
      network: of `build_network`, not trained and without pruning.
      earlier: of `build_network` with layers of the same sizes, without pruning. Where
        its categories share rows (`sa.prune_rows`), each begins with a copy.
      old: vocabulary of the rows that `earlier` was trained on.
      new: vocabulary of the rows for `network`.

    Raises:
      ValueError: naming a layer of another size, or for only one vocabulary.
    """
    if (old is None) != (new is None):
        raise ValueError(
            "The earlier rows and the new ones must both have a vocabulary, or neither "
            "(`--min-count`)."
        )
    for layer in network.layers:
        if not layer.weights:
            continue
        source = earlier.get_layer(layer.name)
        values = source.get_weights()
        if layer.name == "fields":
            tables = source.whole_tables().numpy()
            if old is not None and new is not None:
                tables = tables[earlier_rows(old, new)]
            values = [*values[: 2 * bool(source.num_numeric)], tables]
        shapes = [value.shape for value in values]
        wanted = [tuple(weight.shape) for weight in layer.weights]
        if shapes != wanted:
            raise ValueError(
                f"`earlier` must have layers of the same sizes. Layer {layer.name!r} "
                f"has {shapes} there and {wanted} here."
            )
        layer.set_weights(values)


def kept_support(earlier: keras.Model, block_size: int) -> sa.PruningSchedule:
    """Returns a schedule that keeps the zero blocks of the first hidden layer at 0.

    With `sa.Magnitude()` it masks exactly those blocks from the first step on.

    Args:
      earlier: a network without pruning, that was pruned in such blocks.
      block_size: rows and columns of a block.

    Raises:
      ValueError: if no block is zero.
    """
    kernel = earlier.get_layer(FIRST_HIDDEN).kernel
    grid = blocks.BlockGrid(tuple(kernel.shape), (block_size, block_size))
    pruned = blocks.block_norms(kernel, grid).numpy() == 0
    if not pruned.any():
        raise ValueError(
            f"No block of {block_size} x {block_size} of the earlier model is zero, so "
            "there is no support to keep: prune it anew (`--support revise`), or give "
            "the `--block-size` that it was pruned with."
        )
    return sa.OneShotSchedule(pruned.mean(), prune_step=0)
