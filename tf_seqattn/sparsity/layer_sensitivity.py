"""How much a model suffers from pruning each of its layers alone."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import tensorflow as tf

from tf_seqattn.keras_api import Model, check_layer, compilation_of, keras2, stored
from tf_seqattn.kernels import blocks
from tf_seqattn.kernels.layer_kernels import BlockSize
from tf_seqattn.sparsity import support
from tf_seqattn.sparsity.allocation import PlannedKernel, kernels_by_layer
from tf_seqattn.sparsity.importance import Importance, Magnitude
from tf_seqattn.sparsity.policies import PruningPolicy
from tf_seqattn.text_table import print_table

Evaluate = Callable[[Model], float | Mapping[str, float]]


@dataclasses.dataclass
class Sensitivity:
    """A model's metrics with one layer pruned at a time.

    `str` (or `print`) gives a table of the first metric.

    Attributes:
      dense: each metric of the model as it is, by name.
      sparsities: the shares of blocks that were removed, ascending.
      layers: for each layer, by name, the metrics at each of the sparsities.
      blocks: number of blocks of each layer, by name.
    """

    dense: dict[str, float]
    sparsities: tuple[float, ...]
    layers: dict[str, list[dict[str, float]]]
    blocks: dict[str, int]

    def _metric(self, metric: str | None) -> str:
        metric = metric or next(iter(self.dense))
        if metric not in self.dense:
            raise ValueError(
                f"`metric` must be one of {sorted(self.dense)}. "
                f"Received: metric={metric!r}"
            )
        return metric

    def table(self, metric: str | None = None) -> str:
        """Returns one metric of each layer at each sparsity, as text.

        Args:
          metric: its name; the first one, the loss, by default.
        """
        metric = self._metric(metric)
        titles = ["layer", "blocks", *(f"{s:.0%}" for s in self.sparsities)]
        rows = [["none", "", *[f"{self.dense[metric]:.4g}"] * len(self.sparsities)]]
        for name, found in self.layers.items():
            values = [f"{metrics[metric]:.4g}" for metrics in found]
            rows.append([name, str(self.blocks[name]), *values])
        lines = [f"{metric} with one layer pruned, at the share of its blocks removed"]
        print_table(titles, rows, lines.append)
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.table()

    def plot(self, metric: str | None = None, axes: Any = None) -> Any:
        """Draws a metric against sparsity, one curve for each layer, early layers dark.

        Args:
          metric: its name; the first one, the loss, by default.
          axes: matplotlib axes to draw on; new ones by default.

        Returns:
          The matplotlib axes.

        Raises:
          ImportError: if matplotlib is not installed.
        """
        try:
            import matplotlib.pyplot as plt
        except ImportError as error:
            raise ImportError(
                "Drawing the curves needs matplotlib: pip install matplotlib. "
                "`print(result)` shows the same numbers."
            ) from error
        metric = self._metric(metric)
        if axes is None:
            _, axes = plt.subplots(figsize=(8, 4), layout="constrained")
        colours = plt.get_cmap("viridis")
        for index, (name, found) in enumerate(self.layers.items()):
            axes.plot(
                [100 * sparsity for sparsity in self.sparsities],
                [metrics[metric] for metrics in found],
                color=colours(0.95 * index / max(1, len(self.layers) - 1)),
                marker="o",
                markersize=3,
                label=name,
            )
        axes.axhline(self.dense[metric], color="black", linestyle=":", label="dense")
        axes.set(xlabel="blocks of the layer removed (%)", ylabel=metric)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(
            loc="center left",
            bbox_to_anchor=(1.0, 0.5),
            ncols=1 + len(self.layers) // 20,
            fontsize="small",
            frameon=False,
        )
        return axes


@contextlib.contextmanager
def _pruned(
    group: list[PlannedKernel], scores: list[tf.Tensor], sparsity: float
) -> Iterator[None]:
    """Context in which the kernels of one layer are pruned; it restores them."""
    before = [stored(planned.kernel.variable).numpy() for planned in group]
    try:
        for planned, score, value in zip(group, scores, before, strict=True):
            mask = support.update_mask(tf.ones(planned.grid.shape), score, sparsity)
            pruned = blocks.scale_blocks(tf.constant(value), mask, planned.grid)
            planned.kernel.variable.assign(pruned)
        yield
    finally:
        for planned, value in zip(group, before, strict=True):
            planned.kernel.variable.assign(value)


def _scores(planned: PlannedKernel, importance: Importance) -> tf.Tensor:
    logits = None
    if importance.initial_logit is not None:
        logits = tf.fill(planned.grid.shape, importance.initial_logit)
    kernel = stored(planned.kernel.variable)
    return importance.scores(kernel, logits, planned.grid)


def _check_sparsities(sparsities: Sequence[float]) -> tuple[float, ...]:
    values = tuple(sorted(float(sparsity) for sparsity in sparsities))
    if not values or not all(0.0 <= value < 1.0 for value in values):
        raise ValueError(
            "`sparsities` must be shares of blocks to remove in [0, 1), such as "
            f"(0.5, 0.9). Received: sparsities={sparsities!r}"
        )
    return values


def _evaluation(
    model: Model, data: Any, evaluate: Evaluate | None
) -> Callable[[], dict[str, float]]:
    """Returns a function that measures the model as it is at the moment."""
    if evaluate is not None:

        def given() -> dict[str, float]:
            found = evaluate(model)
            found = found if isinstance(found, Mapping) else {"result": found}
            return {name: float(value) for name, value in found.items()}

        return given
    if compilation_of(model) is None:
        raise ValueError(
            f"`model` {model.name!r} has no loss: call `model.compile(optimizer, loss, "
            "metrics=...)` first, or pass `evaluate`, a function of the model that "
            "returns a number or a dictionary of them."
        )
    if isinstance(data, Iterator):
        raise ValueError(
            "`data` is read again for every layer and sparsity, but an iterator can "
            "be read only once. Pass a tf.data.Dataset, a pair of arrays (x, y) or a "
            f"keras.utils.Sequence. Received: data of type {type(data).__name__}"
        )
    arguments = data if isinstance(data, tuple) else (data,)
    return lambda: model.evaluate(*arguments, verbose=0, return_dict=True)


def sensitivity(
    model: Model,
    data: Any = None,
    sparsities: Sequence[float] = (0.5, 0.7, 0.8, 0.9, 0.95),
    block_size: BlockSize = (16, 16),
    importance: Importance | None = None,
    pruning_policy: PruningPolicy | None = None,
    evaluate: Evaluate | None = None,
    verbose: int = 1,
) -> Sensitivity:
    """Measures how sensitive a trained model is to pruning each layer alone.

    Each layer that `sa.prune` would prune is pruned in one shot to every sparsity. The
    model is evaluated, and the layer restored. Only the kernels of one layer at a time
    are copied, never the model. It is restored after an error too. Layers with the same
    name are pruned together, like one entry of `sa.prune(..., sparsity=...)`.

    Args:
      model: a trained model, built and compiled, without pruning.
      data: what `model.evaluate` takes: a `tf.data.Dataset` or a pair of arrays (x, y).
        A part of the validation data is enough.
      sparsities: shares of the blocks of a layer to remove, each in [0, 1).
      block_size: (rows, columns) of a block.
      importance: what ranks the blocks; `Magnitude()` by default.
      pruning_policy: which layers to prune; by default as in `sa.prune`.
      evaluate: a function of the model that returns a number or a dictionary of
        numbers, in place of the compiled loss and metrics.
      verbose: 0 shows no progress.

    Returns:
      A `Sensitivity`: `print` it for a table, `plot()` it for curves.

    Raises:
      ValueError: if the model is not compiled (without `evaluate`), is not built, has
        nothing to prune or is pruned already, or if a sparsity is out of range.

    Example:

    >>> model = keras.Sequential([keras.layers.Dense(64, input_shape=(64,), name="d")])
    >>> model.compile(loss="mse")
    >>> x = tf.random.normal((32, 64))
    >>> found = sensitivity(model, (x, model(x)), (0.5, 0.9), (4, 4), verbose=0)
    >>> found.dense["loss"] < found.layers["d"][0]["loss"]
    True
    """
    check_layer(model, "model")
    values = _check_sparsities(sparsities)
    importance = importance or Magnitude()
    found = kernels_by_layer(model, block_size, pruning_policy)
    metrics = _evaluation(model, data, evaluate)
    progress = keras2.utils.Progbar(
        len(found) * len(values), verbose=verbose, unit_name="evaluation"
    )
    dense = metrics()
    layers: dict[str, list[dict[str, float]]] = {}
    for name, group in found.items():
        scores = [_scores(planned, importance) for planned in group]
        layers[name] = []
        for sparsity in values:
            with _pruned(group, scores, sparsity):
                layers[name].append(metrics())
            progress.add(1)
    num_blocks = {n: sum(p.grid.num_blocks for p in g) for n, g in found.items()}
    return Sensitivity(dense, values, layers, num_blocks)
