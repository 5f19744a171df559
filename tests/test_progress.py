"""Waits are told of on a terminal while they last, and in a log once they are long."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from tests.terminal import on_terminal
from text2sql import progress
from text2sql.progress import working

ROOT = Path(__file__).parents[1]


def test_a_terminal_sees_what_is_done_and_keeps_none_of_it():
    script = (
        "import time; from text2sql.progress import progress, working\n"
        "with working('[loading] a model'): time.sleep(0.5)\n"
        "with progress('judging', 1_000) as advance:\n"
        "    for _ in range(4): advance(250); time.sleep(0.15)\n"
        "print('done')\n"
    )
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "PYTHONPATH": str(ROOT)}
    done, text = on_terminal([sys.executable, "-c", script], ROOT, environment)
    assert (done.returncode, done.stdout) == (0, "done\n")
    assert "[loading] a model 0:00:00" in text
    assert "judging" in text
    assert "100%" in text
    assert done.stderr.rstrip().endswith("\x1b[2K"), "the last line is wiped"


def test_a_log_has_a_line_for_a_long_wait_and_none_for_a_short_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    with working("quick"):
        pass
    monkeypatch.setattr(progress, "PATIENCE", 0.05)
    with working("loading [x]"):
        time.sleep(0.3)
    assert capsys.readouterr().err == "  loading [x] …\n"


def test_a_log_has_a_line_of_a_bar_once_it_is_long_and_then_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(progress, "PATIENCE", 0.05)
    with progress.progress("judging", 2_000) as advance:
        advance(500)
        time.sleep(0.1)
        advance(500)
        advance(500)
        monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
        advance(250)
    assert capsys.readouterr().err == "  judging 1,000/2,000\n  judging 1,750/2,000\n"
