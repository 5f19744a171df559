"""Messages in docs/troubleshooting.md are those that the code says, alerts in docs/operations.md those that fire."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from tests.docs.pages import PROJECT, table_cells

ROOMS = ("text2sql", "pipelines", "stacks", "steps", "materializers")
MESSAGES = [cell.strip("`") for cell in table_cells(Path("docs/troubleshooting.md"))]
GAP = "…"


@cache
def said() -> list[str]:
    """Every text in the sources, joined as Python joins it; what is filled in is a gap."""
    files = [PROJECT / "run.py", *(path for room in ROOMS for path in (PROJECT / room).rglob("*.py"))]
    found: list[str] = []
    for path in files:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.JoinedStr):
                found.append("".join(str(p.value) if isinstance(p, ast.Constant) else "\0" for p in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found


def is_said(message: str) -> bool:
    parts = [re.escape(part.strip()) for part in message.split(GAP) if part.strip()]
    pattern = re.compile(r"[^\n]*".join(parts))
    return any(pattern.search(text) for text in said())


@pytest.mark.parametrize("message", MESSAGES)
def test_a_message_stands_in_the_sources(message: str):
    assert max(len(part.strip()) for part in message.split(GAP)) >= 8, "too little of it to look for"
    assert is_said(message)


def test_a_message_that_nobody_says_is_noticed():
    assert len(MESSAGES) > 40
    assert is_said("the GPU's memory ran out")
    assert not is_said("the GPU's memory has run out")
    assert not is_said("no column … among … in the file")


def test_every_alert_is_explained():
    rules = (PROJECT / "k8s/components/monitoring/prometheusrule-server.yaml").read_text("utf-8")
    alerts = set(re.findall(r"alert: (\w+)", rules))
    assert alerts
    assert alerts == {cell for cell in table_cells(Path("docs/operations.md")) if cell.startswith("Text2SQL")}
