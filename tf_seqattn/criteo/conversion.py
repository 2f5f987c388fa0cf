"""Converts click logs once to a binary form that training reads without waiting.

python -m tf_seqattn.criteo.conversion --data "day_*.gz" --output converted

The input is cut into units: 64 MB of lines of a plain file, or a whole compressed one.
Units are parsed in parallel, each in blocks, so memory does not grow with the input. A
unit is written down when it is done: a conversion that was killed goes on with the
units that are missing. The manifest comes last; it says what was converted, how, into
which files, with how many rows and which checksums, and how many lines were bad.
"""

import argparse
import concurrent.futures
import glob
import itertools
import json
import logging
import os
import pathlib
import shutil
import sys
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from tf_seqattn.criteo.log import bad_rows as bad_rows_module
from tf_seqattn.criteo.log.bad_rows import BadRow, BadRows, TooManyBadRows, quote
from tf_seqattn.criteo.log.encoding import NUMERIC_ENCODINGS, Encoding
from tf_seqattn.criteo.log.manifest import (
    MANIFEST_FILE,
    SPLITS,
    VOCABULARY_FILE,
    Manifest,
)
from tf_seqattn.criteo.log.parsing import is_compressed, lines_before, parse_file
from tf_seqattn.criteo.log.shards import (
    Rows,
    Shard,
    concatenate,
    read_shard,
    write_shard,
)
from tf_seqattn.criteo.log.vocabulary import build_vocabulary, count_values
from tf_seqattn.experiments.progress import progress_bar

logger = logging.getLogger("tf_seqattn")

ORDERS = ("time", "random")
_UNIT_BYTES = 64 * 2**20
_SHARD_ROWS = 2**18
_REQUEST = "request.json"
_VERSION = 1
# Rows whose split is not decided when they are written.
_UNDECIDED = "rows"


class _Unit(NamedTuple):
    """A part of the input that is converted as a whole.

    Attributes:
      number: among all units, from 0.
      path: of the file.
      start: first byte; the lines that begin in the range belong to the unit.
      stop: byte after the last.
      split: the split of all its rows, or `_UNDECIDED`.
    """

    number: int
    path: pathlib.Path
    start: int
    stop: int
    split: str


class _Done(NamedTuple):
    """What became of a unit: its shards by split, and its bad rows."""

    shards: dict[str, list[Shard]]
    bad_rows: int
    quoted: list[BadRow]


def find_files(paths: str | pathlib.Path | Sequence) -> list[pathlib.Path]:
    """Returns the files that paths and patterns name, those of a pattern sorted.

    Args:
      paths: a path, a pattern such as "day_*.gz", or several of them. Patterns are
        sorted by name, numbers by value: day_2 before day_10.

    Raises:
      FileNotFoundError: naming what does not exist or a pattern that matches nothing.
    """
    if isinstance(paths, (str, pathlib.Path)):
        paths = [paths]
    found: list[pathlib.Path] = []
    for path in paths:
        matches = [str(path)] if os.path.exists(path) else glob.glob(str(path))
        if not matches:
            raise FileNotFoundError(f"No file matches {path}.")
        found += [pathlib.Path(match) for match in sorted(matches, key=_by_number)]
    return found


def _by_number(name: str) -> list:
    """Sorts runs of digits by value."""
    runs = itertools.groupby(name, str.isdigit)
    return [
        (0, int(text), "") if digits else (1, 0, text)
        for digits, text in ((digits, "".join(run)) for digits, run in runs)
    ]


def _units(
    files: Iterable[pathlib.Path], split: str, first_number: int = 0
) -> list[_Unit]:
    """Cuts files into units, in order."""
    units = []
    for path in files:
        size = path.stat().st_size
        # An empty file is a unit too, or nobody would notice it.
        step = max(size, 1) if is_compressed(path) else _UNIT_BYTES
        for start in range(0, max(size, 1), step):
            stop = min(start + step, size)
            units.append(_Unit(first_number + len(units), path, start, stop, split))
    return units


