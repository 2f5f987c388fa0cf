"""The parts in which a click log is converted: parsed, encoded, written, remembered.

A unit is 64 MB of lines of a plain file, or a whole compressed one. What became of it
is written down when it is done, so that a conversion that was killed goes on with the
units that are missing.
"""

import concurrent.futures
import itertools
import logging
import pathlib
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from tf_seqattn.criteo.log import bad_rows as bad_rows_module
from tf_seqattn.criteo.log.bad_rows import BadRow, BadRows, TooManyBadRows, quote
from tf_seqattn.criteo.log.encoding import Encoding
from tf_seqattn.criteo.log.json_files import Damaged, read_json
from tf_seqattn.criteo.log.manifest import SPLITS
from tf_seqattn.criteo.log.parsing import is_compressed, lines_before, parse_file
from tf_seqattn.criteo.log.paths import Path
from tf_seqattn.criteo.log.shards import (
    Rows,
    Shard,
    concatenate,
    has_its_size,
    read_shard,
    write_shard,
)
from tf_seqattn.files import write_json

logger = logging.getLogger("tf_seqattn")

_UNIT_BYTES = 64 * 2**20
_SHARD_ROWS = 2**18
# Rows whose split is not decided when they are written.
UNDECIDED = "rows"


class Unit(NamedTuple):
    """A part of the input that is converted as a whole.

    Attributes:
      number: among all units, from 0.
      path: of the file.
      start: first byte; the lines that begin in the range belong to the unit.
      stop: byte after the last.
      split: the split of all its rows, or `UNDECIDED`.
    """

    number: int
    path: Path
    start: int
    stop: int
    split: str


class Done(NamedTuple):
    """What became of a unit: its shards by split, and its bad rows."""

    shards: dict[str, list[Shard]]
    bad_rows: int
    quoted: list[BadRow]


def cut_files(files: Iterable[Path], split: str, first_number: int = 0) -> list[Unit]:
    """Cuts files into units, in order."""
    units = []
    for path in files:
        size = path.stat().st_size
        # An empty file is a unit too, or nobody would notice it.
        step = max(size, 1) if is_compressed(path) else _UNIT_BYTES
        for start in range(0, max(size, 1), step):
            stop = min(start + step, size)
            units.append(Unit(first_number + len(units), path, start, stop, split))
    return units


