"""Removed channels beside Torch-Pruning: what goes, and how long it takes to find out.

Two small networks are built in Keras and in PyTorch with the same weights: one of
residuals, one of inverted residuals with squeeze-and-excite and a concatenation. Both
libraries find the coupled channels, rank them by their L2 norm, and remove half of
each group. Times are medians of repeated analyses, in turns in one process.

    pip install 'tf-seqattn[torch-pruning]'
    python -m benchmarks.torch_pruning
"""

import argparse
import pathlib
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import tensorflow as tf
import tf_keras as keras
import torch
import torch_pruning as tp
from torch import nn

import tf_seqattn as sa
from tf_seqattn.experiments.markdown_table import markdown_table
from tf_seqattn.files import write_json, write_whole

RESULTS = pathlib.Path(__file__).parent / "results"
SIZE, CLASSES, SHARE, REPEATS = 32, 10, 0.5, 5
layers = keras.layers


def residual_of_keras() -> keras.Model:
    """Two stages of residual blocks."""

    def convolution(x, filters: int, stride: int, name: str):
        # "same" of Keras pads one side alone at a stride of 2.
        x = layers.ZeroPadding2D(1)(x)
        x = layers.Conv2D(filters, 3, stride, use_bias=False, name=name)(x)
        return layers.BatchNormalization(name=f"{name}_bn")(x)

    x = inputs = keras.Input((SIZE, SIZE, 3))
    x = layers.ReLU()(convolution(x, 32, 1, "stem"))
    for number, (filters, stride) in enumerate(((32, 1), (64, 2), (128, 2))):
        short = x
        if filters != x.shape[-1]:
            short = convolution(x, filters, stride, f"short_{number}")
        y = layers.ReLU()(convolution(x, filters, stride, f"first_{number}"))
        y = convolution(y, filters, 1, f"second_{number}")
        x = layers.ReLU()(layers.Add()([short, y]))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(CLASSES, name="logits")(x))


