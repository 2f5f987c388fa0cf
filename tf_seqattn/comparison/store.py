"""Results on the disk, so that an interrupted comparison goes on."""

import json
import pathlib
from typing import Any

from tf_seqattn.comparison.candidates import Candidate
from tf_seqattn.files import write_json


class Store:
    """The folder of a comparison.

    Args:
      folder: made if it is not there.
      request: the arguments that every result of the folder depends on.

    Raises:
      ValueError: if the folder holds results for other arguments.
    """

    def __init__(self, folder: pathlib.Path, request: dict[str, Any]) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "request.json"
        if path.exists():
            found = json.loads(path.read_text())
            different = [n for n in request if found.get(n) != request[n]]
            if different:
                name = different[0]
                raise ValueError(
                    f"`output` {str(folder)!r} holds a comparison with other arguments "
                    f"({name}={found.get(name)!r}, not {request[name]!r}). Give "
                    "another folder, or delete this one."
                )
        else:
            write_json(path, request)

    def file(self, candidate: Candidate, precision: str) -> pathlib.Path:
        """The TFLite file of the first seed."""
        return self._folder / f"{candidate.file_name}_{precision}.tflite"

    def model(self, candidate: Candidate) -> pathlib.Path:
        """The Keras file of the first seed."""
        return self._folder / f"{candidate.file_name}.keras"

    def _path(self, candidate: Candidate, seed: int) -> pathlib.Path:
        return self._folder / f"{candidate.file_name}_{seed}.json"

    def load(self, candidate: Candidate, seed: int) -> dict[str, Any] | None:
        """The result of a candidate, or None."""
        path = self._path(candidate, seed)
        return json.loads(path.read_text()) if path.exists() else None

    def save(self, candidate: Candidate, seed: int, result: dict[str, Any]) -> None:
        """Keeps the result of a candidate."""
        write_json(self._path(candidate, seed), result)
