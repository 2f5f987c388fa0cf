"""Joins conversions: days, or the parts of a log that several machines converted.

python -m tf_seqattn.criteo.combining --parts day_0 day_1 day_2 --output week

Each day, or each part of a log (`conversion --part 3/8`), is converted into a folder of
its own, on any machine. Joining them copies no rows: the shards become hard links,
unless the folders are on different disks. A window of the last seven days is made by
naming seven folders, and counts the vocabulary anew: values that are no longer seen
leave it, and new ones enter.
"""

import argparse
import dataclasses
import logging
import os
import pathlib
import shutil
from collections.abc import Sequence
from typing import Literal

import tensorflow as tf

from tf_seqattn.criteo.conversion import print_rows, write_manifest
from tf_seqattn.criteo.log.encoding import Encoding
from tf_seqattn.criteo.log.folder import locked, open_folder
from tf_seqattn.criteo.log.manifest import MANIFEST_FILE, SPLITS, Manifest
from tf_seqattn.criteo.log.paths import local_path
from tf_seqattn.criteo.log.shards import Shard, sha256_of
from tf_seqattn.criteo.log.units import cut_shards
from tf_seqattn.experiments import command_line
from tf_seqattn.experiments.progress import progress_bar

_MODULE = "tf_seqattn.criteo.combining"


def combine(
    parts: Sequence[str | os.PathLike],
    folder: str | os.PathLike,
    *,
    validation_parts: int = 0,
    validation_fraction: float = 0.0,
    min_count: int | None = None,
    overwrite: bool | Literal["other"] = False,
    progress: bool = True,
) -> Manifest:
    """Joins folders of converted rows into one.

    What a part held out is held out no longer, unless its rows were drawn by chance:
    the last rows of all are.

    Args:
      parts: the folders, in the order of time.
      folder: for the result, on the same disk for hard links.
      validation_parts: number of last parts that are held out as a whole.
      validation_fraction: share of the last rows that is held out, in place of parts.
      min_count: as in `Encoding`, over the training rows of all parts; by default what
        the parts were converted with.
      overwrite: as in `conversion.convert`.
      progress: whether to show a progress bar.

    Returns:
      The `Manifest`. It takes no new rows; the parts stay as they are.

    Raises:
      ValueError: for a bad argument, parts of different encodings, a part named twice,
        a mixture of parts split by time and by chance, or a folder of anything else.
      FileNotFoundError: for a part that is not there, or not finished.

    Example:

    >>> days = [f"converted/day_{day}" for day in range(17, 24)]
    >>> combine(days, "converted/week", validation_parts=1)  # doctest: +SKIP
    """
    manifests = [Manifest.load(part) for part in parts]
    _check(manifests, validation_parts, validation_fraction)
    encoding = manifests[0].encoding
    if min_count is not None:
        encoding = dataclasses.replace(encoding, min_count=min_count)
    request = {
        "version": 1,
        "parts": [str(m.folder.resolve()) for m in manifests],
        "sha256": [sha256_of(m.folder / MANIFEST_FILE) for m in manifests],
        "encoding": encoding.to_json(),
        "validation_parts": validation_parts,
        "validation_fraction": validation_fraction,
    }
    folder = local_path("folder", folder)
    with locked(folder):
        open_folder(folder, request, overwrite)
        if not (folder / MANIFEST_FILE).exists():
            _combine(manifests, folder, request, progress)
        shutil.rmtree(folder / "units")
    return Manifest.load(folder)


