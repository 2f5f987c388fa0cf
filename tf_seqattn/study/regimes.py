"""The three regimes of pruning (arXiv 2305.18383), on the small digits.

Networks are trained at a temperature: few epochs or small batches are hot. Then each is
pruned once to a density and trained again in several orders of the rows. Whether the
results are connected by a line of low error, and whether their outputs are alike, says
in which regime the training was (`rule.py`).
"""

import itertools
import json
import pathlib
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf
import tf_keras as keras

import tf_seqattn as sa
from tf_seqattn.digits.data import Digits, load_digits
from tf_seqattn.files import write_json
from tf_seqattn.study.connectivity import (
    barrier,
    errors_between,
    reestimate_batch_norms,
)
from tf_seqattn.study.similarity import linear_cka

METHODS = {"magnitude": sa.Magnitude, "sequential attention": sa.SoftmaxAttention}
# Hot first.
TEMPERATURES = {"epochs": (1, 2, 4, 8, 16), "batch": (8, 16, 32, 128, 512)}
DENSITIES = (0.015, 0.03, 0.05, 0.1, 0.2, 0.5)
# Where the other of the two is varied.
_EPOCHS, _BATCH = 4, 32
_RETRAINING = 10
_BLOCK = (4, 4)
_RATE = 1e-2


class Cell(NamedTuple):
    """One point of the map.

    Attributes:
      method: of `METHODS`.
      knob: of `TEMPERATURES`.
      setting: of that knob.
      density: share of the blocks that stay.
      network: seed of the network that is pruned.
    """

    method: str
    knob: str
    setting: int
    density: float
    network: int

    def file(self, folder: pathlib.Path, seeds: int) -> pathlib.Path:
        """Where its result is kept."""
        method = self.method.replace(" ", "_")
        place = f"{self.knob}_{self.setting}_{self.density:g}_{self.network}"
        return folder / f"{method}_{place}_{seeds}.json"


def make_network(width: float = 1.0) -> keras.Model:
    """Two hidden layers with batch norms.

    Args:
      width: share of their 128 units.
    """
    units = max(1, round(128 * width))
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Flatten(),
            keras.layers.Dense(units, use_bias=False, name="hidden_0"),
            keras.layers.BatchNormalization(momentum=0.9),
            keras.layers.ReLU(),
            keras.layers.Dense(units, use_bias=False, name="hidden_1"),
            keras.layers.BatchNormalization(momentum=0.9),
            keras.layers.ReLU(),
            keras.layers.Dense(10, name="logits"),
        ]
    )


class _Hidden(sa.PruningPolicy):
    def allow_pruning(self, layer) -> bool:
        return layer.name.startswith("hidden")


