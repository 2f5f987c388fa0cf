"""Repairs a conversion: only the parts of the log whose files are damaged are redone.

The same lines give the same bytes, so a repaired shard must have the checksum that the
manifest has for it.
"""

import contextlib
import pathlib
import re
import tempfile

from tf_seqattn.criteo.log.encoding import Encoding
from tf_seqattn.criteo.log.folder import REQUEST_FILE
from tf_seqattn.criteo.log.json_files import Damaged, read_json
from tf_seqattn.criteo.log.manifest import MANIFEST_FILE, Manifest
from tf_seqattn.criteo.log.shards import Shard, is_intact, read_shard, write_shard
from tf_seqattn.criteo.log.units import Unit, convert_unit
from tf_seqattn.files import write_json

# Unit, number in the unit, split, and the first row of a piece of a shard.
_NAME = re.compile(r"((\d+)-\d+-[a-z]+)(?:-(\d+))?\.tfrecord")


def repair_json_files(folder: pathlib.Path, request: dict) -> None:
    """Removes or restores a damaged manifest or request.

    Without a manifest a conversion is not finished, and goes on.

    Args:
      folder: of the conversion, locked.
      request: of this command, whose keys a request must have.
    """
    manifest = None
    try:
        manifest = Manifest.read(folder)
    except Damaged:
        (folder / MANIFEST_FILE).unlink()
    except FileNotFoundError:
        pass
    try:
        read_json(folder / REQUEST_FILE, *request)
    except Damaged:
        (folder / REQUEST_FILE).unlink()
    except FileNotFoundError:
        pass
    else:
        return
    if manifest is not None:
        write_json(folder / REQUEST_FILE, manifest.request)


def repair_rows(manifest: Manifest, units: list[Unit], bar) -> list[pathlib.Path]:
    """Converts again what damaged and missing shards were made of.

    Args:
      manifest: of a finished conversion.
      units: all that were converted.
      bar: progress bar, moved by the bytes of the log that are read.

    Returns:
      The shards that were repaired.

    Raises:
      Damaged: if the log no longer gives the same rows.
    """
    by_number = {unit.number: unit for unit in units}
    damaged: dict[int, list[tuple[Shard, str, int | None]]] = {}
    for shards in manifest.splits.values():
        for shard in shards:
            if is_intact(manifest.folder / "shards" / shard.name, shard):
                continue
            found = _NAME.fullmatch(shard.name)
            if found is None or int(found[2]) not in by_number:
                raise Damaged(f"{shard.name} is damaged, and is no shard of this log.")
            start = None if found[3] is None else int(found[3])
            damaged.setdefault(int(found[2]), []).append((shard, found[1], start))
    repaired = []
    for number, shards_of_unit in sorted(damaged.items()):
        with _converted_again(manifest, by_number[number], bar) as again:
            for shard, stem, start in shards_of_unit:
                path = manifest.folder / "shards" / shard.name
                source = again / f"{stem}.tfrecord"
                if not source.exists() or not _rewrite(
                    source, path, shard, start, manifest.encoding
                ):
                    raise Damaged(
                        f"{path} is damaged, and {by_number[number].path} no longer "
                        "gives the rows that it had. Convert with --overwrite."
                    )
                repaired.append(path)
    return repaired


@contextlib.contextmanager
def _converted_again(manifest: Manifest, unit: Unit, bar):
    """Converts a unit in a folder of its own; gives that of the shards."""
    units = manifest.folder / "units"
    with tempfile.TemporaryDirectory(dir=units) as temporary:
        folder = pathlib.Path(temporary)
        for name in ("shards", "units"):
            (folder / name).mkdir()
        convert_unit(unit, folder, manifest.request, bar)
        yield folder / "shards"


def _rewrite(
    source: pathlib.Path,
    path: pathlib.Path,
    wanted: Shard,
    start: int | None,
    encoding: Encoding,
) -> bool:
    """Puts a shard, or a piece of one, in its place; whether it is the one wanted."""
    rows = read_shard(source, encoding.num_numeric, len(encoding.table_sizes))
    if start is not None:
        rows = rows.where(slice(start, start + wanted.rows))
    if not len(rows.labels):
        return False
    return write_shard(path, rows) == wanted
