"""An embedding in which many categories share a row."""

from typing import Any

import tensorflow as tf

from tf_seqattn.keras_api import (
    Layer,
    Variable,
    add_integers,
    add_weight,
    keras_of,
    register_for_both,
)

# The class of each Keras adds the real base; mypy needs to know no more.
_SomeLayer: Any = object
_INT16_ROWS = 2**15


def add_row_numbers(layer: Layer, categories: int, rows: int) -> Variable:
    """Adds the row of each category, at first 0, to a layer.

    Args:
      layer: whose `rows` many categories share.
      categories: how many there are.
      rows: of the table.

    Returns:
      A variable `(categories,)`: int16 where the table has so few rows that it holds
      their numbers, and int32 otherwise.
    """
    dtype = "int16" if rows <= _INT16_ROWS else "int32"
    return add_integers(layer, "row_numbers", (categories,), dtype)


class SharedRowsEmbedding(_SomeLayer):
    """Looks up a vector for each category, in a table with fewer rows than categories.

    Args:
      input_dim: number of categories.
      rows: number of rows of the table.
      output_dim: length of a vector.
      mask_zero: whether category 0 is padding, as in Keras's `Embedding`.
      embeddings_regularizer: of the table, as in Keras's `Embedding`.
      **kwargs: passed to `keras.layers.Layer`.

    Attributes:
      embeddings: the table, `(rows, output_dim)`.
      row_numbers: `(input_dim,)`, the row of each category; see `add_row_numbers`.

    Example:

    >>> layer = SHARED_ROWS[keras](input_dim=3, rows=2, output_dim=1)
    >>> layer.build()
    >>> layer.set_weights([np.array([[5.0], [6.0]]), np.array([0, 1, 1])])
    >>> layer(tf.constant([[0, 1, 2]])).numpy().tolist()
    [[[5.0], [6.0], [6.0]]]
    """

    def __init__(
        self,
        input_dim: int,
        rows: int,
        output_dim: int,
        mask_zero: bool = False,
        embeddings_regularizer: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.input_dim = int(input_dim)
        self.rows = int(rows)
        self.output_dim = int(output_dim)
        self.mask_zero = bool(mask_zero)
        self.supports_masking = self.mask_zero
        regularizers = keras_of(self).regularizers
        self.embeddings_regularizer = regularizers.get(embeddings_regularizer)

    def build(self, input_shape: Any = None) -> None:
        del input_shape
        shape = (self.rows, self.output_dim)
        self.embeddings = add_weight(
            self, "embeddings", shape, "uniform", self.embeddings_regularizer
        )
        self.row_numbers = add_row_numbers(self, self.input_dim, self.rows)
        self.built = True

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        categories = tf.cast(inputs, tf.int32)
        rows = tf.gather(tf.convert_to_tensor(self.row_numbers), categories)
        rows = tf.cast(rows, tf.int32)
        vectors = tf.gather(tf.convert_to_tensor(self.embeddings), rows)
        return tf.cast(vectors, self.compute_dtype)

    def compute_mask(self, inputs: tf.Tensor, mask: Any = None) -> Any:
        del mask
        return tf.not_equal(inputs, 0) if self.mask_zero else None

    def compute_output_shape(self, input_shape: Any) -> Any:
        return (*input_shape, self.output_dim)

    def get_config(self) -> dict[str, Any]:
        serialize = keras_of(self).regularizers.serialize
        return {
            **super().get_config(),
            "input_dim": self.input_dim,
            "rows": self.rows,
            "output_dim": self.output_dim,
            "mask_zero": self.mask_zero,
            "embeddings_regularizer": serialize(self.embeddings_regularizer),
        }


SHARED_ROWS = register_for_both(SharedRowsEmbedding)