def _convert_unit(unit: _Unit, folder: pathlib.Path, request: dict, bar) -> _Done:
    """Parses a unit and writes its shards."""
    encoding = Encoding(**request["encoding"])
    bad = BadRows(request["max_bad_rows"])
    random = np.random.Generator(
        np.random.Philox(key=np.array([request["seed"], unit.number], np.uint64))
    )
    waiting: dict[str, list[Rows]] = {}
    shards: dict[str, list[Shard]] = {}

    def flush(split):
        name = f"{unit.number:06d}-{len(shards.get(split, [])):04d}-{split}.tfrecord"
        rows = concatenate(waiting.pop(split))
        shard = write_shard(folder / "shards" / name, rows)
        shards.setdefault(split, []).append(shard)

    stop = None if is_compressed(unit.path) else unit.stop
    try:
        for values in parse_file(unit.path, bad, unit.start, stop, bar.update):
            numeric, categorical = encoding.encode(values)
            rows = Rows(numeric, categorical, values["label"].to_numpy().astype("u1"))
            for split, part in _parts(rows, unit.split, request, random):
                if len(part.labels):
                    waiting.setdefault(split, []).append(part)
                    if sum(len(p.labels) for p in waiting[split]) >= _SHARD_ROWS:
                        flush(split)
    except TooManyBadRows:
        raise _too_many(bad.count, request, _quotes(unit, bad.quoted)) from None
    for split in list(waiting):
        flush(split)
    done = _Done(shards, bad.count, bad.quoted)
    path = _done_file(folder, unit)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(done))
    partial.rename(path)
    return done


def _parts(rows: Rows, split: str, request: dict, random: np.random.Generator):
    """The rows by split; undecided ones by chance, unless time decides later."""
    if split != _UNDECIDED or request["order"] == "time":
        return [(split, rows)]
    drawn = random.random(len(rows.labels))
    held_out = request["validation_fraction"], request["test_fraction"]
    is_validation = drawn < held_out[0]
    is_test = (drawn >= held_out[0]) & (drawn < sum(held_out))
    return [
        ("train", rows.where(~is_validation & ~is_test)),
        ("validation", rows.where(is_validation)),
        ("test", rows.where(is_test)),
    ]


def _done_file(folder: pathlib.Path, unit: _Unit) -> pathlib.Path:
    return folder / "units" / f"{unit.number:06d}.json"


def _load_done(folder: pathlib.Path, unit: _Unit) -> _Done | None:
    """What became of a unit in an earlier run, if its files are still there."""
    path = _done_file(folder, unit)
    if not path.exists():
        return None
    shards, bad_rows, quoted = json.loads(path.read_text())
    done = _Done(
        {split: [Shard(*shard) for shard in few] for split, few in shards.items()},
        bad_rows,
        [BadRow(*row) for row in quoted],
    )
    files = [folder / "shards" / s.name for few in done.shards.values() for s in few]
    return done if all(file.exists() for file in files) else None


def _quotes(unit: _Unit, rows: list[BadRow]) -> list[str]:
    before = lines_before(unit.path, unit.start) if rows else 0
    return [quote(unit.path, row, before) for row in rows]


def _too_many(count: int, request: dict, quotes: list[str]) -> TooManyBadRows:
    text = bad_rows_module.describe(count, request["max_bad_rows"], quotes)
    return TooManyBadRows(
        f"{text}\nMend the files or raise `max_bad_rows`; what has been converted "
        "stays, and the next call goes on from there."
    )