def units_of_part(units: list[Unit], part: tuple[int, int]) -> list[Unit]:
    """Returns part i of n of the units, in order; they keep their numbers.

    Args:
      units: of the whole log.
      part: which, from 1, and of how many.

    Raises:
      ValueError: if the part is none of them, or the log has fewer units than parts.

    Example:

    >>> units = [Unit(i, pathlib.Path("log"), 0, 0, UNDECIDED) for i in range(5)]
    >>> [unit.number for unit in units_of_part(units, (2, 2))]
    [2, 3, 4]
    """
    number, total = part
    if not 1 <= number <= total:
        raise ValueError(
            f"`part` must be one of 1/{total} to {total}/{total}. Received: "
            f"part={number}/{total}"
        )
    if total > len(units):
        raise ValueError(
            "`part` must be one of at most as many as there are units, which are whole "
            f"compressed files or {_UNIT_BYTES // 2**20} MB of a plain one: "
            f"{len(units)} here. Received: part={number}/{total}"
        )
    return units[(number - 1) * len(units) // total : number * len(units) // total]


def convert_unit(unit: Unit, folder: pathlib.Path, request: dict, bar) -> Done:
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
        raise too_many(bad.count, request, _quotes(unit, bad.quoted)) from None
    for split in list(waiting):
        flush(split)
    done = Done(shards, bad.count, bad.quoted)
    write_json(_done_file(folder, unit), done)
    return done


def _parts(rows: Rows, split: str, request: dict, random: np.random.Generator):
    """The rows by split; undecided ones by chance, unless time decides later."""
    if split != UNDECIDED or request["order"] == "time":
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


def _done_file(folder: pathlib.Path, unit: Unit) -> pathlib.Path:
    return folder / "units" / f"{unit.number:06d}.json"


def _load_done(folder: pathlib.Path, unit: Unit) -> Done | None:
    """What became of a unit in an earlier run, if its files are still whole."""
    path = _done_file(folder, unit)
    try:
        written, bad_rows, quoted = read_json(path)
        done = Done(
            {split: [Shard(*shard) for shard in few] for split, few in written.items()},
            bad_rows,
            [BadRow(*row) for row in quoted],
        )
    except FileNotFoundError:
        return None
    except (Damaged, TypeError, ValueError, AttributeError):
        logger.warning("%s is damaged; its part of the log is converted again.", path)
        return None
    shards = [shard for few in done.shards.values() for shard in few]
    whole = all(has_its_size(folder / "shards" / shard.name, shard) for shard in shards)
    return done if whole else None


def _quotes(unit: Unit, rows: list[BadRow]) -> list[str]:
    before = lines_before(unit.path, unit.start) if rows else 0
    return [quote(unit.path, row, before) for row in rows]


def too_many(count: int, request: dict, quotes: list[str]) -> TooManyBadRows:
    """Returns the error for more bad rows than are put up with."""
    text = bad_rows_module.describe(count, request["max_bad_rows"], quotes)
    return TooManyBadRows(
        f"{text}\nMend the files or raise `max_bad_rows`; what has been converted "
        "stays, and the next call goes on from there."
    )


def convert_units(
    units: list[Unit],
    folder: pathlib.Path,
    request: dict,
    max_rows: int | None,
    workers: int,
    bar,
) -> list[tuple[Unit, Done]]:
    """Converts units in order, several at a time, until there are rows enough."""
    finished: list[tuple[Unit, Done]] = []
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
                        future = pool.submit(convert_unit, unit, folder, request, bar)
                    pending.append((unit, future))
                if not pending or (max_rows is not None and rows >= max_rows):
                    return finished
                unit, future = pending.pop(0)
                done = future.result()
                finished.append((unit, done))
                rows += sum(s.rows for few in done.shards.values() for s in few)
                bad += done.bad_rows
                if bad > request["max_bad_rows"]:
                    raise too_many(bad, request, all_quotes(finished))
        finally:
            # What nobody waits for any more; what runs is let finish.
            for _, future in pending:
                future.cancel()


def all_quotes(finished: list[tuple[Unit, Done]]) -> list[str]:
    """Returns the first bad rows of all units, with file and line."""
    quotes: list[str] = []
    for unit, done in finished:
        if len(quotes) < bad_rows_module.NUM_QUOTED:
            quotes += _quotes(unit, done.quoted)
    return quotes[: bad_rows_module.NUM_QUOTED]


def cut_shards(
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
                    new = path.with_name(f"{path.stem}-{start:06d}.tfrecord")
                    piece = rows.where(slice(start, end))
                    parts[part].append(write_shard(new, piece))
        row = stop
    return parts


def decide_splits(
    finished: list[tuple[Unit, Done]], folder: pathlib.Path, request: dict
) -> dict[str, list[Shard]]:
    """Which shards belong to which split."""
    by_split = {
        name: [shard for _, done in finished for shard in done.shards.get(name, [])]
        for name in (*SPLITS, UNDECIDED)
    }
    undecided = by_split.pop(UNDECIDED)
    if undecided:
        total = sum(shard.rows for shard in undecided)
        total = min(total, request["max_rows"] or total)
        held_out = [
            round(total * request[f"{name}_fraction"])
            for name in ("validation", "test")
        ]
        boundaries = [total - sum(held_out), total - held_out[1], total]
        parts = cut_shards(
            undecided, boundaries, folder, Encoding(**request["encoding"])
        )
        for name, part in zip(SPLITS, parts, strict=True):
            by_split[name] += part
    return by_split
