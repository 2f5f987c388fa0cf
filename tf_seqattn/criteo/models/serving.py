"""A trained click model from raw features: strings and numbers in, probability out.

What the conversion did to a row happens inside the SavedModel, so a server sends the
columns of the log as they are.
"""

import pathlib
from collections.abc import Callable

import numpy as np
import tensorflow as tf

import tf_seqattn as sa
from tf_seqattn.criteo.log.encoding import Encoding
from tf_seqattn.criteo.log.fields import CATEGORICAL_NAMES, FIELD_NAMES, NUMERIC_NAMES
from tf_seqattn.criteo.log.vocabulary import Vocabulary, look_up
from tf_seqattn.files import replace_folder
from tf_seqattn.keras_api import LAYERS

# What TensorFlow writes: the entry that tells a SavedModel, and the others.
_ENTRIES = (
    "saved_model.pb",
    ("variables", "assets", "assets.extra", "fingerprint.pb"),
)
_RAW = {
    name: tf.TensorSpec(
        (None,), tf.float64 if name in NUMERIC_NAMES else tf.string, name
    )
    for name in FIELD_NAMES
}


class ServedModel(tf.Module):
    """A click model behind the encoding of its rows.

    Args:
      network: from `{"numeric", "categorical"}` to log-odds `(batch,)` or `(batch, 1)`.
      encoding: of the rows that it was trained on.
      vocabulary: of those rows, where the encoding has a `min_count`.
    """

    def __init__(
        self, network: Callable, encoding: Encoding, vocabulary: Vocabulary | None
    ):
        super().__init__()
        self.network = network
        self._encoding = encoding
        self._first = None
        if vocabulary is not None:
            self._first = vocabulary.first
            self.rows = tf.Variable(vocabulary.rows, trainable=False)

    @tf.function(input_signature=[_RAW])
    def predict(self, raw: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Predicts rows as they stand in the log.

        Args:
          raw: I1 to I13, float64 `(batch,)`, NaN where empty; C1 to C26, strings
            `(batch,)` of hexadecimal digits, "" where empty.

        Returns:
          `probability` of a click, float32 `(batch,)`; NaN for a row with a
          category that the conversion would not take.

        Raises:
          tf.errors.InvalidArgumentError: if a count is infinite.
        """
        numeric, categorical, valid = self._encoding.encode_tensors(raw)
        if self._first is not None:
            categorical = look_up(self.rows, self._first, categorical)
        features = {"numeric": numeric, "categorical": categorical}
        logits = self.network(features, training=False)
        probability = tf.sigmoid(tf.reshape(logits, (-1,)))
        return {"probability": tf.where(valid, probability, np.nan)}


def export_serving(
    network: Callable,
    path: pathlib.Path | str,
    encoding: Encoding,
    vocabulary: Vocabulary | None = None,
) -> pathlib.Path:
    """Writes a SavedModel with a serving signature from raw features.

    Args:
      network: a trained model without pruning (`sa.strip_pruning`), from `numeric` and
        `categorical` to log-odds.
      path: folder of the SavedModel.
      encoding: `Manifest.encoding` of the rows it was trained on.
      vocabulary: `Manifest.vocabulary` of those rows.

    Returns:
      The path. Its `serving_default` takes I1 to I13 (float64, NaN where empty) and C1
      to C26 (strings, "" where empty) and gives `probability`. A row with a category
      that the conversion would not take gets NaN, and the others of a request what
      they would get without it. An infinite count is an error.

    Raises:
      ValueError: for a model that is still pruned, a vocabulary that is missing, or a
        folder that holds anything but a SavedModel.

    Example:

    >>> served = tf.saved_model.load(path)  # doctest: +SKIP
    >>> served.signatures["serving_default"](**raw)["probability"]  # doctest: +SKIP
    """
    if isinstance(network, (tf.Module, *LAYERS)) and sa.pruned_layers(network):
        raise ValueError(
            "`network` is still pruned. Pass `sa.strip_pruning(network)` instead."
        )
    if (vocabulary is None) != (encoding.min_count == 0):
        raise ValueError(
            "`vocabulary` must be given exactly where the encoding has a `min_count`. "
            f"Received: vocabulary={vocabulary!r}, min_count={encoding.min_count}"
        )
    module = ServedModel(network, encoding, vocabulary)

    def write(folder: pathlib.Path) -> None:
        tf.saved_model.save(
            module, str(folder), signatures={"serving_default": module.predict}
        )

    replace_folder(path, write, *_ENTRIES)
    return pathlib.Path(path)


def raw_features(lines: list[str]) -> dict[str, tf.Tensor]:
    """Turns lines of a log into what a served model takes.

    Args:
      lines: tab-separated, with the label.

    Returns:
      I1 to I13 float64 and C1 to C26 string tensors, `(len(lines),)`.
    """
    rows = [line.rstrip("\n").split("\t")[1:] for line in lines]
    columns = dict(zip(FIELD_NAMES, zip(*rows, strict=True), strict=True))
    counts = {
        name: [float(text) if text else np.nan for text in columns[name]]
        for name in NUMERIC_NAMES
    }
    return {
        **{name: tf.constant(few, tf.float64) for name, few in counts.items()},
        **{name: tf.constant(columns[name]) for name in CATEGORICAL_NAMES},
    }