def _convolution(rows: int, columns: int, size: int, stride: int, groups: int = 1):
    return nn.Conv2d(rows, columns, size, stride, size // 2, groups=groups, bias=False)


class Residual(nn.Module):
    """The same network; modules have the names of the layers of Keras."""

    def __init__(self):
        super().__init__()
        width = 32
        self.stem, self.stem_bn = _convolution(3, 32, 3, 1), nn.BatchNorm2d(32)
        for number, (filters, stride) in enumerate(((32, 1), (64, 2), (128, 2))):
            parts = [
                (f"first_{number}", width, stride),
                (f"second_{number}", filters, 1),
            ]
            if filters != width:
                parts.append((f"short_{number}", width, stride))
            for name, rows, step in parts:
                setattr(self, name, _convolution(rows, filters, 3, step))
                setattr(self, f"{name}_bn", nn.BatchNorm2d(filters))
            width = filters
        self.logits = nn.Linear(width, CLASSES)

    def _block(self, name: str, x):
        return getattr(self, f"{name}_bn")(getattr(self, name)(x))

    def forward(self, x):
        x = torch.relu(self._block("stem", x))
        for number in range(3):
            name = f"short_{number}"
            short = self._block(name, x) if hasattr(self, name) else x
            y = torch.relu(self._block(f"first_{number}", x))
            x = torch.relu(short + self._block(f"second_{number}", y))
        return self.logits(x.mean((2, 3)))


def inverted_of_keras() -> keras.Model:
    """Inverted residuals with squeeze-and-excite, then a concatenation."""

    def point(x, filters: int, name: str):
        x = layers.Conv2D(filters, 1, use_bias=False, name=name)(x)
        return layers.BatchNormalization(name=f"{name}_bn")(x)

    x = inputs = keras.Input((SIZE, SIZE, 3))
    x = layers.ReLU()(point(x, 32, "stem"))
    for number in range(2):
        y = layers.ReLU()(point(x, 96, f"wide_{number}"))
        y = layers.DepthwiseConv2D(
            3, padding="same", use_bias=False, name=f"depthwise_{number}"
        )(y)
        y = layers.ReLU()(layers.BatchNormalization(name=f"depthwise_{number}_bn")(y))
        s = layers.GlobalAveragePooling2D(keepdims=True)(y)
        s = layers.Conv2D(24, 1, activation="relu", name=f"squeeze_{number}")(s)
        s = layers.Conv2D(96, 1, activation="sigmoid", name=f"excite_{number}")(s)
        y = layers.Multiply()([y, s])
        x = layers.Add()([x, point(y, 32, f"narrow_{number}")])
    sides = [layers.ReLU()(point(x, 48, name)) for name in ("left", "right")]
    x = layers.GlobalAveragePooling2D()(layers.Concatenate()(sides))
    return keras.Model(inputs, layers.Dense(CLASSES, name="logits")(x))


class Inverted(nn.Module):
    """The same network; modules have the names of the layers of Keras."""

    def __init__(self):
        super().__init__()

        def add(name: str, module, filters: int) -> None:
            setattr(self, name, module)
            setattr(self, f"{name}_bn", nn.BatchNorm2d(filters))

        add("stem", _convolution(3, 32, 1, 1), 32)
        for number in range(2):
            add(f"wide_{number}", _convolution(32, 96, 1, 1), 96)
            add(f"depthwise_{number}", _convolution(96, 96, 3, 1, 96), 96)
            setattr(self, f"squeeze_{number}", nn.Conv2d(96, 24, 1))
            setattr(self, f"excite_{number}", nn.Conv2d(24, 96, 1))
            add(f"narrow_{number}", _convolution(96, 32, 1, 1), 32)
        for name in ("left", "right"):
            add(name, _convolution(32, 48, 1, 1), 48)
        self.logits = nn.Linear(96, CLASSES)

    def _block(self, name: str, x):
        return getattr(self, f"{name}_bn")(getattr(self, name)(x))

    def forward(self, x):
        x = torch.relu(self._block("stem", x))
        for number in range(2):
            y = torch.relu(self._block(f"wide_{number}", x))
            y = torch.relu(self._block(f"depthwise_{number}", y))
            s = y.mean((2, 3), keepdim=True)
            s = torch.relu(getattr(self, f"squeeze_{number}")(s))
            y = y * torch.sigmoid(getattr(self, f"excite_{number}")(s))
            x = x + self._block(f"narrow_{number}", y)
        sides = [torch.relu(self._block(name, x)) for name in ("left", "right")]
        return self.logits(torch.cat(sides, 1).mean((2, 3)))


NETWORKS: dict[str, tuple[Callable, Callable]] = {
    "residuals": (residual_of_keras, Residual),
    "inverted residuals, squeeze-and-excite": (inverted_of_keras, Inverted),
}


def copy_weights(model: keras.Model, module: nn.Module) -> None:
    """Gives a module the weights of the Keras model."""
    for layer in model.layers:
        if not layer.weights:
            continue
        part, values = getattr(module, layer.name), layer.get_weights()
        if isinstance(layer, layers.BatchNormalization):
            # Each library has an epsilon of its own.
            part.eps = layer.epsilon
            names = ("weight", "bias", "running_mean", "running_var")
        elif isinstance(layer, layers.Dense):
            names, values[0] = ("weight", "bias"), values[0].T
        elif isinstance(layer, layers.DepthwiseConv2D):
            names, values[0] = ("weight", "bias"), values[0].transpose(2, 3, 0, 1)
        else:
            names, values[0] = ("weight", "bias"), values[0].transpose(3, 2, 0, 1)
        for name, value in zip(names, values, strict=False):
            getattr(part, name).data.copy_(torch.tensor(value))


class Found(NamedTuple):
    """What a library made of a network."""

    analysis: float
    removal: float
    parameters: int
    multiply_adds: int
    kept: dict[str, list[int]]


def with_ours(model: keras.Model) -> Found:
    """Half of each group by our library."""
    started = time.perf_counter()
    sa.channel_groups(model)
    analysis = time.perf_counter() - started
    started = time.perf_counter()
    pruned = sa.prune(
        model,
        sa.OneShotSchedule(SHARE, prune_step=0),
        block_size="channels",
        importance=sa.Magnitude(),
        round_to=1,
    )
    small = sa.shrink(sa.strip_pruning(pruned))
    removal = time.perf_counter() - started
    return Found(
        analysis,
        removal,
        sum(int(np.prod(w.shape)) for w in small.trainable_weights),
        sa.channel_groups(small).multiply_adds,
        _kept_of_keras(model, small),
    )


def _kept_of_keras(model: keras.Model, small: keras.Model) -> dict[str, list[int]]:
    """Which channels of each batch norm are left, told by a mark in its mean."""
    kept = {}
    for layer in small.layers:
        if isinstance(layer, layers.BatchNormalization):
            whole = model.get_layer(layer.name).moving_mean.numpy()
            left = layer.moving_mean.numpy()
            kept[layer.name] = np.flatnonzero(np.isin(whole, left)).tolist()
    return kept


def with_theirs(module: nn.Module) -> Found:
    """Half of each group by Torch-Pruning."""
    example = torch.zeros(1, 3, SIZE, SIZE)
    whole = {
        name: part.running_mean.clone()
        for name, part in module.named_modules()
        if isinstance(part, nn.BatchNorm2d)
    }
    started = time.perf_counter()
    graph = tp.DependencyGraph().build_dependency(module, example_inputs=example)
    list(graph.get_all_groups(ignored_layers=[module.logits]))
    analysis = time.perf_counter() - started
    started = time.perf_counter()
    pruner = tp.pruner.MagnitudePruner(
        module,
        example,
        importance=tp.importance.MagnitudeImportance(p=2),
        pruning_ratio=SHARE,
        ignored_layers=[module.logits],
    )
    pruner.step()
    removal = time.perf_counter() - started
    macs, parameters = tp.utils.count_ops_and_params(module, example)
    parts = dict(module.named_modules())
    kept = {
        name: np.flatnonzero(
            np.isin(mean.numpy(), parts[name].running_mean.numpy())
        ).tolist()
        for name, mean in whole.items()
    }
    return Found(analysis, removal, int(parameters), int(macs), kept)


def agreement(one: Found, other: Found) -> float:
    """Share of the channels kept by one that the other keeps, too."""
    same = sum(len({*one.kept[n]} & {*other.kept[n]}) for n in one.kept)
    return same / sum(map(len, one.kept.values()))


def measure(name: str) -> dict:
    """Both libraries on one network, several times in turns."""
    make_keras, make_torch = NETWORKS[name]
    found: dict[str, list[Found]] = {"ours": [], "Torch-Pruning": []}
    for seed in range(REPEATS):
        keras.utils.set_random_seed(seed)
        model, module = make_keras(), make_torch().eval()
        random = np.random.default_rng(seed)
        for layer in model.layers:
            if isinstance(layer, layers.BatchNormalization):
                # Distinct, so that they tell which channels are left.
                layer.moving_mean.assign(random.normal(size=layer.moving_mean.shape))
        copy_weights(model, module)
        images = random.normal(size=(2, SIZE, SIZE, 3)).astype("float32")
        theirs = module(torch.tensor(images.transpose(0, 3, 1, 2))).detach().numpy()
        np.testing.assert_allclose(model(images), theirs, atol=1e-3)
        whole = sa.channel_groups(model).multiply_adds
        found["ours"].append(with_ours(model))
        found["Torch-Pruning"].append(with_theirs(module))
    pairs = zip(found["ours"], found["Torch-Pruning"], strict=True)
    return {
        "network": name,
        "multiply_adds": whole,
        "agreement": [agreement(*pair) for pair in pairs],
        **{library: [f._asdict() for f in few] for library, few in found.items()},
    }


def report(results: list[dict]) -> str:
    """A row for each network and library."""
    rows = []
    for result in results:
        for library in ("ours", "Torch-Pruning"):
            few = result[library]

            def median(key: str, few=few) -> float:
                return float(np.median([f[key] for f in few]))

            def milliseconds(key: str, few=few) -> str:
                low, middle, high = np.quantile([f[key] for f in few], [0, 0.5, 1])
                return f"{1e3 * middle:.0f} ({1e3 * low:.0f} to {1e3 * high:.0f})"

            rows.append(
                [
                    result["network"],
                    library,
                    milliseconds("analysis"),
                    milliseconds("removal"),
                    f"{median('parameters'):,.0f}",
                    f"{median('multiply_adds') / result['multiply_adds']:.1%}",
                    f"{np.mean(result['agreement']):.0%}"
                    if library == "ours"
                    else None,
                ]
            )
    titles = ["network", "library", "analysis, ms", "ranking and removal, ms"]
    titles += ["parameters left", "MACs left", "same channels"]
    return markdown_table(titles, rows)


def main() -> None:
    """Measures and writes the table."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    tf.get_logger().setLevel("ERROR")
    results = [measure(name) for name in NETWORKS]
    text = (
        "# Removed channels beside Torch-Pruning\n\n"
        f"`python -m benchmarks.torch_pruning`: Torch-Pruning {tp.__version__}, half "
        f"of each group by L2 norm, medians (least to most) of {REPEATS} random "
        "networks with the same weights in both libraries. Same channels: share of "
        "ours that it keeps, too; half would be chance. It averages the norms of "
        "the slices of a group, and we sum their squares.\n\n" + report(results)
    )
    write_whole(RESULTS / "torch_pruning.md", text)
    write_json(RESULTS / "torch_pruning.json", results)
    print(text)


if __name__ == "__main__":
    main()
