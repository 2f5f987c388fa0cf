"""Converts click logs once to a binary form that training reads without waiting.

python -m tf_seqattn.criteo.conversion --data "day_*.gz" --output converted

The input is cut into units: 64 MB of lines of a plain file, or a whole compressed one.
Units are parsed in parallel, each in blocks, so memory does not grow with the input. A
unit is written down when it is done: a conversion that was killed goes on with the
units that are missing. The manifest comes last; it says what was converted, how, into
which files, with how many rows and which checksums, and how many lines were bad.
"""

import argparse
import logging
import os
import pathlib
import shutil
from collections.abc import Sequence
from typing import Literal

from tf_seqattn.criteo.log import bad_rows as bad_rows_module
from tf_seqattn.criteo.log.encoding import NUMERIC_ENCODINGS, Encoding
from tf_seqattn.criteo.log.folder import locked, open_folder
from tf_seqattn.criteo.log.inputs import find_files
from tf_seqattn.criteo.log.manifest import (
    MANIFEST_FILE,
    SPLITS,
    VOCABULARY_FILE,
    Manifest,
)
from tf_seqattn.criteo.log.paths import Path, local_path
from tf_seqattn.criteo.log.repair import repair_json_files, repair_rows
from tf_seqattn.criteo.log.shards import Shard, sha256_of
from tf_seqattn.criteo.log.units import (
    UNDECIDED,
    Done,
    Unit,
    all_quotes,
    convert_units,
    cut_files,
    decide_splits,
    too_many,
    units_of_part,
)
from tf_seqattn.criteo.log.vocabulary import build_vocabulary, count_values
from tf_seqattn.experiments import command_line
from tf_seqattn.experiments.progress import progress_bar
from tf_seqattn.files import write_json

logger = logging.getLogger("tf_seqattn")

ORDERS = ("time", "random")
_MODULE = "tf_seqattn.criteo.conversion"
_VERSION = 1


def _check(request: dict) -> None:
    """Raises a ValueError for options that make no sense together."""
    if request["order"] not in ORDERS:
        raise ValueError(
            f"`order` must be one of {', '.join(ORDERS)}. Received: "
            f"order={request['order']!r}"
        )
    fractions = [request["validation_fraction"], request["test_fraction"]]
    if min(fractions) < 0 or sum(fractions) >= 1:
        raise ValueError(
            "`validation_fraction` and `test_fraction` must not be negative and must "
            f"leave rows for training. Received: validation_fraction={fractions[0]!r}, "
            f"test_fraction={fractions[1]!r}"
        )
    for name, least in (("max_bad_rows", 0), ("max_rows", 1), ("seed", 0)):
        if request[name] is not None and request[name] < least:
            raise ValueError(
                f"`{name}` must be at least {least}. Received: {name}={request[name]!r}"
            )
    if "part" in request and (request["max_rows"] or request["validation_files"]):
        raise ValueError(
            "`part` goes without `max_rows` and `validation_paths`: give those files "
            "a conversion of their own. Received: "
            f"part={'/'.join(map(str, request['part']))}"
        )
    if request["max_rows"] is not None and request["order"] == "random":
        raise ValueError(
            "`max_rows` takes the first rows, so it goes with order='time'. Received: "
            f"max_rows={request['max_rows']!r}, order='random'"
        )


def _describe_files(files: list[Path]) -> list[dict]:
    return [
        {
            "path": str(file.resolve()),
            "num_bytes": file.stat().st_size,
            "changed_ns": file.stat().st_mtime_ns,
        }
        for file in files
    ]


