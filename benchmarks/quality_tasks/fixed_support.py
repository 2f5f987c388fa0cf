"""Rivals that train at the final sparsity from the first step.

A random support (its loss is the least that a choice must beat), and one that is
revised as RigL does (arXiv 1911.11134): every so often, the blocks of smallest norm
give way to as many others, those whose gradient is largest.
"""

import numpy as np
import tensorflow as tf
import tf_keras as keras

from tf_seqattn.kernels import blocks
from tf_seqattn.kernels.layer_kernels import find_kernels

# As in the paper: the share that is revised at first, which falls to 0 as a cosine
# until three quarters of the steps.
_REVISED, _UNTIL, _EVERY = 0.3, 0.75, 50


class FixedSupport(keras.callbacks.Callback):
    """Keeps all but `kept` blocks of each kernel at zero.

    Args:
      sparsity: share of the blocks that are zero.
      block_size: side of a block.
      steps: of the training.
      batches: of rows and labels, to take gradients on; None never revises the support.
      seed: of the first support.
    """

    def __init__(self, sparsity, block_size, steps, batches, seed):
        super().__init__()
        self._sparsity, self._side, self._steps = sparsity, block_size, steps
        self._batches = iter(batches) if batches is not None else None
        self._random = np.random.default_rng(seed)

    def on_train_begin(self, logs=None):
        self._kernels, self._grids, self._masks = [], [], []
        for layer in self.model.layers:
            if not layer.name.startswith("hidden"):
                continue
            for kernel in find_kernels(layer):
                grid = kernel.grid((self._side, self._side))
                kept = max(1, round(grid.num_blocks * (1 - self._sparsity)))
                mask = np.zeros(grid.num_blocks, "float32")
                mask[self._random.permutation(grid.num_blocks)[:kept]] = 1
                self._kernels.append(kernel.variable)
                self._grids.append(grid)
                self._masks.append(tf.Variable(mask.reshape(grid.shape)))
        self._apply()

    def on_train_batch_end(self, batch, logs=None):
        self._apply()
        share = (batch + 1) / (self._steps * _UNTIL)
        if self._batches is not None and share < 1 and (batch + 1) % _EVERY == 0:
            self._revise(_REVISED * 0.5 * (1 + np.cos(np.pi * share)))
            self._apply()

    @tf.function
    def _apply(self):
        for kernel, grid, mask in zip(
            self._kernels, self._grids, self._masks, strict=True
        ):
            kernel.assign(blocks.scale_blocks(kernel, mask, grid))

    @tf.function
    def _gradients(self, rows, labels):
        with tf.GradientTape() as tape:
            loss = self.model.compute_loss(y=labels, y_pred=self.model(rows))
        return [tf.convert_to_tensor(g) for g in tape.gradient(loss, self._kernels)]

    def _revise(self, share):
        gradients = self._gradients(*next(self._batches))
        for kernel, grid, mask, gradient in zip(
            self._kernels, self._grids, self._masks, gradients, strict=True
        ):
            active = mask.numpy().ravel() > 0
            count = min(round(share * active.sum()), int((~active).sum()))
            norms = blocks.block_norms(kernel, grid).numpy().ravel()
            wanted = blocks.block_norms(gradient, grid).numpy().ravel()
            dropped = np.argsort(np.where(active, norms, np.inf))[:count]
            grown = np.argsort(np.where(active, -np.inf, wanted))[::-1][:count]
            active[dropped], active[grown] = False, True
            mask.assign(active.reshape(grid.shape).astype("float32"))
