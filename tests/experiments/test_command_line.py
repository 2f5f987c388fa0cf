"""Command lines: every argument is checked at once, and has a help text."""

import argparse
import errno
import importlib
import os
import subprocess
import sys
from unittest.mock import Mock

import pytest
import tensorflow as tf

import tf_seqattn.criteo  # noqa: F401 (before anything touches tf.keras)
from tf_seqattn.experiments import command_line

# Options that an application cannot do without.
APPLICATIONS = {
    "tf_seqattn.criteo.__main__": "",
    "tf_seqattn.criteo.conversion": f"--data {__file__} --output out",
    "tf_seqattn.criteo.train": "",
    "tf_seqattn.criteo.grid": "",
    "tf_seqattn.imagenet.__main__": "",
    "tf_seqattn.digits.__main__": "",
}
WRONG = {
    command_line.share: ("90", "1", "-0.1", "nan", "x"),
    command_line.positive_share: ("0", "1", "nan", "x"),
    command_line.positive_int: ("0", "-1", "1.5", "x"),
    command_line.non_negative_int: ("-1", "x"),
    command_line.seed: ("-1", str(2**32)),
    command_line.positive_number: ("0", "-1", "inf", "nan", "x"),
    command_line.non_negative_number: ("-1", "inf", "x"),
    command_line.output_folder: (__file__, f"{__file__}/below", "gs://bucket/rows"),
    command_line.file_stem: ("", "a/b"),
}


class Built(Exception):
    """Carries the parser of an application out of it."""


def actions(name):
    """The arguments of an application, as its parser has them."""
    module = importlib.import_module(name)
    with pytest.MonkeyPatch.context() as patch:

        def stop(parser, *_):
            raise Built(parser)

        patch.setattr(argparse.ArgumentParser, "parse_args", stop)
        with pytest.raises(Built) as built:
            module.parse_arguments([])
    parser = built.value.args[0]
    return [action for action in parser._actions if action.dest != "help"]


def wrong_values(action):
    if action.choices is not None:
        return ("no such choice",)
    if action.type in WRONG:
        return WRONG[action.type]
    # What is left is `integer(low, high)`.
    return ("x", "-1") if action.type is not None else ()


CASES = [
    pytest.param(name, action, id=f"{name.split('.')[1]}-{action.option_strings[0]}")
    for name in APPLICATIONS
    for action in actions(name)
]


@pytest.mark.parametrize("name, action", CASES)
def test_every_argument_has_a_help_text_and_is_checked_at_once(name, action, capsys):
    assert action.help
    free = ("data", "validation_data")
    if action.nargs != 0 and action.dest not in free:
        assert action.type is not None or action.choices is not None
    module = importlib.import_module(name)
    repeated = action.nargs if isinstance(action.nargs, int) else 1
    for value in wrong_values(action):
        given = [action.option_strings[0], *[value] * repeated]
        with pytest.raises(SystemExit) as error:
            module.parse_arguments([*APPLICATIONS[name].split(), *given])
        assert error.value.code == 2
        assert action.option_strings[0] in capsys.readouterr().err


@pytest.mark.parametrize("name", APPLICATIONS)
def test_the_defaults_are_accepted(name):
    module = importlib.import_module(name)
    arguments = APPLICATIONS[name].split()
    if "imagenet" in name:
        # Fewer synthetic images than the paper's batch.
        arguments += ["--images", "4096"]
    module.parse_arguments(arguments)


@pytest.mark.parametrize(
    "name, arguments, message",
    [
        ("criteo.__main__", "--data nowhere", "No file matches nowhere"),
        ("criteo.__main__", "--data /", "/ is a folder"),
        ("criteo.__main__", "--rows 100", "--batch-size must be at most the 90"),
        ("criteo.__main__", "--rows 3 --batch-size 1", "rows to validate on"),
        ("criteo.conversion", "--data nowhere --output out", "No file matches"),
        ("criteo.conversion", "--table-size 1 2", "table_size=(1, 2)"),
        ("criteo.conversion", "--test-fraction 0.95", "leave rows to train on"),
        ("criteo.conversion", "--overwrite --repair", "give one"),
        ("criteo.conversion", "--max-rows 5 --order random", "--order time"),
        ("criteo.train", "--data nowhere", "No file matches nowhere"),
        ("criteo.train", "--table-rows 10", "--model dnn"),
        ("criteo.train", "--model dcn --numeric bucket", "--model dnn"),
        ("criteo.train", "--rows 100", "--batch-size must be at most the 90"),
        ("criteo.train", "--table-size 1", "--table-size must be at least 2"),
        ("criteo.grid", "--data nowhere", "No file matches nowhere"),
        ("criteo.grid", "--finetune-fraction 0.95", "dense_fraction"),
        ("imagenet.__main__", "--data nowhere", "Received: nowhere"),
        ("imagenet.__main__", "--batch-size 600", "at most --images, 512"),
    ],
)
def test_arguments_that_do_not_go_together_are_named(name, arguments, message, capsys):
    name = f"tf_seqattn.{name}"
    given = arguments.split()
    if "conversion" in name and "--data" not in given:
        given += APPLICATIONS[name].split()
    with pytest.raises(SystemExit) as error:
        importlib.import_module(name).parse_arguments(given)
    assert error.value.code == 2
    assert message in capsys.readouterr().err


def test_a_missing_extra_is_one_line_that_names_it(monkeypatch):
    with pytest.raises(
        ImportError, match=r"needs no_such_module.*tf-seqattn\[digits\]"
    ):
        command_line.require_extra("digits", "sys", "no_such_module")
    # So Python runs the `__init__.py` of a module that it was given by -m.
    monkeypatch.setattr(sys, "argv", ["-m"])
    with pytest.raises(SystemExit, match=r"error: .*tf-seqattn\[digits\]"):
        command_line.require_extra("digits", "no_such_module")


def test_a_missing_dataset_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    main = importlib.import_module("tf_seqattn.imagenet.__main__").main
    with pytest.raises(SystemExit, match=r"error: .*tf-seqattn\[imagenet\]"):
        command_line.run(lambda: main(["--data", "tfds:imagenet2012", "--output", "o"]))


def test_errors_of_other_packages_keep_their_traceback():
    with pytest.raises(ValueError, match="invalid literal"):
        command_line.run(lambda: int("x"))


def test_a_full_disk_is_one_line_wherever_it_is_met():
    path = "/out/backup/chief"
    for error in (
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path),
        tf.errors.ResourceExhaustedError(
            None, None, f"{{{{node x}}}} {path}; No space left on device [Op:SaveV2]"
        ),
        tf.errors.UnknownError(None, None, f"Traceback:\n{path}; Disk quota exceeded"),
    ):
        # Raised by code of another package, which has a traceback otherwise.
        raising = Mock(side_effect=error)
        with pytest.raises(SystemExit, match=r"^error: .*Make room") as stopped:
            command_line.run(raising)
        text = str(stopped.value)
        assert path in text and "\n" not in text and "Op:" not in text
    with pytest.raises(tf.errors.ResourceExhaustedError):
        error = tf.errors.ResourceExhaustedError(None, None, "OOM")
        command_line.run(Mock(side_effect=error))


@pytest.mark.slow
def test_a_command_without_its_extra_ends_in_one_line(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util as u\n"
        "find = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name == 'polars' else find(name, *a)\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "tf_seqattn.criteo.grid", "--help"],
        env={"PYTHONPATH": f"{tmp_path}:.", "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error:") and "tf-seqattn[recommenders]" in last
    assert "Traceback" not in done.stderr