def convert(
    paths: str | os.PathLike | Sequence,
    folder: str | os.PathLike,
    encoding: Encoding | None = None,
    *,
    order: str = "time",
    validation_fraction: float = 0.1,
    test_fraction: float = 0.0,
    validation_paths: str | os.PathLike | Sequence = (),
    max_rows: int | None = None,
    max_bad_rows: int = 100,
    seed: int = 0,
    workers: int | None = None,
    overwrite: bool | Literal["other"] = False,
    repair: bool = False,
    part: tuple[int, int] | None = None,
    progress: bool = True,
) -> Manifest:
    """Converts click logs, or goes on with a conversion that was interrupted.

    Args:
      paths: files in the order of time, plain or `.gz`, or patterns such as "day_*";
        on the local disk or wherever `tf.io.gfile` reads, such as "gs://bucket/day_*".
      folder: for the shards and the manifest, on the local disk.
      encoding: `Encoding()` by default.
      order: "time" holds out the last rows, "random" rows drawn by chance.
      validation_fraction: share of the rows of `paths` that is held out.
      test_fraction: share that is held out beside it; the last ones, in time.
      validation_paths: files that are for validation as a whole, such as the last day;
        `validation_fraction` must be 0 then.
      max_rows: number of first rows to convert; all by default.
      max_bad_rows: number of lines that cannot be read before that is an error.
      seed: of the random order.
      workers: units to convert at a time, as many as there are cores by default. Each
        takes a few hundred megabytes.
      overwrite: whether to throw away what is in `folder` and begin anew; "other" does
        so only for rows of another conversion, and takes those of the same one as they
        are.
      repair: whether to compare all files with their checksums, and to convert again
        what damaged and missing ones were made of.
      part: `(i, n)` converts the i-th of n equal parts, so that n machines share the
        work; `combining.combine` joins the folders. The held-out rows are those of the
        part; give `combine` the share for the whole.
      progress: whether to show a progress bar.

    Returns:
      The `Manifest`. With bad rows it comes with a warning that quotes the first.

    Raises:
      ValueError: for a bad argument, for a folder of another conversion or of anything
        else, while another process converts into it, for damaged files, and where no
        row is left to train on.
      TooManyBadRows: a ValueError that quotes the first with file and line.
      FileNotFoundError: for a file that is not there.

    Example:

    >>> manifest = convert("train.txt", "converted")  # doctest: +SKIP
    >>> manifest.rows("train")  # doctest: +SKIP
    41256555
    """
    folder = local_path("folder", folder)
    encoding = encoding or Encoding()
    files = find_files(paths)
    validation_files = find_files(validation_paths) if validation_paths else []
    if validation_files and validation_fraction:
        raise ValueError(
            "`validation_fraction` must be 0 where `validation_paths` are given. "
            f"Received: validation_fraction={validation_fraction!r}"
        )
    request = {
        "version": _VERSION,
        "files": _describe_files(files),
        "validation_files": _describe_files(validation_files),
        "encoding": encoding.to_json(),
        "order": order,
        "validation_fraction": validation_fraction,
        "test_fraction": test_fraction,
        "max_rows": max_rows,
        "max_bad_rows": max_bad_rows,
        "seed": seed,
    }
    if part is not None:
        request["part"] = list(part)
    _check(request)
    if overwrite and repair:
        raise ValueError(
            "`repair` keeps what `overwrite` throws away: give one of them. Received: "
            f"overwrite={overwrite!r}, repair={repair!r}"
        )
    with locked(folder):
        if repair:
            repair_json_files(folder, request)
        open_folder(folder, request, overwrite)
        units = cut_files(files, UNDECIDED)
        held_out = cut_files(validation_files, "validation", len(units))
        if part is not None:
            units = units_of_part(units, part)
        if not (folder / MANIFEST_FILE).exists():
            manifest = _convert(units, held_out, folder, request, workers, progress)
        elif repair:
            manifest = _repair([*units, *held_out], folder, progress)
        else:
            manifest = Manifest.load(folder)
        shutil.rmtree(folder / "units")
    if manifest.bad_rows > max_bad_rows:
        raise too_many(manifest.bad_rows, request, manifest.bad_row_quotes)
    if manifest.bad_rows:
        logger.warning(
            "%s",
            bad_rows_module.describe(
                manifest.bad_rows, max_bad_rows, manifest.bad_row_quotes
            ),
        )
    return manifest