def _convert_units(
    units: list[_Unit],
    folder: pathlib.Path,
    request: dict,
    max_rows: int | None,
    workers: int,
    bar,
) -> list[tuple[_Unit, _Done]]:
    """Converts units in order, several at a time, until there are rows enough."""
    finished: list[tuple[_Unit, _Done]] = []
    rows, bad = 0, 0
    waiting = iter(units)
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        pending: list = []
        try:
            while True:
                for unit in itertools.islice(waiting, 2 * workers - len(pending)):
                    earlier = _load_done(folder, unit)
                    if earlier is not None:
                        bar.update(unit.stop - unit.start)
                        future: concurrent.futures.Future = concurrent.futures.Future()
                        future.set_result(earlier)
                    else:
                        future = pool.submit(_convert_unit, unit, folder, request, bar)
                    pending.append((unit, future))
                if not pending or (max_rows is not None and rows >= max_rows):
                    return finished
                unit, future = pending.pop(0)
                done = future.result()
                finished.append((unit, done))
                rows += sum(s.rows for few in done.shards.values() for s in few)
                bad += done.bad_rows
                if bad > request["max_bad_rows"]:
                    raise _too_many(bad, request, _all_quotes(finished))
        finally:
            # What nobody waits for any more; what runs is let finish.
            for _, future in pending:
                future.cancel()


def _all_quotes(finished: list[tuple[_Unit, _Done]]) -> list[str]:
    quotes: list[str] = []
    for unit, done in finished:
        if len(quotes) < bad_rows_module.NUM_QUOTED:
            quotes += _quotes(unit, done.quoted)
    return quotes[: bad_rows_module.NUM_QUOTED]


def _cut(
    shards: list[Shard], boundaries: list[int], folder: pathlib.Path, encoding: Encoding
) -> list[list[Shard]]:
    """Cuts a sequence of shards at numbers of rows.

    A shard across a boundary is written again, as the parts on either side.

    Args:
      shards: in order.
      boundaries: numbers of the first row of the second and later parts, and of the
        row after the last part; rows after that are dropped.
      folder: of the conversion.
      encoding: of the rows.

    Returns:
      The shards of each part.
    """
    parts: list[list[Shard]] = [[] for _ in boundaries]
    row = 0
    for shard in shards:
        stop = row + shard.rows
        inside = sorted({b - row for b in boundaries if row < b < stop})
        if not inside and row < boundaries[-1]:
            part = next(i for i, b in enumerate(boundaries) if stop <= b)
            parts[part].append(shard)
        elif inside:
            path = folder / "shards" / shard.name
            rows = read_shard(path, encoding.num_numeric, len(encoding.table_sizes))
            for start, end in itertools.pairwise([0, *inside, shard.rows]):
                part = next(
                    (i for i, b in enumerate(boundaries) if row + end <= b), None
                )
                if part is not None:
                    new = path.with_name(f"{path.stem}-{start}.tfrecord")
                    piece = rows.where(slice(start, end))
                    parts[part].append(write_shard(new, piece))
        row = stop
    return parts


def _splits(
    finished: list[tuple[_Unit, _Done]], folder: pathlib.Path, request: dict
) -> dict[str, list[Shard]]:
    """Which shards belong to which split."""
    by_split = {
        name: [shard for _, done in finished for shard in done.shards.get(name, [])]
        for name in (*SPLITS, _UNDECIDED)
    }
    undecided = by_split.pop(_UNDECIDED)
    if undecided:
        total = sum(shard.rows for shard in undecided)
        total = min(total, request["max_rows"] or total)
        held_out = [
            round(total * request[f"{name}_fraction"])
            for name in ("validation", "test")
        ]
        boundaries = [total - sum(held_out), total - held_out[1], total]
        parts = _cut(undecided, boundaries, folder, Encoding(**request["encoding"]))
        for name, part in zip(SPLITS, parts, strict=True):
            by_split[name] += part
    return by_split


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
    if request["max_rows"] is not None and request["order"] == "random":
        raise ValueError(
            "`max_rows` takes the first rows, so it goes with order='time'. Received: "
            f"max_rows={request['max_rows']!r}, order='random'"
        )


def _describe_files(files: list[pathlib.Path]) -> list[dict]:
    return [
        {
            "path": str(file.resolve()),
            "num_bytes": file.stat().st_size,
            "changed_ns": file.stat().st_mtime_ns,
        }
        for file in files
    ]


