"""An embedding in which many categories share a row."""

from typing import Any

import tensorflow as tf

from tf_seqattn.keras_api import (
    Layer,
    Variable,
    add_counter,
    add_numbers,
    add_weight,
    is_keras3,
    keras3,
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
    return add_numbers(layer, "row_numbers", (categories,), dtype)


def add_reads(layer: Layer, categories: int) -> None:
    """Adds what `sa.ReviseRows` wants to know to a layer.

    Afterwards the layer has `reads`, float32 `(categories,)`, how often each category
    was read lately, and `steps_counted`, the number of training steps so far. Both are
    weights, so that a backup holds them.
    """
    layer.reads = add_numbers(layer, "reads", (categories,), "float32")
    layer.steps_counted = add_counter(layer, "steps_counted")


def count_reads(reads: Variable, categories: tf.Tensor) -> None:
    """Counts the categories of a batch, in place.

    Args:
      reads: float32 `(categories,)`. A count ends at 2^24.
      categories: integers of any shape.
    """
    read = tf.reshape(tf.cast(categories, tf.int64), (-1,))
    ones = tf.ones_like(read, tf.float32)
    variable = reads._value if is_keras3(reads) else reads
    variable.scatter_add(tf.IndexedSlices(ones, read))


class SharedRowsEmbedding(_SomeLayer):
    """Looks up a vector for each category, in a table with fewer rows than categories.

    Args:
      input_dim: number of categories.
      rows: number of rows of the table.
      output_dim: length of a vector.
      mask_zero: whether category 0 is padding, as in Keras's `Embedding`.
      embeddings_regularizer: of the table, as in Keras's `Embedding`.
      counted: whether training counts how often each category is read, for
        `sa.ReviseRows`.
      **kwargs: passed to `keras.layers.Layer`.

    Attributes:
      embeddings: the table, `(rows, output_dim)`.
      row_numbers: `(input_dim,)`, the row of each category; see `add_row_numbers`.
      reads, steps_counted: see `add_reads`; None where nothing is counted.

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
        counted: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.input_dim = int(input_dim)
        self.rows = int(rows)
        self.output_dim = int(output_dim)
        self.mask_zero = bool(mask_zero)
        self.counted = bool(counted)
        self.reads = self.steps_counted = None
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
        if self.counted:
            add_reads(self, self.input_dim)
        self.built = True

    def get_table_categories(self) -> list[int]:
        """Number of categories of the table, as `FieldEmbedding` has it of several."""
        return [self.input_dim]

    def call(self, inputs: tf.Tensor, training: Any = None) -> tf.Tensor:
        categories = tf.cast(inputs, tf.int32)
        if training and self.counted:
            count_reads(self.reads, categories)
        rows = tf.gather(tf.convert_to_tensor(self.row_numbers), categories)
        rows = tf.cast(rows, tf.int32)
        vectors = tf.gather(tf.convert_to_tensor(self.embeddings), rows)
        return tf.cast(vectors, self.compute_dtype)

    def compute_mask(self, inputs: tf.Tensor, mask: Any = None) -> Any:
        del mask
        if not self.mask_zero:
            return None
        # A symbolic input of Keras 3 is none of TensorFlow's.
        library = keras3.ops if is_keras3(self) else tf
        return library.not_equal(inputs, 0)

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
            "counted": self.counted,
        }


SHARED_ROWS = register_for_both(SharedRowsEmbedding)