def _convert(
    units: list[Unit],
    held_out: list[Unit],
    folder: pathlib.Path,
    request: dict,
    workers: int | None,
    progress: bool,
) -> Manifest:
    """Converts the units that are missing, and writes the manifest."""
    total = sum(unit.stop - unit.start for unit in (*units, *held_out))
    workers = workers or os.cpu_count() or 1
    with progress_bar(total, "B", "Converting", progress) as bar:
        finished = convert_units(
            units, folder, request, request["max_rows"], workers, bar
        )
        finished += convert_units(held_out, folder, request, None, workers, bar)
    return _finish(finished, folder, request, progress)


def _repair(units: list[Unit], folder: pathlib.Path, progress: bool) -> Manifest:
    """Redoes what is damaged of a finished conversion."""
    manifest = Manifest.read(folder)
    with progress_bar(0, "B", "Repairing", progress) as bar:
        repaired = repair_rows(manifest, units, bar)
    path = folder / VOCABULARY_FILE
    checksum = manifest.vocabulary_sha256
    if checksum is not None and not (path.exists() and sha256_of(path) == checksum):
        paths = manifest.paths("train")
        if _write_vocabulary(folder, manifest.encoding, paths, progress) != checksum:
            raise ValueError(f"{path} cannot be made again. Convert with --overwrite.")
        repaired.append(path)
    for path in repaired:
        logger.warning("%s was damaged, and was converted again.", path)
    return Manifest.load(folder)


def _write_vocabulary(
    folder: pathlib.Path,
    encoding: Encoding,
    shards: Sequence[Path],
    progress: bool,
) -> str:
    """Counts the values of training rows and writes which are frequent.

    Args:
      folder: of the conversion.
      encoding: of the rows.
      shards: of the training rows.
      progress: whether to show a progress bar.

    Returns:
      The checksum of the file.
    """
    path = folder / VOCABULARY_FILE
    with progress_bar(len(shards), "shards", "Counting", progress) as bar:
        counts = count_values(shards, encoding.num_numeric, encoding.table_sizes, bar)
    build_vocabulary(counts, encoding.min_count).save(path)
    return sha256_of(path)


def write_manifest(
    folder: pathlib.Path,
    request: dict,
    splits: dict[str, list[Shard]],
    bad_rows: int,
    quotes: list[str],
    progress: bool,
) -> None:
    """Writes the vocabulary of the training rows and then the manifest.

    Args:
      folder: of the conversion, with all shards in it.
      request: what was converted and how.
      splits: the shards of each split.
      bad_rows: number of lines that were left out.
      quotes: the first of them.
      progress: whether to show a progress bar.
    """
    encoding = Encoding(**request["encoding"])
    checksum = None
    if encoding.min_count:
        files = [folder / "shards" / shard.name for shard in splits["train"]]
        checksum = _write_vocabulary(folder, encoding, files, progress)
    content = {
        "splits": splits,
        "vocabulary_sha256": checksum,
        "bad_rows": bad_rows,
        "bad_row_quotes": quotes,
        "request": request,
    }
    # Written last: without it, there is no conversion.
    write_json(folder / MANIFEST_FILE, content)


def _finish(
    finished: list[tuple[Unit, Done]],
    folder: pathlib.Path,
    request: dict,
    progress: bool,
) -> Manifest:
    """Decides the splits, counts the vocabulary and writes the manifest."""
    splits = decide_splits(finished, folder, request)
    quotes = all_quotes(finished)
    if not splits["train"]:
        listed = "".join(f"\n  {text}" for text in quotes)
        raise ValueError(
            "There is no row that can be read to train on. Expected lines of 40 "
            "tab-separated columns: label, I1..I13, C1..C26 (the Kaggle train.txt)."
            f"{listed}"
        )
    bad_rows = sum(done.bad_rows for _, done in finished)
    write_manifest(folder, request, splits, bad_rows, quotes, progress)
    kept = {shard.name for shards in splits.values() for shard in shards}
    for path in (folder / "shards").iterdir():
        if path.name not in kept and path.suffix in (".tfrecord", ".partial"):
            path.unlink()
    return Manifest.load(folder)


