"""Loss of residual networks whose channels are pruned, at equal multiply-adds.

Every training of a task has the same images, batches and learning rates. Pruned in
training, with the same schedule: by sequential attention, by the L2 norm of each unit
over all its slices, by the change of the loss to first order, by the scale of its batch
norm, and at random. Beside them stand the dense network and one with fewer
channels everywhere, trained from random weights: for the same steps, and for as many
multiply-adds as the dense one ("Rethinking the value of network pruning" calls these
Scratch-E and Scratch-B). Without training afterwards: the dense network pruned at once,
plain and after `sa.reconstruct` with data of the task, with data of another task, and
without data. The results of a task and seed are kept in a file, so an interrupted run
goes on where it stopped.

    pip install 'tf-seqattn[quality]'
    python -m benchmarks.structural_quality
"""

import argparse
import json
import pathlib
from typing import NamedTuple

import numpy as np
import tensorflow as tf
import tf_keras as keras

import tf_seqattn as sa
from benchmarks.quality_tasks.data import split
from tf_seqattn.digits.data import load_digits
from tf_seqattn.experiments.markdown_table import markdown_table
from tf_seqattn.experiments.mean_and_error import mean_and_error_text
from tf_seqattn.files import write_json, write_whole
from tf_seqattn.imagenet.synthetic import make_images
from tf_seqattn.keras_api import register

RESULTS = pathlib.Path(__file__).parent / "results"
KEPT_FLOPS = 0.1
ONE_SHOT_SHARES = (0.25, 0.5)
CALIBRATION_IMAGES = 256
OURS = "sequential attention"


class Task(NamedTuple):
    """Images and a budget: a side in pixels, channels, classes, steps, batch size."""

    size: int
    channels: int
    classes: int
    steps: int
    batch_size: int


TASKS = {
    "digits": Task(8, 1, 10, 400, 32),
    "handwriting": Task(28, 1, 10, 400, 32),
    "textures": Task(16, 3, 20, 300, 64),
}
# Whose images stand in for those of a task.
OTHER = {"digits": "textures", "handwriting": "digits", "textures": "digits"}


@register
class RandomUnits(sa.Importance):
    """Ranks units at random, always in the same way."""

    def scores(self, kernel, logits, grid):
        del kernel, logits
        return tf.random.stateless_uniform(grid.shape, seed=(1, grid.num_blocks))


METHODS = {
    OURS: None,
    "L2 norm": sa.Magnitude(),
    "Taylor": sa.Taylor(),
    "scale of batch norms": sa.NormalizationScale(),
    "random": RandomUnits(),
}


def load(name: str) -> tuple[np.ndarray, ...]:
    """Training images and labels, test images and labels; float32 in [0, 1]."""
    if name == "digits":
        return tuple(load_digits())
    task = TASKS[name]
    if name == "handwriting":
        images, labels, held_images, held_labels = split("digits")
        shape = (-1, task.size, task.size, 1)
        return images.reshape(shape), labels, held_images.reshape(shape), held_labels
    train = make_images("train", 0, 4000, task.size, task.classes, 2.5)
    test = make_images("validation", 0, 1000, task.size, task.classes, 2.5)
    return (
        (train[0] / 255.0).astype("float32"),
        train[1],
        (test[0] / 255.0).astype("float32"),
        test[1],
    )


def build(task: Task, width: float = 1.0) -> keras.Model:
    """A residual network of two stages."""
    layers = keras.layers

    def convolution(x, filters, stride=1):
        x = layers.Conv2D(
            max(1, round(filters * width)), 3, stride, padding="same", use_bias=False
        )(x)
        return layers.BatchNormalization(momentum=0.9)(x)

    x = inputs = keras.Input((task.size, task.size, task.channels))
    x = layers.ReLU()(convolution(x, 32))
    for filters, stride in ((32, 1), (64, 2)):
        short = convolution(x, filters, stride) if stride > 1 else x
        y = layers.ReLU()(convolution(x, filters, stride))
        x = layers.ReLU()(layers.Add()([short, convolution(y, filters)]))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(task.classes)(x))


def multiply_adds(model) -> int:
    """Of a whole model, for one image."""
    return sa.channel_groups(model).multiply_adds


def narrow(task: Task) -> keras.Model:
    """The widest network with as few multiply-adds as the pruned ones may have."""
    allowed = KEPT_FLOPS * multiply_adds(build(task))
    width = next(
        w for w in np.arange(1, 0, -0.01) if multiply_adds(build(task, w)) <= allowed
    )
    return build(task, width)


def train(model, task: Task, images, labels, seed: int) -> None:
    """Trains with Adam and a cosine decay of the learning rate."""
    keras.utils.set_random_seed(seed)
    rate = keras.optimizers.schedules.CosineDecay(3e-3, task.steps)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(rate), loss)
    data = tf.data.Dataset.from_tensor_slices((images, labels))
    data = data.shuffle(len(images), seed=seed).repeat().batch(task.batch_size)
    callbacks = [sa.UpdatePruningStep()] if sa.pruned_layers(model) else []
    model.fit(
        data.take(task.steps),
        steps_per_epoch=task.steps,
        callbacks=callbacks,
        verbose=0,
    )


