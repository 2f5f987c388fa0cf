"""Trains the digit network dense and pruned, and compares them as TFLite files.

python -m tf_seqattn.digits --output out/digits
"""

import argparse
import pathlib

import tf_seqattn as sa
from tf_seqattn.digits import pictures, report
from tf_seqattn.digits.data import load_digits
from tf_seqattn.digits.model import build_model
from tf_seqattn.digits.training import train_dense, train_pruned
from tf_seqattn.experiments import command_line
from tf_seqattn.files import write_whole

_MODULE = "tf_seqattn.digits"
_PRUNED = "SequentialAttention++"
# Name of the row, which model, its file, layout and quantization.
_FILES = (
    ("dense", "dense", "dense.tflite", "dense", None),
    ("dense, int8", "dense", "dense_int8.tflite", "dense", "int8"),
    (_PRUNED, _PRUNED, "pruned.tflite", "packed", None),
    (f"{_PRUNED}, int8", _PRUNED, "pruned_int8.tflite", "packed", "int8"),
)


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line, or the list `arguments` in place of it."""
    parser = command_line.make_parser(_MODULE, __doc__)
    parser.add_argument(
        "--output",
        type=command_line.output_folder,
        default=pathlib.Path("out/digits"),
        help="folder for the table, the pictures and the models",
    )
    parser.add_argument(
        "--sparsity",
        type=command_line.share,
        default=0.8,
        help="share of the blocks to remove",
    )
    parser.add_argument(
        "--block-size",
        type=command_line.positive_int,
        nargs=2,
        default=(8, 8),
        metavar=("ROWS", "COLUMNS"),
        help="inputs and outputs of a block",
    )
    parser.add_argument(
        "--epochs",
        type=command_line.positive_int,
        default=40,
        help="of each of the two trainings",
    )
    parser.add_argument(
        "--seed", type=command_line.seed, default=0, help="of weights and split"
    )
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> list[report.Row]:
    """Runs the comparison, writes its files and prints its table.

    Args:
      arguments: in place of the command line.

    Returns:
      The rows of the table: dense, then pruned and packed in each precision.
    """
    options = parse_arguments(arguments)
    block_size = tuple(options.block_size)
    digits = load_digits(options.seed)
    runs = {
        "dense": train_dense(build_model(options.seed), digits, options.epochs),
        _PRUNED: train_pruned(
            build_model(options.seed),
            digits,
            options.epochs,
            options.sparsity,
            block_size,
        ),
    }
    options.output.mkdir(parents=True, exist_ok=True)
    rows = []
    for name, run, file_name, layout, quantization in _FILES:
        path = options.output / file_name
        model = runs[run].model
        # Packed for its size: kernels as small as these are no faster for it.
        sa.export_tflite(
            model,
            path,
            layout,
            quantization,
            representative_dataset=[digits.train_images[:200]],
            choose="always",
        )
        file = path.read_bytes()
        rows.append(report.evaluate(name, model, file, digits, block_size))
    masks = report.block_masks(runs[_PRUNED].model, block_size)
    if masks:
        pictures.save_masks(masks, options.output / "masks.png")
    pictures.save_curves(runs, options.output / "curves.png")
    text = report.table(rows)
    write_whole(options.output / "table.md", text)
    print(text)
    print(f"Written to {options.output}")
    return rows


if __name__ == "__main__":
    command_line.run(main)