def _part(text: str) -> tuple[int, int]:
    """Reads `i/n`."""
    try:
        number, total = map(int, text.split("/"))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"must be like 3/8, the third of eight parts; received {text!r}"
        ) from None
    return number, total


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line, or the list `arguments` in place of it."""
    parser = command_line.make_parser(_MODULE, __doc__)
    add = parser.add_argument
    add("--data", nargs="+", required=True, help="files or patterns, in order of time")
    add(
        "--output",
        type=command_line.output_folder,
        required=True,
        help="folder for the result",
    )
    add("--numeric", default="log1p", choices=NUMERIC_ENCODINGS, help="of the counts")
    add(
        "--table-size",
        type=command_line.positive_int,
        nargs="+",
        default=[2**20],
        help="categories are taken modulo of it: one number, or one for each of the 26",
    )
    add(
        "--min-count",
        type=command_line.non_negative_int,
        default=0,
        help="values seen less often in training share a row",
    )
    add("--order", default="time", choices=ORDERS, help="what is held out")
    add(
        "--validation-fraction",
        type=command_line.share,
        help="share held out: 0.1, or 0 with --validation-data",
    )
    add(
        "--test-fraction",
        type=command_line.share,
        default=0.0,
        help="share held out beside it",
    )
    add("--validation-data", nargs="+", default=[], help="files held out as a whole")
    add(
        "--max-rows",
        type=command_line.positive_int,
        help="number of first rows to convert",
    )
    add(
        "--max-bad-rows",
        type=command_line.non_negative_int,
        default=100,
        help="lines that cannot be read before that is an error",
    )
    add("--seed", type=command_line.seed, default=0, help="of the random order")
    add(
        "--workers",
        type=command_line.positive_int,
        help="parts converted at a time, by default all cores",
    )
    add("--part", type=_part, help="i/n converts the i-th of n parts; see combining")
    add("--overwrite", action="store_true", help="throw away what is there")
    add("--repair", action="store_true", help="convert again what is damaged")
    add("--verify", action="store_true", help="compare all files with their checksums")
    options = parser.parse_args(arguments)
    if options.validation_fraction is None:
        options.validation_fraction = 0.0 if options.validation_data else 0.1
    with command_line.checking(parser):
        check_options(options)
    return options


def check_options(options: argparse.Namespace) -> None:
    """Checks what goes together, before any work.

    Raises:
      ValueError: naming an option that does not go with the others.
      FileNotFoundError: for data that are not there.
    """
    Encoding(options.numeric, options.table_size, options.min_count)
    find_files(options.data)
    find_files(options.validation_data)
    if options.overwrite and options.repair:
        raise ValueError("--repair keeps what --overwrite throws away: give one.")
    if options.validation_data and options.validation_fraction:
        raise ValueError("--validation-fraction must be 0 with --validation-data.")
    if options.validation_fraction + options.test_fraction >= 1:
        raise ValueError(
            "--validation-fraction and --test-fraction must leave rows to train on."
        )
    if options.max_rows and options.order == "random":
        raise ValueError("--max-rows takes the first rows, so it needs --order time.")


def main(arguments: list[str] | None = None) -> Manifest:
    """Converts, and prints what there is.

    Args:
      arguments: in place of the command line.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    options = parse_arguments(arguments)
    manifest = convert(
        options.data,
        options.output,
        Encoding(options.numeric, options.table_size, options.min_count),
        order=options.order,
        validation_fraction=options.validation_fraction,
        test_fraction=options.test_fraction,
        validation_paths=options.validation_data,
        max_rows=options.max_rows,
        max_bad_rows=options.max_bad_rows,
        seed=options.seed,
        workers=options.workers,
        overwrite=options.overwrite,
        repair=options.repair,
        part=options.part,
    )
    if options.verify:
        manifest.verify()
    print_rows(manifest)
    return manifest


def print_rows(manifest: Manifest) -> None:
    """Prints the rows and files of each split, and the sizes of the tables."""
    for split in SPLITS:
        shards = manifest.shards(split)
        size = sum(shard.num_bytes for shard in shards)
        print(
            f"{split}: {manifest.rows(split):,} rows in {len(shards)} files, "
            f"{size / 1e6:,.1f} MB"
        )
    print(f"bad rows left out: {manifest.bad_rows}")
    print(f"rows of the embedding tables: {list(manifest.table_sizes)}")


if __name__ == "__main__":
    command_line.run(main)
