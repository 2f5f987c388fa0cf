"""What a training that was broken off may go on with."""

import argparse
import pathlib

import pytest

from tf_seqattn.experiments.resuming import unfinished_training


def options(**changes):
    given = {"output": pathlib.Path("a"), "steps": 100, "table_size": (512,)}
    return argparse.Namespace(**{**given, **changes})


def break_off(folder, with_backup=True):
    with (
        pytest.raises(KeyboardInterrupt),
        unfinished_training(folder, options(), ("output",)),
    ):
        if with_backup:
            (folder / "backup").mkdir()
        raise KeyboardInterrupt


def enter(folder, **changes):
    with unfinished_training(folder, options(**changes), ("output",)):
        pass


def test_the_same_options_go_on(tmp_path):
    break_off(tmp_path)
    enter(tmp_path, output=pathlib.Path("b"))
    # Finished: what comes next is another training.
    enter(tmp_path, steps=7)


def test_other_options_are_told_and_nothing_is_lost(tmp_path):
    break_off(tmp_path)
    for _ in range(2):
        with pytest.raises(ValueError, match="--steps: 100 then, 7 now") as error:
            enter(tmp_path, steps=7)
    assert "--table-size" not in str(error.value)
    with pytest.raises(ValueError, match="--table-size"):
        enter(tmp_path, table_size=(512, 3))
    enter(tmp_path)


def test_without_a_backup_there_is_nothing_to_go_on_from(tmp_path):
    folder = tmp_path / "made" / "for it"
    break_off(folder, with_backup=False)
    enter(folder, steps=7)
