"""The one module that knows tfmot: its schedules, its wrapper and its callbacks.

Nothing here imports the tfmot package: that sets `TF_USE_LEGACY_KERAS` and touches
`tf.keras`, which would change what `tf.keras` means for a user of Keras 3. Its objects
are recognised by the names of their classes.
"""

import importlib.util
import pathlib
import sys
from types import ModuleType
from typing import Any, Protocol

import tensorflow as tf

_PACKAGE = "tensorflow_model_optimization"
_SCHEDULES = f"{_PACKAGE}.python.core.sparsity.keras.pruning_schedule"


class Schedule(Protocol):
    """A pruning schedule, ours or tfmot's."""

    def __call__(self, step: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns `(should_prune, sparsity)` at a step."""

    def get_config(self) -> dict[str, Any]:
        """Returns the class name and the constructor's arguments."""

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Schedule":
        """Makes a schedule from its arguments."""


# The name of the final sparsity in our schedules and tfmot's `ConstantSparsity`, then
# in tfmot's `PolynomialDecay`.
TARGETS = ("target_sparsity", "final_sparsity")
# tfmot never asks a schedule at step 0, so the mask stays as it is before training.
UPDATE_BEFORE_TRAINING = None


def schedule_module() -> ModuleType:
    """Returns tfmot's schedule module without importing the rest of tfmot.

    This module needs neither Keras, so it is loaded alone, under its own name. A later
    `import tensorflow_model_optimization` finds the same module.

    Raises:
      ImportError: if tfmot is not installed.
    """
    if _SCHEDULES not in sys.modules:
        package = importlib.util.find_spec(_PACKAGE)
        if package is None or not package.submodule_search_locations:
            raise ImportError(
                "tf_seqattn needs tensorflow-model-optimization: "
                "pip install tensorflow-model-optimization"
            )
        parts = _SCHEDULES.split(".")[1:]
        path = pathlib.Path(package.submodule_search_locations[0], *parts)
        spec = importlib.util.spec_from_file_location(
            _SCHEDULES, path.with_suffix(".py")
        )
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[_SCHEDULES] = module
        spec.loader.exec_module(module)
    return sys.modules[_SCHEDULES]


def schedule_class(name: str) -> type | None:
    """Returns tfmot's schedule of that name, or None.

    Example:

    >>> schedule_class("ConstantSparsity").__name__
    'ConstantSparsity'
    """
    return getattr(schedule_module(), name, None)


def is_wrapper(layer: object) -> bool:
    """Whether a layer is wrapped by tfmot's `prune_low_magnitude`."""
    return type(layer).__name__ == "PruneLowMagnitude"


def is_callback(callback: object) -> bool:
    """Whether a callback comes from tfmot."""
    return type(callback).__module__.startswith(_PACKAGE)