def _check(manifests: list[Manifest], held_out: int, fraction: float) -> None:
    if not manifests:
        raise ValueError("`parts` must name at least one folder. Received: parts=[]")
    if not 0 <= held_out < len(manifests):
        raise ValueError(
            "`validation_parts` must leave parts for training. Received: "
            f"validation_parts={held_out!r} of {len(manifests)} parts"
        )
    if not 0 <= fraction < 1 or (fraction and held_out):
        raise ValueError(
            "`validation_fraction` must be from 0 to 1, and 0 where `validation_parts` "
            f"are held out. Received: validation_fraction={fraction!r}, "
            f"validation_parts={held_out!r}"
        )
    first = manifests[0]
    for other in manifests[1:]:
        mine, theirs = (dataclasses.replace(m.encoding, min_count=0)
                        for m in (first, other))  # fmt: skip
        if mine != theirs:
            raise ValueError(
                "`parts` must have one encoding. Received: "
                f"{first.folder} with {mine}, {other.folder} with {theirs}"
            )
    folders = [m.folder.resolve() for m in manifests]
    twice = next((f for i, f in enumerate(folders) if f in folders[:i]), None)
    if twice is not None:
        raise ValueError(f"`parts` must name each folder once. Received: {twice} twice")
    orders = {m.request.get("order", "time") for m in manifests}
    if orders == {"time", "random"}:
        raise ValueError(
            "`parts` must all be split by time, or all by chance (`--order random`)."
        )
    if orders == {"random"} and (held_out or fraction):
        raise ValueError(
            "`validation_parts` and `validation_fraction` hold out the last rows, and "
            "the rows of these parts were drawn by chance: leave both at 0."
        )


def _combine(
    manifests: list[Manifest], folder: pathlib.Path, request: dict, progress: bool
) -> None:
    """Links the shards and writes the vocabulary and the manifest."""
    encoding = Encoding(**request["encoding"])
    by_chance = manifests[0].request.get("order") == "random"
    splits: dict[str, list[Shard]] = {name: [] for name in SPLITS}
    first_held_out = len(manifests) - request["validation_parts"]
    number = sum(len(shards) for m in manifests for shards in m.splits.values())
    with progress_bar(number, "shards", "Joining", progress) as bar:
        for index, manifest in enumerate(manifests):
            for name in SPLITS:
                there = "train" if index < first_held_out else "validation"
                for shard in manifest.shards(name):
                    linked = _link(manifest, shard, folder, index)
                    splits[name if by_chance else there].append(linked)
                    bar.update(1)
    rows = sum(shard.rows for shard in splits["train"])
    last = round(rows * request["validation_fraction"])
    if last:
        splits["train"], splits["validation"] = cut_shards(
            splits["train"], [rows - last, rows], folder, encoding
        )
    bad_rows = sum(m.bad_rows for m in manifests)
    quotes = [quote for m in manifests for quote in m.bad_row_quotes]
    write_manifest(folder, request, splits, bad_rows, quotes, progress)


def _link(manifest: Manifest, shard: Shard, folder: pathlib.Path, index: int) -> Shard:
    """A shard of a part under a name of its own; its content is not copied."""
    name = f"{index:04d}-{shard.name}"
    source, target = manifest.folder / "shards" / shard.name, folder / "shards" / name
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        # Another disk, one without hard links, or none.
        partial = target.with_suffix(".partial")
        tf.io.gfile.copy(str(source), str(partial), overwrite=True)
        partial.rename(target)
    return shard._replace(name=name)


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line, or the list `arguments` in place of it."""
    parser = command_line.make_parser(_MODULE, __doc__)
    add = parser.add_argument
    add("--parts", nargs="+", required=True, help="folders, in the order of time")
    add(
        "--output",
        type=command_line.output_folder,
        required=True,
        help="folder for the result",
    )
    add(
        "--validation-parts",
        type=command_line.non_negative_int,
        default=0,
        help="number of last parts that are held out",
    )
    add(
        "--validation-fraction",
        type=command_line.share,
        default=0.0,
        help="share of the last rows that is held out, in place of parts",
    )
    add(
        "--min-count",
        type=command_line.non_negative_int,
        help="values seen less often in training share a row; as converted by default",
    )
    add("--overwrite", action="store_true", help="throw away what is there")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> Manifest:
    """Joins, and prints what there is.

    Args:
      arguments: in place of the command line.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    options = parse_arguments(arguments)
    manifest = combine(
        options.parts,
        options.output,
        validation_parts=options.validation_parts,
        validation_fraction=options.validation_fraction,
        min_count=options.min_count,
        overwrite=options.overwrite,
    )
    print_rows(manifest)
    return manifest


if __name__ == "__main__":
    command_line.run(main)