def quality(model, images, labels) -> dict[str, float]:
    """Log loss (nats) of the labels, and the share of images that are told right."""
    logits = model.predict(images, verbose=0).astype("float64")
    logits -= logits.max(axis=1, keepdims=True)
    of_labels = logits[np.arange(len(labels)), labels]
    losses = np.log(np.exp(logits).sum(axis=1)) - of_labels
    right = logits.argmax(axis=1) == labels
    return {"loss": float(losses.mean()), "accuracy": float(right.mean())}


def run(name: str, seed: int, rows: list[dict]) -> list[dict]:
    """The rows of a task and a seed that are there, and those that are missing."""
    task = TASKS[name]
    images, labels, *test = load(name)
    rows = list(rows)
    there = {row["method"] for row in rows}
    work = multiply_adds(build(task))

    def add(method: str, share: float | None, model, dense: int) -> None:
        rows.append(
            {
                "task": name,
                "seed": seed,
                "method": method,
                "share": share,
                **quality(model, *test),
                "flops": multiply_adds(model) / dense,
            }
        )
        print(rows[-1], flush=True)

    if not there:
        keras.utils.set_random_seed(seed)
        dense = build(task)
        train(dense, task, images, labels, seed)
        add("dense", None, dense, work)
        for method, longer in (("narrow", 1.0), ("narrow, as long as dense", None)):
            keras.utils.set_random_seed(seed)
            small = narrow(task)
            longer = longer or work / multiply_adds(small)
            steps = round(task.steps * longer)
            train(small, task._replace(steps=steps), images, labels, seed)
            add(method, None, small, work)
        add_one_shot(add, dense, work, task, images, load(OTHER[name])[0])
    for method, importance in METHODS.items():
        if method in there:
            continue
        keras.utils.set_random_seed(seed)
        pruned = sa.prune(
            build(task),
            sa.SequentialAttentionSchedule(0.5, end_step=task.steps),
            block_size="channels",
            importance=importance,
            round_to=1,
            target_flops=KEPT_FLOPS,
        )
        train(pruned, task, images, labels, seed)
        add(method, None, sa.shrink(pruned), work)
    return rows


def add_one_shot(add, dense, work, task: Task, images, others) -> None:
    """The trained network pruned at once, without training afterwards."""
    calibration = [images[:CALIBRATION_IMAGES]]
    foreign = others[:CALIBRATION_IMAGES].mean(axis=-1, keepdims=True)
    foreign = tf.image.resize(foreign, (task.size, task.size)).numpy()
    foreign = np.repeat(foreign, task.channels, axis=-1)
    for share in ONE_SHOT_SHARES:
        pruned = sa.prune(
            dense,
            sa.OneShotSchedule(share, prune_step=0),
            block_size="channels",
            importance=sa.Magnitude(),
            round_to=1,
        )
        variants = {
            "removed": sa.strip_pruning(pruned),
            "reconstructed with data": sa.reconstruct(pruned, calibration),
            "reconstructed with other data": sa.reconstruct(pruned, [foreign]),
        }
        try:
            variants["reconstructed without data"] = sa.reconstruct(pruned)
        except ValueError as error:
            print(f"without data: {error}", flush=True)
        for method, model in variants.items():
            add(method, share, sa.shrink(model), work)


def table(rows: list[dict]) -> str:
    """Means over the seeds, and the loss less that of sequential attention."""
    found: dict = {}
    for row in sorted(rows, key=lambda r: r["seed"]):
        found.setdefault((row["task"], row["share"], row["method"]), []).append(row)
    cells = []
    for (task, share, method), same in found.items():
        losses = np.array([r["loss"] for r in same])
        more = losses - [r["loss"] for r in found[task, None, OURS]]
        cells.append(
            [
                task,
                method,
                "" if share is None else f"{share:.0%} at once",
                f"{np.mean([r['flops'] for r in same]):.1%}",
                f"{np.mean([r['accuracy'] for r in same]):.1%}",
                f"{losses.mean():.4f}",
                None if method == OURS else mean_and_error_text(more, signed=True),
            ]
        )
    titles = ["task", "method", "channels removed", "MACs", "accuracy", "loss"]
    return markdown_table([*titles, "loss less ours"], cells)


def main(arguments: list[str] | None = None) -> None:
    """Trains what is missing, writes the results and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--seeds", type=int, nargs="+", default=[0, 1, 2], help="two or more")
    add("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    folder = pathlib.Path("out/structural_quality")
    add("--output", type=pathlib.Path, default=folder, help="what is trained already")
    options = parser.parse_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    rows = []
    for seed in options.seeds:
        for name in options.tasks:
            file = options.output / f"{name}_{TASKS[name].steps}_{seed}.json"
            found = json.loads(file.read_text()) if file.exists() else []
            if not {*METHODS} <= {row["method"] for row in found}:
                found = run(name, seed, found)
                write_json(file, found)
            rows += found
    # In training first, then at once.
    rows.sort(key=lambda row: (options.tasks.index(row["task"]), row["share"] or 0))
    seeds = " ".join(map(str, options.seeds))
    text = (
        "# Channels removed, at equal multiply-adds\n\n"
        f"`python -m benchmarks.structural_quality --seeds {seeds}`: "
        f"{len(options.seeds)} seeds. Losses in nats; differences are taken seed by "
        "seed, with their standard error. `narrow` is trained for the same steps, "
        "`narrow, as long as dense` for as many multiply-adds as the dense network.\n\n"
        f"{table(rows)}"
    )
    write_whole(RESULTS / "structural_quality.md", text)
    write_json(RESULTS / "structural_quality.json", rows)
    print(text)


if __name__ == "__main__":
    main()
