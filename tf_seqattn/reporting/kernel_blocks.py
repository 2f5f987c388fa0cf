"""Collects the facts about each kernel of a model for the report."""

import contextlib
import dataclasses
from typing import Any

import numpy as np
import tensorflow as tf

from tf_seqattn.keras_api import stored, sublayers
from tf_seqattn.kernels.blocks import BlockGrid, to_matrix
from tf_seqattn.kernels.layer_kernels import find_kernels, is_supported
from tf_seqattn.kernels.zero_blocks import block_support, find_block_size
from tf_seqattn.sparsity.wrapper import PrunableLayer


@dataclasses.dataclass(frozen=True)
class KernelFacts:
    """A kernel, read as a matrix of inputs by outputs.

    Attributes:
      name: names of the layer and the kernel.
      matrix: float32 `(inputs, outputs)`, the kernel that the layer computes with. It
        is zero where it is pruned.
      block_size: (rows, columns) of a block, or None if there are no blocks.
      attention: float32 `(block rows, block columns)` while it is trained, or None.
    """

    name: str
    matrix: np.ndarray
    block_size: tuple[int, int] | None
    attention: np.ndarray | None = None

    @property
    def support(self) -> np.ndarray:
        """The blocks kept, bool `(block rows, block columns)`; one block if None."""
        if self.block_size is None:
            return np.ones((1, 1), bool)
        return block_support(self.matrix, self.block_size)

    @property
    def zeros(self) -> float:
        """Share of the entries that are zero."""
        return float(np.mean(self.matrix == 0))


def _matrix(kernel: tf.Tensor, grid: BlockGrid) -> np.ndarray:
    return np.asarray(to_matrix(kernel, grid), np.float32)


def _pruned_facts(wrapper: PrunableLayer) -> list[KernelFacts]:
    facts = []
    for pruned in wrapper.pruned_kernels:
        rows, columns = pruned.grid.block_size
        attention = None
        if pruned.logits is not None and hasattr(wrapper.importance, "attention"):
            attention = np.asarray(wrapper.importance.attention(stored(pruned.logits)))
        facts.append(
            KernelFacts(
                f"{wrapper.layer.name}/{pruned.name}",
                _matrix(wrapper.effective_kernel(pruned), pruned.grid),
                (rows, columns),
                attention,
            )
        )
    return facts


def kernels_of(model: Any) -> list[KernelFacts]:
    """Returns the facts of every kernel of a model, pruned or not, each once.

    Args:
      model: a built model: pruned, stripped, or pruned by another tool. The blocks of
        plain kernels are found in their zeros.
    """
    facts: list[KernelFacts] = []
    seen: set[int] = set()
    for layer in sublayers(model):
        if id(layer) in seen:
            continue
        if isinstance(layer, PrunableLayer):
            facts += _pruned_facts(layer)
            seen |= {id(inner) for inner in sublayers(layer)}
        elif layer.built and is_supported(layer):
            found = []
            with contextlib.suppress(ValueError):
                found = find_kernels(layer)
            for kernel in found:
                matrix = _matrix(stored(kernel.variable), kernel.grid((1, 1)))
                name = f"{layer.name}/{kernel.name}"
                facts.append(KernelFacts(name, matrix, find_block_size(matrix)))
            if found:
                seen |= {id(inner) for inner in sublayers(layer)}
    return facts