def _open_folder(folder: pathlib.Path, request: dict, overwrite: bool) -> None:
    """Makes the folder, or makes sure that it is of the same conversion."""
    path = folder / _REQUEST
    if path.exists():
        earlier = json.loads(path.read_text())
        # How many bad rows are put up with may be raised on the way.
        differs = [
            name
            for name in request
            if name != "max_bad_rows" and earlier.get(name) != request[name]
        ]
        if differs and not overwrite:
            listed = "\n".join(
                f"  {name}: {earlier.get(name)} there, {request[name]} now"
                for name in differs
            )
            raise ValueError(
                f"{folder} has rows of another conversion:\n{listed}\nUse another "
                "`folder`, or `overwrite=True`."
            )
        if differs:
            for name in ("shards", "units"):
                shutil.rmtree(folder / name, ignore_errors=True)
            for name in (MANIFEST_FILE, VOCABULARY_FILE, _REQUEST):
                (folder / name).unlink(missing_ok=True)
    elif folder.exists() and any(folder.iterdir()):
        raise ValueError(
            f"`folder` must be new, empty or of an earlier conversion. Received: "
            f"folder={str(folder)!r}, which has other files."
        )
    for name in ("shards", "units"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(request, indent=2) + "\n")


def convert(
    paths: str | pathlib.Path | Sequence,
    folder: str | pathlib.Path,
    encoding: Encoding | None = None,
    *,
    order: str = "time",
    validation_fraction: float = 0.1,
    test_fraction: float = 0.0,
    validation_paths: str | pathlib.Path | Sequence = (),
    max_rows: int | None = None,
    max_bad_rows: int = 100,
    seed: int = 0,
    workers: int | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> Manifest:
    """Converts click logs, or goes on with a conversion that was broken off.

    Args:
      paths: files in the order of time, plain or `.gz`, or patterns such as "day_*".
      folder: for the shards and the manifest.
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
      overwrite: whether to throw away rows of another conversion in `folder`.
      progress: whether to show a progress bar.

    Returns:
      The `Manifest`. With bad rows it comes with a warning that quotes the first.

    Raises:
      ValueError: for a bad argument, for a folder of another conversion, and where no
        row is left to train on.
      TooManyBadRows: a ValueError that quotes the first with file and line.
      FileNotFoundError: for a file that is not there.

    Example:

    >>> manifest = convert("train.txt", "converted")  # doctest: +SKIP
    >>> manifest.rows("train")  # doctest: +SKIP
    41256555
    """
    folder = pathlib.Path(folder)
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
    _check(request)
    _open_folder(folder, request, overwrite)
    if (folder / MANIFEST_FILE).exists():
        manifest = Manifest.load(folder)
    else:
        units = _units(files, _UNDECIDED)
        held_out = _units(validation_files, "validation", len(units))
        total = sum(unit.stop - unit.start for unit in (*units, *held_out))
        workers = workers or os.cpu_count() or 1
        with progress_bar(total, "B", "Converting", progress) as bar:
            finished = _convert_units(units, folder, request, max_rows, workers, bar)
            finished += _convert_units(held_out, folder, request, None, workers, bar)
        manifest = _finish(finished, folder, request, progress)
    if manifest.bad_rows > max_bad_rows:
        raise _too_many(manifest.bad_rows, request, manifest.bad_row_quotes)
    if manifest.bad_rows:
        logger.warning(
            "%s",
            bad_rows_module.describe(
                manifest.bad_rows, max_bad_rows, manifest.bad_row_quotes
            ),
        )
    return manifest


def _finish(
    finished: list[tuple[_Unit, _Done]],
    folder: pathlib.Path,
    request: dict,
    progress: bool,
) -> Manifest:
    """Decides the splits, counts the vocabulary and writes the manifest."""
    encoding = Encoding(**request["encoding"])
    splits = _splits(finished, folder, request)
    quotes = _all_quotes(finished)
    if not splits["train"]:
        listed = "".join(f"\n  {text}" for text in quotes)
        raise ValueError(
            "There is no row that can be read to train on. Expected lines of 40 "
            "tab-separated columns: label, I1..I13, C1..C26 (the Kaggle train.txt)."
            f"{listed}"
        )
    if encoding.min_count:
        files = [folder / "shards" / shard.name for shard in splits["train"]]
        with progress_bar(len(files), "shards", "Counting", progress) as bar:
            counts = count_values(
                files, encoding.num_numeric, encoding.table_sizes, bar
            )
        build_vocabulary(counts, encoding.min_count).save(folder / VOCABULARY_FILE)
    content = {
        "splits": splits,
        "bad_rows": sum(done.bad_rows for _, done in finished),
        "bad_row_quotes": quotes,
        "request": request,
    }
    # Written last, and at once: without it, there is no conversion.
    partial = folder / f"{MANIFEST_FILE}.partial"
    partial.write_text(json.dumps(content, indent=2) + "\n")
    partial.rename(folder / MANIFEST_FILE)
    kept = {shard.name for shards in splits.values() for shard in shards}
    for path in (folder / "shards").iterdir():
        if path.name not in kept:
            path.unlink()
    shutil.rmtree(folder / "units")
    return Manifest.load(folder)


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line, or the list `arguments` in place of it."""
    parser = argparse.ArgumentParser(
        prog="python -m tf_seqattn.criteo.conversion",
        description=__doc__.splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--data", nargs="+", required=True, help="files or patterns, in order of time")
    add("--output", type=pathlib.Path, required=True, help="folder for the result")
    add("--numeric", default="log1p", choices=NUMERIC_ENCODINGS, help="of the counts")
    add(
        "--table-size",
        type=int,
        nargs="+",
        default=[2**20],
        help="categories are taken modulo of it: one number, or one for each of the 26",
    )
    add(
        "--min-count",
        type=int,
        default=0,
        help="values seen less often in training share a row",
    )
    add("--order", default="time", choices=ORDERS, help="what is held out")
    add("--validation-fraction", type=float, help="0.1, or 0 with --validation-data")
    add("--test-fraction", type=float, default=0.0, help="share held out beside it")
    add("--validation-data", nargs="+", default=[], help="files held out as a whole")
    add("--max-rows", type=int, help="number of first rows to convert")
    add("--max-bad-rows", type=int, default=100, help="before that is an error")
    add("--seed", type=int, default=0, help="of the random order")
    add("--workers", type=int, help="parts converted at a time, by default all cores")
    add("--overwrite", action="store_true", help="replace another conversion")
    add("--verify", action="store_true", help="compare all files with their checksums")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> Manifest:
    """Converts, and prints what there is.

    Args:
      arguments: in place of the command line.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    options = parse_arguments(arguments)
    fraction = options.validation_fraction
    if fraction is None:
        fraction = 0.0 if options.validation_data else 0.1
    try:
        manifest = convert(
            options.data,
            options.output,
            Encoding(options.numeric, options.table_size, options.min_count),
            order=options.order,
            validation_fraction=fraction,
            test_fraction=options.test_fraction,
            validation_paths=options.validation_data,
            max_rows=options.max_rows,
            max_bad_rows=options.max_bad_rows,
            seed=options.seed,
            workers=options.workers,
            overwrite=options.overwrite,
        )
        if options.verify:
            manifest.verify()
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"error: {error}")
    for split in SPLITS:
        shards = manifest.shards(split)
        size = sum(shard.num_bytes for shard in shards)
        print(
            f"{split}: {manifest.rows(split):,} rows in {len(shards)} files, "
            f"{size / 1e6:,.1f} MB"
        )
    print(f"bad rows left out: {manifest.bad_rows}")
    print(f"rows of the embedding tables: {list(manifest.table_sizes)}")
    return manifest


if __name__ == "__main__":
    main()
