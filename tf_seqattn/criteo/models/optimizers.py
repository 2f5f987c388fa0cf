"""The optimizer of a click model: one for all, or another one for the tables.

Adam moves every row of a table in every step, seen or not. With tables of a million
rows that is nearly all of a step. Adagrad moves the rows of the batch alone.
"""

import tensorflow as tf
import tf_keras as keras

from tf_seqattn.criteo.models.click_model import FieldEmbedding

TABLE_OPTIMIZERS = ("adam", "adagrad")
# Adagrad divides by all squared gradients so far, so its rate need not decay.
_TABLE_RATE = 0.05


def table_variables(model: keras.Model) -> list[tf.Variable]:
    """Returns the tables of a model's embeddings.

    Args:
      model: built.
    """
    layers = list(model.submodules)
    found = [m.tables for m in layers if isinstance(m, FieldEmbedding)]
    kind = keras.layers.Embedding
    return found + [m.embeddings for m in layers if isinstance(m, kind)]


def make_optimizer(
    model: keras.Model,
    rate: float | keras.optimizers.schedules.LearningRateSchedule,
    table_optimizer: str = "adam",
) -> keras.optimizers.Optimizer:
    """Returns Adam, or TFRS's `CompositeOptimizer` with Adagrad for the tables.

    Args:
      model: built.
      rate: of Adam.
      table_optimizer: "adam", or "adagrad" to update the rows of a batch alone. Its
        slots have the size of the tables; those of Adam have twice that.

    Raises:
      ValueError: for another one.
    """
    if table_optimizer == "adam":
        return keras.optimizers.Adam(rate)
    if table_optimizer != "adagrad":
        raise ValueError(
            f"`table_optimizer` must be one of {', '.join(TABLE_OPTIMIZERS)}. "
            f"Received: table_optimizer={table_optimizer!r}"
        )
    # Imported here: it needs TF_USE_LEGACY_KERAS, which the package has set by now.
    from tensorflow_recommenders.experimental.optimizers import CompositeOptimizer

    legacy = keras.optimizers.legacy
    tables = table_variables(model)
    taken = {id(table) for table in tables}
    return CompositeOptimizer(
        [
            (
                legacy.Adam(rate),
                lambda: [v for v in model.trainable_variables if id(v) not in taken],
            ),
            (legacy.Adagrad(_TABLE_RATE), lambda: tables),
        ]
    )
