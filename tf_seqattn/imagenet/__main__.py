"""Trains ResNet50 by the paper's ImageNet recipe, pruned by blocks, and exports it.

python -m tf_seqattn.imagenet --data synthetic --epochs 2 --batch-size 32 --size 64
python -m tf_seqattn.imagenet --data tfds:imagenet2012 --strategy mirrored

A training that was broken off goes on after its last whole epoch when the same command
is given again; with other options that is an error. Every training has a folder of its
own below --output, and the table of all that are finished stands beside the paper's
table 1.
"""

import argparse
import json
import pathlib
import sys

import tf_keras as keras

import tf_seqattn as sa
from tf_seqattn.experiments.algorithms import ALGORITHMS
from tf_seqattn.experiments.resuming import unfinished_training
from tf_seqattn.experiments.strategies import STRATEGIES, make_strategy
from tf_seqattn.imagenet import report
from tf_seqattn.imagenet.data import batches, open_split
from tf_seqattn.imagenet.recipe import Recipe
from tf_seqattn.imagenet.training import train


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line, or the list `arguments` in place of it."""
    parser = argparse.ArgumentParser(
        prog="python -m tf_seqattn.imagenet",
        description=__doc__.splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add, recipe = parser.add_argument, Recipe()
    add("--data", default="synthetic", help="synthetic, tfds:NAME, or a folder")
    add("--output", type=pathlib.Path, default=pathlib.Path("out/imagenet"))
    add("--algorithm", default="seqattn", choices=ALGORITHMS)
    add("--sparsity", type=float, default=0.9, help="share of the blocks to remove")
    add("--block-size", type=int, default=16, help="rows and columns of a block")
    add("--epochs", type=int, default=recipe.epochs)
    add("--batch-size", type=int, default=recipe.batch_size, help="over all replicas")
    add("--peak-rate", type=float, default=recipe.peak_rate, help="for batches of 2048")
    add("--weight-decay", type=float, default=recipe.weight_decay)
    add("--label-smoothing", type=float, default=recipe.label_smoothing)
    add("--size", type=int, default=224, help="pixels of a side of an image")
    add("--images", type=int, default=512, help="synthetic images to train on")
    add("--classes", type=int, default=16, help="of synthetic images")
    add("--strategy", default="none", choices=STRATEGIES)
    add(
        "--precision",
        default="float32",
        choices=("float32", "mixed_bfloat16", "mixed_float16"),
    )
    add("--seed", type=int, default=0)
    return parser.parse_args(arguments)


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
    earlier = keras.mixed_precision.global_policy()
    keras.mixed_precision.set_global_policy(options.precision)
    try:
        with unfinished_training(folder, options, free=("output", "strategy")):
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
    finally:
        keras.mixed_precision.set_global_policy(earlier)
    result["command"] = " ".join(
        [
            "python -m tf_seqattn.imagenet",
            *(sys.argv[1:] if arguments is None else arguments),
        ]
    )
    model.save(folder / "model.keras")
    few = next(iter(batches(validation_split, 8, options.size, training=False)))[0]
    exported = sa.export_tflite(
        model,
        folder / "model.tflite",
        "dense" if options.algorithm == "dense" else "packed",
        representative_dataset=[few.numpy()],
        batch_size=1,
    )
    result["file_bytes"] = exported.num_bytes
    (folder / "result.json").write_text(json.dumps(result, indent=2) + "\n")
    text = report.table(report.load_results(options.output))
    (options.output / "table.md").write_text(text)
    print(f"\n{text}\nWritten to {options.output}.")
    return result


if __name__ == "__main__":
    main()
