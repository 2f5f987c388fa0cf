"""Trains ResNet50 by the paper's ImageNet recipe, pruned by blocks, and exports it.

python -m tf_seqattn.imagenet --data synthetic --epochs 2 --batch-size 32 --size 64
python -m tf_seqattn.imagenet --data tfds:imagenet2012 --strategy mirrored

A training that was interrupted goes on after its last whole epoch when the same command
is given again; with other options that is an error. Every training has a folder of its
own below --output, and the table of all that are finished stands beside the paper's
table 1.
"""

import argparse
import contextlib
import pathlib
from collections.abc import Iterator

import tf_keras as keras

import tf_seqattn as sa
from tf_seqattn.experiments import command_line
from tf_seqattn.experiments.algorithms import ALGORITHMS
from tf_seqattn.experiments.resuming import unfinished_training
from tf_seqattn.experiments.strategies import STRATEGIES, make_strategy
from tf_seqattn.files import write_json, write_whole
from tf_seqattn.imagenet import report
from tf_seqattn.imagenet.data import batches, open_split
from tf_seqattn.imagenet.recipe import Recipe
from tf_seqattn.imagenet.training import train

_MODULE = "tf_seqattn.imagenet"


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line, or the list `arguments` in place of it."""
    parser = command_line.make_parser(_MODULE, __doc__)
    add, recipe = parser.add_argument, Recipe()
    positive_int = command_line.positive_int
    add("--data", default="synthetic", help="synthetic, tfds:NAME, or a folder")
    add(
        "--output",
        type=command_line.output_folder,
        default=pathlib.Path("out/imagenet"),
        help="folder for the models, the backups and the table",
    )
    add("--algorithm", default="seqattn", choices=ALGORITHMS, help="how to prune")
    add(
        "--sparsity",
        type=command_line.share,
        default=0.9,
        help="share of the blocks to remove",
    )
    add(
        "--block-size",
        type=positive_int,
        default=16,
        help="rows and columns of a block",
    )
    add("--epochs", type=positive_int, default=recipe.epochs, help="passes")
    add(
        "--batch-size",
        type=positive_int,
        default=recipe.batch_size,
        help="images of a step, over all replicas",
    )
    add(
        "--peak-rate",
        type=command_line.positive_number,
        default=recipe.peak_rate,
        help="largest learning rate, for batches of 2048",
    )
    add(
        "--weight-decay",
        type=command_line.non_negative_number,
        default=recipe.weight_decay,
        help="L2 penalty on kernels and logits",
    )
    add(
        "--label-smoothing",
        type=command_line.share,
        default=recipe.label_smoothing,
        help="share of a label that is spread over all classes",
    )
    add("--size", type=positive_int, default=224, help="pixels of a side of an image")
    add("--images", type=positive_int, default=512, help="synthetic ones to train on")
    add(
        "--classes",
        type=command_line.integer(2),
        default=16,
        help="of synthetic images",
    )
    add("--strategy", default="none", choices=STRATEGIES, help="of tf.distribute")
    add(
        "--precision",
        default="float32",
        choices=("float32", "mixed_bfloat16", "mixed_float16"),
        help="of the computation; weights are float32",
    )
    add(
        "--seed",
        type=command_line.seed,
        default=0,
        help="of the weights and the order of the images",
    )
    options = parser.parse_args(arguments)
    synthetic = options.data == "synthetic"
    if synthetic and options.batch_size > options.images:
        parser.error(
            f"--batch-size must be at most --images, {options.images}. Received: "
            f"{options.batch_size}"
        )
    if not synthetic and not options.data.startswith("tfds:"):
        if not pathlib.Path(options.data).is_dir():
            parser.error(
                "--data must be 'synthetic', 'tfds:NAME', or a folder. Received: "
                f"{options.data}"
            )
    return options


@contextlib.contextmanager
def _global_policy(name: str) -> Iterator[None]:
    earlier = keras.mixed_precision.global_policy()
    keras.mixed_precision.set_global_policy(name)
    try:
        yield
    finally:
        keras.mixed_precision.set_global_policy(earlier)


def main(arguments: list[str] | None = None) -> dict:
    """Trains, evaluates, exports and prints the table.

    Args:
      arguments: in place of the command line.

    Returns:
      What `training.train` measured.
    """
    options = parse_arguments(arguments)
    recipe = Recipe(
        epochs=options.epochs,
        batch_size=options.batch_size,
        peak_rate=options.peak_rate,
        weight_decay=options.weight_decay,
        label_smoothing=options.label_smoothing,
    )
    name = f"{options.algorithm}_{options.seed}"
    if options.algorithm != "dense":
        name = f"{options.algorithm}_{options.sparsity:g}_b{options.block_size}"
        name += f"_{options.seed}"
    folder = options.output / name
    folder.mkdir(parents=True, exist_ok=True)
    train_split, validation_split = (
        open_split(options.data, split, options.images, options.size, options.classes)
        for split in ("train", "validation")
    )
    with unfinished_training(folder, options, free=("output", "strategy")):
        with _global_policy(options.precision):
            model, result = train(
                make_strategy(options.strategy),
                train_split,
                validation_split,
                recipe,
                options.algorithm,
                options.sparsity,
                options.block_size,
                options.size,
                options.seed,
                folder,
            )
        result["command"] = command_line.command_text(_MODULE, arguments)
        model.save(folder / "model.keras")
        images = batches(validation_split, 8, options.size, training=False)
        exported = sa.export_tflite(
            model,
            folder / "model.tflite",
            "dense" if options.algorithm == "dense" else "packed",
            representative_dataset=[next(iter(images))[0].numpy()],
            batch_size=1,
        )
        result["file_bytes"] = exported.num_bytes
        write_json(folder / "result.json", result)
    text = report.table(report.load_results(options.output))
    write_whole(options.output / "table.md", text)
    print(f"\n{text}\nWritten to {options.output}.")
    return result


if __name__ == "__main__":
    command_line.run(main)
