"""What a folder of converted rows contains: how it was made, files, checksums."""

import contextlib
import dataclasses
import functools
import os
from collections.abc import Iterator

import tensorflow as tf

from tf_seqattn.criteo.log.encoding import Encoding
from tf_seqattn.criteo.log.json_files import Damaged, read_json, remedy
from tf_seqattn.criteo.log.paths import Path, as_path
from tf_seqattn.criteo.log.shards import Shard, has_its_size, is_intact, sha256_of
from tf_seqattn.criteo.log.vocabulary import Vocabulary
from tf_seqattn.experiments.progress import progress_bar

SPLITS = ("train", "validation", "test")
MANIFEST_FILE, VOCABULARY_FILE = "manifest.json", "vocabulary.npz"


@dataclasses.dataclass(frozen=True)
class Manifest:
    """What a folder of converted rows contains.

    Attributes:
      folder: where it is.
      encoding: how the values were encoded.
      splits: the shards of "train", "validation" and "test", each in order.
      bad_rows: number of lines that were left out.
      bad_row_quotes: the first of them: `file:line: reason: 'text'`.
      request: the files and all options, ready for JSON.
      vocabulary_sha256: checksum of the vocabulary, or None where there is none.
    """

    folder: Path
    encoding: Encoding
    splits: dict[str, list[Shard]]
    bad_rows: int
    bad_row_quotes: list[str]
    request: dict
    vocabulary_sha256: str | None = None

    @classmethod
    def load(cls, folder: str | os.PathLike) -> "Manifest":
        """Reads the manifest of a folder, and makes sure that its files are there.

        Raises:
          FileNotFoundError: if there is none, or a file that it names is missing.
          ValueError: if it, or the size of a file, is not what was written.
        """
        manifest = cls.read(folder)
        for shards in manifest.splits.values():
            for shard in shards:
                path = manifest.folder / "shards" / shard.name
                if not path.exists():
                    raise FileNotFoundError(
                        f"{path} is named by the manifest and missing. {remedy()}"
                    )
                if not has_its_size(path, shard):
                    raise Damaged(
                        f"{path} is damaged: it has {path.stat().st_size:,} bytes, and "
                        f"{shard.num_bytes:,} were written. {remedy()}"
                    )
        path = manifest.folder / VOCABULARY_FILE
        if manifest.encoding.min_count and not path.exists():
            raise FileNotFoundError(f"{path} is missing. {remedy()}")
        return manifest

    @classmethod
    def read(cls, folder: str | os.PathLike) -> "Manifest":
        """Reads the manifest of a folder, whether its files are there or not.

        Raises:
          FileNotFoundError: if there is none.
          ValueError: if it is damaged.
        """
        folder = as_path(folder)
        path = folder / MANIFEST_FILE
        if not path.exists():
            raise FileNotFoundError(
                f"{folder} has no {MANIFEST_FILE}: it has no converted rows, or their "
                "conversion was interrupted. Run `python -m "
                f"tf_seqattn.criteo.conversion --data FILES --output {folder}`, which "
                "goes on where it stopped."
            )
        content = read_json(path, "splits", "bad_rows", "bad_row_quotes", "request")
        try:
            return cls(
                folder,
                Encoding(**content["request"]["encoding"]),
                {name: [Shard(*s) for s in content["splits"][name]] for name in SPLITS},
                content["bad_rows"],
                content["bad_row_quotes"],
                content["request"],
                content.get("vocabulary_sha256"),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise Damaged(f"{path} is damaged: {error!r}. {remedy()}") from error

    def rows(self, split: str) -> int:
        """Number of rows of a split."""
        return sum(shard.rows for shard in self.shards(split))

    def shards(self, split: str) -> list[Shard]:
        """The shards of a split.

        Raises:
          ValueError: if there is no such split.
        """
        if split not in self.splits:
            raise ValueError(
                f"`split` must be one of {', '.join(SPLITS)}. Received: split={split!r}"
            )
        return self.splits[split]

    def paths(self, split: str) -> list[Path]:
        """The files of a split."""
        return [self.folder / "shards" / shard.name for shard in self.shards(split)]

    def require_rows(self, split: str) -> None:
        """Raises a ValueError unless a split has rows."""
        if not self.rows(split):
            raise ValueError(
                "`split` must be one that has rows. Received: "
                f"split={split!r}, which has none in {self.folder}; convert with a "
                "fraction above 0 for it"
            )

    @functools.cached_property
    def vocabulary(self) -> Vocabulary | None:
        """The lookup of frequent values, or None where the encoding has none."""
        if not self.encoding.min_count:
            return None
        return Vocabulary.load(self.folder / VOCABULARY_FILE, self.encoding.table_sizes)

    @property
    def table_sizes(self) -> tuple[int, ...]:
        """Rows of each embedding table, without row 0."""
        vocabulary = self.vocabulary
        return vocabulary.table_sizes if vocabulary else self.encoding.table_sizes

    @property
    def num_numeric(self) -> int:
        """Number of columns of numbers."""
        return self.encoding.num_numeric

    @contextlib.contextmanager
    def naming_damage(self) -> Iterator[None]:
        """Context in which rows are read with `tf.data`, which names no file.

        Raises:
          ValueError: naming the file, if one was damaged without a change of its size.
        """
        try:
            yield
        except tf.errors.DataLossError:
            self.verify()
            raise

    def verify(self, progress: bool = True) -> None:
        """Compares every file with its checksum.

        Raises:
          ValueError: naming the first file that differs.
        """
        shards = [shard for shards in self.splits.values() for shard in shards]
        total = sum(shard.num_bytes for shard in shards)
        with progress_bar(total, "B", "Verifying", progress) as bar:
            for shard in shards:
                path = self.folder / "shards" / shard.name
                if not is_intact(path, shard):
                    raise Damaged(
                        f"{path} is damaged: its checksum differs. {remedy()}"
                    )
                bar.update(shard.num_bytes)
        path, checksum = self.folder / VOCABULARY_FILE, self.vocabulary_sha256
        if checksum is not None and sha256_of(path) != checksum:
            raise Damaged(f"{path} is damaged: its checksum differs. {remedy()}")
