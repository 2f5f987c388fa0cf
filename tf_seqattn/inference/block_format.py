"""The block-sparse format: which blocks a matrix keeps, and how they are stored.

Plain NumPy. A matrix (inputs by outputs) is cut into blocks, and only the kept blocks
of each column of blocks are stored. Columns with the same number of kept blocks form
one slice, an array for one batched matrix product. Columns with nearly the same number
are padded with zero blocks and share a slice, if that is worth one operation less.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

# Stored weights per kept weight: padding may add a tenth.
MAX_PADDING = 1.10


@dataclasses.dataclass(frozen=True)
class Slice:
    """Columns of blocks that are stored, and multiplied, as one array.

    Attributes:
      columns: block columns of the matrix, one entry per column of the slice.
      rows: for each of them, the block rows that it keeps, the same number for all. A
        column that keeps fewer repeats row 0, with weights of zero.
    """

    columns: tuple[int, ...]
    rows: tuple[tuple[int, ...], ...]

    @property
    def num_blocks(self) -> int:
        """Number of blocks stored, including padding."""
        return len(self.columns) * len(self.rows[0])


@dataclasses.dataclass(frozen=True)
class Pattern:
    """The positions of the kept blocks of a matrix, and the slices that store them.

    Attributes:
      matrix_shape: (inputs, outputs) of the matrix.
      block_size: (rows, columns) of a block.
      slices: the slices. A block column that keeps nothing is in no slice.
      num_kept: number of blocks kept, without padding.
      chained: whether a slice waits for the one before it, where a runtime would read
        the inputs of all slices first. Then they are multiplied while they are in the
        cache.
    """

    matrix_shape: tuple[int, int]
    block_size: tuple[int, int]
    slices: tuple[Slice, ...]
    num_kept: int
    chained: bool = False

    @property
    def grid_shape(self) -> tuple[int, int]:
        """(block rows, block columns), including partial blocks."""
        (rows, columns), (height, width) = self.matrix_shape, self.block_size
        return -(-rows // height), -(-columns // width)

    @property
    def density(self) -> float:
        """Share of the blocks that are kept."""
        return self.num_kept / math.prod(self.grid_shape)

    @property
    def num_stored(self) -> int:
        """Number of blocks stored, including padding."""
        return sum(part.num_blocks for part in self.slices)

    @property
    def reads_alike(self) -> bool:
        """Whether all stored columns keep the same rows, so that one product is enough.

        This is so if whole columns, or whole rows, of the matrix were pruned.
        """
        return len(self.slices) == 1 and len(set(self.slices[0].rows)) == 1

    def get_config(self) -> dict[str, Any]:
        """Returns the argument of `from_config`: plain numbers and lists."""
        return {
            "matrix_shape": list(self.matrix_shape),
            "block_size": list(self.block_size),
            "num_kept": self.num_kept,
            "chained": self.chained,
            "slices": [
                {"columns": list(part.columns), "rows": [list(r) for r in part.rows]}
                for part in self.slices
            ],
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Pattern":
        """Inverse of `get_config`."""
        return cls(
            tuple(config["matrix_shape"]),
            tuple(config["block_size"]),
            tuple(
                Slice(tuple(part["columns"]), tuple(tuple(r) for r in part["rows"]))
                for part in config["slices"]
            ),
            config["num_kept"],
            # Files of earlier versions have no such entry.
            config.get("chained", False),
        )


def _boundaries(counts: Sequence[int], cost_of_slice: float) -> list[int]:
    """Ends of the cheapest slices of descending `counts`, by dynamic programming.

    The cost of a slice is its stored blocks plus `cost_of_slice`, in blocks.
    """
    # A cut can only pay where the count changes.
    ends = [i for i in range(1, len(counts)) if counts[i] != counts[i - 1]]
    ends.append(len(counts))
    best: list[tuple[float, list[int]]] = [(0.0, [])]
    starts = [0, *ends]
    for last, end in enumerate(ends, start=1):
        options = (
            (
                best[first][0]
                + (end - starts[first]) * counts[starts[first]]
                + cost_of_slice,
                first,
            )
            for first in range(last)
        )
        cost, first = min(options)
        best.append((cost, [*best[first][1], end]))
    return best[-1][1]


def find_pattern(
    support: np.ndarray,
    matrix_shape: tuple[int, int],
    block_size: tuple[int, int],
    cost_of_slice: float = 16.0,
    max_blocks: int | None = None,
) -> Pattern:
    """Cuts the block columns of a support into slices.

    Args:
      support: bool array `(block rows, block columns)`, true for the blocks kept.
      matrix_shape: (inputs, outputs) of the matrix.
      block_size: (rows, columns) of a block.
      cost_of_slice: cost of one more slice, in products with one block. It is lowered
        until the padding is at most a tenth (`MAX_PADDING`).
      max_blocks: largest number of blocks in a slice. A larger slice is cut into equal
        parts, so that the inputs gathered for one part stay in the cache, and the
        slices are chained. A slice whose columns keep the same rows gathers them once
        and is not cut.

    Returns:
      A `Pattern`.

    Example:

    >>> support = np.array([[1, 0, 1], [1, 0, 1], [1, 0, 0]], bool)
    >>> pattern = find_pattern(support, (12, 12), (4, 4), cost_of_slice=0)
    >>> [(part.columns, part.rows) for part in pattern.slices]
    [((0,), ((0, 1, 2),)), ((2,), ((0, 1),))]
    """
    counts = support.sum(axis=0)
    order = np.argsort(-counts, kind="stable")
    order = order[counts[order] > 0]
    descending = counts[order].tolist()
    num_kept = int(support.sum())
    while descending:
        bounds = _boundaries(descending, cost_of_slice)
        stored = sum(
            (end - start) * descending[start]
            for start, end in zip([0, *bounds[:-1]], bounds, strict=True)
        )
        if stored <= MAX_PADDING * num_kept:
            break
        cost_of_slice = cost_of_slice / 2 if cost_of_slice > 0.01 else 0.0
    slices = []
    for start, end in zip([0, *bounds[:-1]], bounds, strict=True) if descending else ():
        width = descending[start]
        parts = 1
        read = support[:, order[start:end]]
        if max_blocks and (read != read[:, :1]).any():
            parts = min(end - start, -(-(end - start) * width // max_blocks))
        for columns in np.array_split(order[start:end], parts):
            rows = []
            for column in columns:
                kept = np.flatnonzero(support[:, column]).tolist()
                rows.append(tuple(kept + [0] * (width - len(kept))))
            slices.append(Slice(tuple(columns.tolist()), tuple(rows)))
    chained = max_blocks is not None and len(slices) > 1
    return Pattern(matrix_shape, block_size, tuple(slices), num_kept, chained)


def pad_to_blocks(matrix: np.ndarray, block_size: tuple[int, int]) -> np.ndarray:
    """The matrix as `(block rows, block columns, rows, columns)`, padded with zeros."""
    padding = [
        (0, -size % block) for size, block in zip(matrix.shape, block_size, strict=True)
    ]
    padded = np.pad(matrix, padding)
    (rows, columns), (height, width) = padded.shape, block_size
    blocks = padded.reshape(rows // height, height, columns // width, width)
    return blocks.transpose(0, 2, 1, 3)


def pack_matrix(matrix: np.ndarray, pattern: Pattern) -> list[np.ndarray]:
    """Stores the kept blocks of a matrix, one array for each slice.

    Args:
      matrix: array of `pattern.matrix_shape`.
      pattern: the positions of its kept blocks.

    Returns:
      For each slice an array `(columns, kept blocks * block rows, block columns)` of
      the matrix's dtype.
    """
    blocks = pad_to_blocks(matrix, pattern.block_size)
    height, width = pattern.block_size
    arrays = []
    for part in pattern.slices:
        stored = np.zeros(
            (len(part.columns), len(part.rows[0]), height, width), matrix.dtype
        )
        for place, (column, rows) in enumerate(
            zip(part.columns, part.rows, strict=True)
        ):
            # Row 0 after the first entry is padding, since rows ascend.
            kept = [row for k, row in enumerate(rows) if k == 0 or row]
            stored[place, : len(kept)] = blocks[kept, column]
        arrays.append(stored.reshape(len(part.columns), -1, width))
    return arrays


def unpack_matrix(arrays: Sequence[np.ndarray], pattern: Pattern) -> np.ndarray:
    """Inverse of `pack_matrix`: the dense matrix."""
    (block_rows, block_columns), (height, width) = (
        pattern.grid_shape,
        pattern.block_size,
    )
    dtype = arrays[0].dtype if arrays else np.float32
    blocks = np.zeros((block_rows, block_columns, height, width), dtype)
    for part, array in zip(pattern.slices, arrays, strict=True):
        stored = np.reshape(array, (len(part.columns), -1, height, width))
        for place, column in enumerate(part.columns):
            np.add.at(blocks, (list(part.rows[place]), column), stored[place])
    matrix = blocks.transpose(0, 2, 1, 3).reshape(
        block_rows * height, block_columns * width
    )
    return matrix[: pattern.matrix_shape[0], : pattern.matrix_shape[1]]


def kept_blocks(
    pattern: Pattern, arrays: Sequence[np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The kept blocks one by one, without padding, sorted by column.

    Args:
      pattern: their positions.
      arrays: the result of `pack_matrix`.

    Returns:
      Block rows `(n,)`, block columns `(n,)`, and the blocks `(n, rows, columns)`.
    """
    height, width = pattern.block_size
    found = []
    for part, array in zip(pattern.slices, arrays, strict=True):
        stored = np.reshape(array, (len(part.columns), -1, height, width))
        for place, column in enumerate(part.columns):
            for k, row in enumerate(part.rows[place]):
                if k == 0 or row:
                    found.append((column, row, stored[place, k]))
    found.sort(key=lambda block: block[:2])
    rows = np.array([row for _, row, _ in found], np.int32)
    columns = np.array([column for column, _, _ in found], np.int32)
    blocks = np.array([block for *_, block in found]).reshape(-1, height, width)
    return rows, columns, blocks
