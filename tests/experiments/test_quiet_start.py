"""A command starts without chatter, and no real error is hidden."""

import subprocess
import sys

import pytest

from tf_seqattn.experiments.quiet_start import start_quietly, without_chatter

INFORMATION = [
    b"WARNING: All log messages before absl::InitializeLog() is called\n",
    b"I0000 00:00:1795566567.1 14473 cudart_stub.cc:31] Could not find cuda drivers\n",
    b"To enable the following instructions: AVX2 FMA, in other operations\n",
]
NO_CARD = b"E0000 00:00:17955.8 14122 cuda_platform.cc:52] failed call to cuInit: ...\n"
ERRORS = [b"E0000 00:00:1 2 a.cc:3] out of memory\n", b"Traceback (most recent call)\n"]


def test_real_errors_are_shown():
    lines = [*INFORMATION, NO_CARD, *ERRORS]
    assert without_chatter(lines, has_card=False) == ERRORS
    assert without_chatter(lines, has_card=True) == [NO_CARD, *ERRORS]


@pytest.mark.parametrize("argv", [["script.py"], ["-c"], []])
def test_other_processes_are_left_alone(argv, monkeypatch):
    monkeypatch.setattr(sys, "argv", argv)
    monkeypatch.delitem(sys.modules, "tensorflow")
    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL", raising=False)
    start_quietly()
    assert "tensorflow" not in sys.modules


def test_a_command_shows_its_own_errors_alone():
    done = subprocess.run(
        [sys.executable, "-m", "tf_seqattn.criteo.train", "--data", "nowhere"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "No file matches nowhere" in done.stderr
    for chatter in ("cuInit", "absl::InitializeLog", "I0000", "Traceback"):
        assert chatter not in done.stderr
