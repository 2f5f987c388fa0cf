"""A write replaces everything at its path or nothing, and no foreign files."""

import json
import os
import pathlib
import stat
import subprocess
import sys

import pytest

from tf_seqattn import files

KIND = ("manifest.json", ("shards",))


def mode_of(path: pathlib.Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def names_in(folder: pathlib.Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def in_a_process_that_may_write(num_bytes: int, code: str) -> str:
    """The output of a program whose files may have at most so many bytes."""
    # Only the module is imported: the package would import TensorFlow.
    begin = f"""
import importlib.util, resource
resource.setrlimit(resource.RLIMIT_FSIZE, ({num_bytes}, {num_bytes}))
spec = importlib.util.spec_from_file_location("files", {files.__file__!r})
files = importlib.util.module_from_spec(spec)
spec.loader.exec_module(files)
"""
    done = subprocess.run(
        [sys.executable, "-c", begin + code], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# Files.


@pytest.mark.parametrize(
    ("content", "stored"), [(b"\0\xff", b"\0\xff"), ("ä", b"\xc3\xa4")]
)
def test_write_whole(tmp_path, content, stored):
    files.write_whole(tmp_path / "file", content)
    assert (tmp_path / "file").read_bytes() == stored
    assert names_in(tmp_path) == ["file"]


def test_a_new_file_has_the_mode_that_the_user_asks_for(tmp_path):
    before = os.umask(0o027)
    try:
        files.write_whole(tmp_path / "file", "new")
    finally:
        os.umask(before)
    assert mode_of(tmp_path / "file") == 0o640


def test_a_replaced_file_keeps_its_mode(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    path.chmod(0o604)
    files.write_whole(path, "new")
    assert path.read_text() == "new" and mode_of(path) == 0o604


@pytest.mark.parametrize("exists", [False, True])
def test_a_link_to_a_file_is_followed(tmp_path, exists):
    (tmp_path / "there").mkdir()
    target, link = tmp_path / "there" / "target", tmp_path / "link"
    if exists:
        target.write_text("old")
    link.symlink_to(target)
    files.write_whole(link, "new")
    assert link.is_symlink() and target.read_text() == "new"
    assert names_in(tmp_path) == ["link", "there"]


def test_write_json(tmp_path):
    path = tmp_path / "figures.json"
    files.write_json(path, {"rows": [1, 2.5, None]})
    assert json.loads(path.read_text()) == {"rows": [1, 2.5, None]}
    with pytest.raises(TypeError):
        files.write_json(path, object())
    assert json.loads(path.read_text()) == {"rows": [1, 2.5, None]}


def test_a_full_disk_is_named_and_changes_nothing(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    code = f"""
try:
    files.write_whole({str(path)!r}, bytes(10_000))
except OSError as error:
    print(error)
"""
    message = in_a_process_that_may_write(5000, code)
    assert "File too large" in message and str(path) in message
    assert path.read_text() == "old" and names_in(tmp_path) == ["file"]


def test_paths_where_no_file_can_be_written(tmp_path):
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    for path, message in [
        (tmp_path, "is a folder"),
        (tmp_path / "missing" / "file", "missing' is not a writable folder. Make it"),
        (os.devnull, "not a regular file"),
        (loop, "leads nowhere"),
    ]:
        with pytest.raises(ValueError, match=message):
            files.check_file_path(path)


# Folders.


def write_two(folder: pathlib.Path):
    (folder / "manifest.json").write_text("new")
    (folder / "shards").mkdir()
    (folder / "shards" / "0").write_text("new")


def old_folder(path: pathlib.Path) -> pathlib.Path:
    (path / "shards").mkdir(parents=True)
    (path / "manifest.json").write_text("old")
    (path / "shards" / "1").write_text("old")
    return path


def is_new(path: pathlib.Path) -> bool:
    return (path / "manifest.json").read_text() == "new" and (
        names_in(path / "shards") == ["0"]
    )


@pytest.mark.parametrize("before", ["nothing", "an empty folder", "an old one"])
def test_replace_folder(tmp_path, before):
    path = tmp_path / "log"
    if before != "nothing":
        path.mkdir()
        path.chmod(0o705)
    if before == "an old one":
        old_folder(path)
    files.replace_folder(path, write_two, *KIND)
    assert is_new(path) and names_in(tmp_path) == ["log"]
    if before != "nothing":
        assert mode_of(path) == 0o705


def test_a_link_to_a_folder_is_followed(tmp_path):
    target, link = old_folder(tmp_path / "target"), tmp_path / "link"
    link.symlink_to(target)
    files.replace_folder(link, write_two, *KIND)
    assert link.is_symlink() and is_new(target)
    assert names_in(tmp_path) == ["link", "target"]


@pytest.mark.parametrize("foreign", [".git", "notes.txt"])
@pytest.mark.parametrize("of_the_kind", [False, True])
def test_a_folder_of_the_user_is_not_replaced(tmp_path, foreign, of_the_kind):
    path = tmp_path / "mine"
    path.mkdir()
    if of_the_kind:
        (path / "manifest.json").write_text("old")
    (path / foreign).write_text("mine")
    link = tmp_path / "link"
    link.symlink_to(path)
    for named in (path, link):
        with pytest.raises(ValueError, match=f"holds '{foreign}': only an empty"):
            files.replace_folder(named, lambda new: pytest.fail("work"), *KIND)
    assert (path / foreign).read_text() == "mine"
    assert names_in(tmp_path) == ["link", "mine"]


def test_paths_where_no_folder_can_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    (tmp_path / "within").mkdir()
    monkeypatch.chdir(tmp_path / "within")
    for path, message in [
        (".", "current folder or one around it"),
        ("..", "current folder or one around it"),
        ("/proc", "mount point"),
        (tmp_path / "file", "is a file"),
        (tmp_path / "missing" / "log", "missing' is not a writable folder"),
    ]:
        with pytest.raises(ValueError, match=message):
            files.check_folder_path(path, *KIND)


def test_a_folder_that_cannot_be_finished_leaves_the_old_one(tmp_path):
    path = old_folder(tmp_path / "log")

    def fail(folder):
        write_two(folder)
        raise RuntimeError("it is wrong")

    with pytest.raises(RuntimeError, match="it is wrong"):
        files.replace_folder(path, fail, *KIND)
    assert (path / "shards" / "1").read_text() == "old"
    assert names_in(tmp_path) == ["log"]


def test_what_arrives_during_the_work_is_not_lost(tmp_path):
    path = tmp_path / "log"

    def write(folder):
        write_two(folder)
        path.mkdir()
        (path / "notes.txt").write_text("mine")

    with pytest.raises(ValueError, match="holds 'notes.txt'"):
        files.replace_folder(path, write, *KIND)
    assert (path / "notes.txt").read_text() == "mine"


def test_a_swap_that_fails_puts_the_old_folder_back(tmp_path, monkeypatch):
    path = old_folder(tmp_path / "log")
    rename = os.rename

    def fail_once(source, target):
        if pathlib.Path(source).name == "new":
            raise OSError(5, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(os, "rename", fail_once)
    with pytest.raises(OSError, match="Input/output error.*log"):
        files.replace_folder(path, write_two, *KIND)
    assert (path / "manifest.json").read_text() == "old"
    assert names_in(tmp_path) == ["log"]


def test_a_kill_between_the_two_renames_leaves_both_folders(tmp_path):
    path = old_folder(tmp_path / "log")
    code = f"""
import os
rename = os.rename
def rename_and_die(source, target):
    rename(source, target)
    os._exit(0)
os.rename = rename_and_die
write = lambda folder: (folder / "manifest.json").write_text("new")
files.replace_folder({str(path)!r}, write, "manifest.json", ("shards",))
"""
    in_a_process_that_may_write(10**6, code)
    (room,) = tmp_path.iterdir()
    assert room.name.startswith(".writing-")
    assert (room / "old" / "manifest.json").read_text() == "old"
    assert (room / "new" / "manifest.json").read_text() == "new"


def test_a_full_disk_is_named_for_a_folder(tmp_path):
    path = old_folder(tmp_path / "log")
    code = f"""
write = lambda folder: (folder / "manifest.json").write_bytes(bytes(10_000))
try:
    files.replace_folder({str(path)!r}, write, "manifest.json", ("shards",))
except OSError as error:
    print(error)
"""
    message = in_a_process_that_may_write(5000, code)
    assert "File too large" in message and str(path) in message
    assert (path / "manifest.json").read_text() == "old"
    assert names_in(tmp_path) == ["log"]
