"""The optimizer of a click model: one for all, or another one for the tables.

Adam moves every row of a table in every step, seen or not. With tables of a million
rows that is nearly all of a step. Adagrad moves the rows of the batch alone.
"""

import tensorflow as tf
import tf_keras as keras

from tf_seqattn.criteo.models.click_model import FieldEmbedding
from tf_seqattn.keras_api import Model, Optimizer

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
    weight_decay: float = 0.0,
) -> keras.optimizers.Optimizer:
    """Returns Adam, or TFRS's `CompositeOptimizer` with Adagrad for the tables.

    Args:
      model: built.
      rate: of Adam.
      table_optimizer: "adam", or "adagrad" to update the rows of a batch alone. Its
        slots have the size of the tables; those of Adam have twice that.
      weight_decay: see `decay_kernels`; of "adam" alone.

    Raises:
      ValueError: for another one, or for weight decay with "adagrad".
    """
    if table_optimizer == "adam":
        optimizer = keras.optimizers.Adam(rate, weight_decay=weight_decay or None)
        decay_kernels(optimizer, model)
        return optimizer
    if table_optimizer != "adagrad":
        raise ValueError(
            f"`table_optimizer` must be one of {', '.join(TABLE_OPTIMIZERS)}. "
            f"Received: table_optimizer={table_optimizer!r}"
        )
    if weight_decay:
        raise ValueError(
            '`weight_decay` wants `table_optimizer="adam"`: the optimizers of TFRS\'s '
            f"`CompositeOptimizer` have none. Received: weight_decay={weight_decay!r}"
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


def decay_kernels(optimizer: Optimizer, model: Model) -> None:
    """Restricts the weight decay of an optimizer to the kernels of a model.

    Tables would be decayed in every step, the rows that no batch reads too. Biases are
    not decayed as a rule, and logits have a penalty of their own.

    Args:
      optimizer: of Keras 2 or 3, not built. A step takes off `rate * weight_decay` of
        each kernel, beside its gradient (as AdamW, arXiv 1711.05101).
      model: built, pruned or not.
    """
    others = [v for v in model.trainable_variables if not _is_kernel(v)]
    optimizer.exclude_from_weight_decay(var_list=others)


def _is_kernel(variable) -> bool:
    """Whether a variable is a kernel; its logits have names that begin like its own."""
    return variable.name.partition(":")[0].endswith("kernel")