def train_dense(
    method: str, knob: str, setting: int, digits: Digits, seed: int
) -> keras.Model:
    """Trains a network at a temperature, ready to be pruned.

    Args:
      method: of `METHODS`.
      knob: of `TEMPERATURES`.
      setting: of that knob.
      digits: the data.
      seed: of weights and order.

    Returns:
      The model of `sa.prune` with all of its blocks.
    """
    keras.utils.set_random_seed(seed)
    epochs, batch = (setting, _BATCH) if knob == "epochs" else (_EPOCHS, setting)
    steps = epochs * -(-len(digits.train_images) // batch)
    model = sa.prune(
        make_network(),
        # Its one update comes after this training.
        sa.OneShotSchedule(0.5, prune_step=steps + 1),
        block_size=_BLOCK,
        importance=METHODS[method](),
        pruning_policy=_Hidden(),
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(_RATE), loss)
    with warnings.catch_warnings():
        # That the training ends before the blocks go is meant.
        warnings.simplefilter("ignore", sa.PruningWarning)
        model.fit(
            digits.train_images,
            digits.train_labels,
            batch_size=batch,
            epochs=epochs,
            verbose=0,
            callbacks=[sa.UpdatePruningStep()],
        )
    return model


def pruned_weights(model: keras.Model, density: float) -> list[np.ndarray]:
    """The weights of `make_network` with the least important blocks at 0.

    Args:
      model: of `train_dense`. Its masks are changed.
      density: share of the blocks that stay.
    """
    kernels = {}
    for wrapper in sa.pruned_layers(model):
        # All of them compete.
        wrapper.update_masks(0.0)
        wrapper.update_masks(1.0 - density)
        (pruned,) = wrapper.pruned_kernels
        kernels[wrapper.layer.name] = wrapper.effective_kernel(pruned).numpy()
    found = []
    for layer in model.layers:
        plain = getattr(layer, "layer", layer)
        weights = plain.get_weights()
        if plain.name in kernels:
            weights[0] = kernels[plain.name]
        found += weights
    return found


class Retraining:
    """Trains sparse weights again; what is 0 at first stays so.

    It is traced once for all cells.
    """

    def __init__(self, digits: Digits) -> None:
        self.digits = digits
        self.network = make_network()
        hidden = [v for v in self.network.trainable_variables if "hidden" in v.name]
        self._masks = [tf.Variable(tf.ones_like(v)) for v in hidden]
        self._hidden = hidden
        steps = _RETRAINING * -(-len(digits.train_images) // _BATCH)
        rate = keras.optimizers.schedules.CosineDecay(_RATE, steps)
        self._optimizer = keras.optimizers.Adam(rate)
        self._optimizer.build(self.network.trainable_variables)
        self._fresh = [tf.constant(v) for v in self._optimizer.variables]

    @tf.function
    def _step(self, rows: tf.Tensor, labels: tf.Tensor) -> None:
        with tf.GradientTape() as tape:
            logits = self.network(rows, training=True)
            loss = tf.reduce_mean(
                tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
            )
        variables = self.network.trainable_variables
        gradients = tape.gradient(loss, variables)
        self._optimizer.apply_gradients(zip(gradients, variables, strict=True))
        for kernel, mask in zip(self._hidden, self._masks, strict=True):
            kernel.assign(kernel * mask)

    def __call__(self, weights: Sequence[np.ndarray], seed: int) -> list[np.ndarray]:
        """Returns the weights after the training, in an order of the rows."""
        self.network.set_weights(weights)
        for kernel, mask in zip(self._hidden, self._masks, strict=True):
            mask.assign(tf.cast(kernel != 0, tf.float32))
        for variable, value in zip(self._optimizer.variables, self._fresh, strict=True):
            variable.assign(value)
        random = np.random.default_rng(seed)
        rows, labels = self.digits.train_images, self.digits.train_labels
        for _ in range(_RETRAINING):
            order = random.permutation(len(rows))
            for start in range(0, len(order), _BATCH):
                batch = order[start : start + _BATCH]
                self._step(tf.constant(rows[batch]), tf.constant(labels[batch]))
        return self.network.get_weights()

    def outputs(self, weights: Sequence[np.ndarray]) -> np.ndarray:
        """Logits of the rows held out."""
        self.network.set_weights(weights)
        reestimate_batch_norms(self.network, self.digits.train_images)
        return self.network(self.digits.test_images, training=False).numpy()


def measure(
    cell: Cell, dense: keras.Model, retraining: Retraining, seeds: int
) -> dict[str, object]:
    """Prunes, trains again in several orders, and compares all pairs.

    Args:
      cell: a point of the map.
      dense: of `train_dense`.
      retraining: on the same data.
      seeds: number of orders, two or more.

    Returns:
      The cell, `error` (a mean, on the rows held out), `barrier` (the mean over the
      pairs, on the training rows) and `cka` (likewise, of the outputs held out).
    """
    weights = pruned_weights(dense, cell.density)
    again = [retraining(weights, seed) for seed in range(seeds)]
    outputs = [retraining.outputs(w) for w in again]
    labels = retraining.digits.test_labels
    errors = [float(np.mean(o.argmax(axis=1) != labels)) for o in outputs]
    rows, train_labels = retraining.digits.train_images, retraining.digits.train_labels
    pairs = list(itertools.combinations(range(seeds), 2))
    lines = [
        errors_between(retraining.network, again[a], again[b], rows, train_labels)
        for a, b in pairs
    ]
    return {
        **cell._asdict(),
        "error": float(np.mean(errors)),
        "errors": errors,
        "barrier": float(np.mean([barrier(line) for line in lines])),
        "lines": [line.tolist() for line in lines],
        "cka": float(np.mean([linear_cka(outputs[a], outputs[b]) for a, b in pairs])),
    }


def run(
    folder: pathlib.Path, seeds: int, networks: int, knobs: Sequence[str], on_cell
) -> list[dict]:
    """Measures all cells that are missing in a folder.

    Args:
      folder: for a file of each cell.
      seeds: retrainings of each cell.
      networks: trained at each temperature.
      knobs: of `TEMPERATURES`.
      on_cell: called after each cell.

    Returns:
      The results of all cells.
    """
    digits = load_digits()
    retraining = Retraining(digits)
    results = []
    for method, knob in itertools.product(METHODS, knobs):
        for setting, network in itertools.product(TEMPERATURES[knob], range(networks)):
            dense = None
            for density in DENSITIES:
                cell = Cell(method, knob, setting, density, network)
                path = cell.file(folder, seeds)
                if not path.exists():
                    dense = dense or train_dense(method, knob, setting, digits, network)
                    write_json(path, measure(cell, dense, retraining, seeds))
                results.append(json.loads(path.read_text()))
                on_cell()
    return results
