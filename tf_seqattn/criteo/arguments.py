"""Checks of the rows that a command line asks for, before any of them is made."""

import argparse

from tf_seqattn.criteo.log.inputs import find_files


def check_rows(options: argparse.Namespace, batch_size: int | None = None) -> None:
    """Checks that data are there, or that enough synthetic rows are asked for.

    Args:
      options: `data`, `rows`, `validation_fraction` and `batch_size`.
      batch_size: in place of that of the options.

    Raises:
      FileNotFoundError: for data that are not there.
      ValueError: if the synthetic rows leave none to validate on, or too few for a
        batch.
    """
    if options.data:
        find_files(options.data)
        return
    batch_size = batch_size or options.batch_size
    held_out = round(options.rows * options.validation_fraction)
    if not held_out:
        raise ValueError(
            "--validation-fraction must leave rows to validate on. Received: "
            f"--validation-fraction {options.validation_fraction} --rows {options.rows}"
        )
    left = options.rows - held_out
    if left < batch_size:
        raise ValueError(
            f"--batch-size must be at most the {left:,} training rows of --rows "
            f"{options.rows}. Received: {batch_size}"
        )
