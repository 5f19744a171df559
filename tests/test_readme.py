"""The README tells the truth: about files, settings, memory, costs and exit codes."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from text2sql import errors
from text2sql.config.reference import excerpt
from text2sql.config_file import load_settings
from text2sql.training.planner.cost import operations
from text2sql.training.planner.memory import ACTIVATIONS, ADAPTER, GRADIENTS, OPTIMIZER, UNQUANTISED, WEIGHTS
from text2sql.training.planner.plan import GIB, Plan, plan_run

PROJECT = Path(__file__).parents[1]
README = PROJECT / "README.md"


def part(name: str) -> str:
    found = re.search(rf"<!-- {name}: begin.*?-->\n(.*?)<!-- {name}: end -->", README.read_text("utf-8"), re.DOTALL)
    assert found is not None, f"README.md has lost its part {name}"
    return found[1]


def listed() -> dict[str, str]:
    """Paths of the tree with what is said of them; folders end in a slash."""
    found: dict[str, str] = {}
    parents: list[str] = []
    for line in part("tree").strip().removeprefix("```").removesuffix("```").strip("\n").splitlines():
        match = re.fullmatch(r"((?:  )*)(\S+)(?: +(.+))?", line)
        assert match is not None, line
        depth = len(match[1]) // 2
        assert depth <= len(parents), f"indented too far: {line}"
        parents = parents[:depth]
        found["".join(parents) + match[2]] = match[3] or ""
        if match[2].endswith("/"):
            parents.append(match[2])
    return found


def tracked() -> list[str]:
    run = subprocess.run(["git", "ls-files", "-z"], cwd=PROJECT, capture_output=True, text=True, check=False)
    if run.returncode:
        pytest.skip("not a git checkout")
    return [path for path in run.stdout.split("\0") if path and (PROJECT / path).exists()]


def test_every_tracked_file_has_a_line():
    """Its own, or that of a folder which is shown closed; the line of a package speaks for its __init__.py."""
    tree = listed()
    closed = [path for path in tree if path.endswith("/") and not any(p != path and p.startswith(path) for p in tree)]
    missing = [
        path
        for path in tracked()
        if path not in tree
        and not path.endswith("__init__.py")
        and not any(path.startswith(folder) for folder in closed)
    ]
    assert not missing, "give each a line in the tree of README.md"


def test_every_line_is_about_something_that_exists():
    assert [path for path in listed() if not (PROJECT / path).exists()] == []


def test_every_file_is_explained():
    assert [path for path, words in listed().items() if not words and not path.endswith("/")] == []


@pytest.fixture(scope="module")
def planned() -> Iterator[Plan]:
    """What `plan` says of all rows where neither model nor rows have been downloaded, as on most readers' machines."""
    with pytest.MonkeyPatch.context() as patch:
        for module in ("shape", "workload"):
            patch.setattr(f"text2sql.training.planner.{module}.in_cache", lambda *_, **__: False)
        yield plan_run(load_settings(PROJECT / "configs" / "mistral_7b.yaml", ["data.subset_fraction=1.0"]))


def memory_table(plan: Plan) -> str:
    """QLoRA as planned, beside full fine-tuning: 16 bytes a parameter in mixed precision (Rajbhandari et al. 2020)."""
    shape, parts = plan.shape, plan.devices[0].memory.parts
    inside, rest = shape.linear_parameters, shape.parameters - shape.linear_parameters
    told = (WEIGHTS, UNQUANTISED, ADAPTER, GRADIENTS, OPTIMIZER, ACTIVATIONS)
    other = sum(size for name, size in parts.items() if name not in told)

    def qlora(part: str, count: int) -> str:
        return f"{count:,} × {parts[part] / count:.3g} | {parts[part] / GIB:.2f}"

    def all_weights(size: int, count: int = shape.parameters) -> str:
        return f"{count:,} × {size} | {size * count / GIB:.2f}"

    nothing, uncounted = " | ", "not counted |"
    rows = [
        ("", "QLoRA | GiB", "all weights | GiB"),
        ("---", "--: | --:", "--: | --:"),
        ("linear layers", qlora(WEIGHTS, inside), all_weights(2, inside)),
        ("embeddings, head, norms", qlora(UNQUANTISED, rest), all_weights(2, rest)),
        ("adapter", qlora(ADAPTER, plan.adapter), nothing),
        ("gradients", qlora(GRADIENTS, plan.adapter), all_weights(2)),
        ("AdamW's two moments", qlora(OPTIMIZER, plan.adapter), all_weights(8)),
        ("weights in 32 bits", nothing, all_weights(4)),
        ("activations, computed again", f"| {parts[ACTIVATIONS] / GIB:.2f}", uncounted),
        ("everything else", f"| {other / GIB:.2f}", uncounted),
        ("**in all**", f"| **{sum(parts.values()) / GIB:.2f}**", f"| **>\u00a0{16 * shape.parameters / GIB:.1f}**"),
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def cost_table(plan: Plan) -> str:
    rows = [
        f"| {found.device.name} | {'computed again' if found.checkpointing else 'kept'} | "
        f"{found.memory.total / GIB:.1f} of {found.device.memory_gib:.1f} | "
        f"{found.cost.tokens_per_second:,.0f} | {found.cost.hours:.1f} | {found.cost.money:.2f} |"
        for found in plan.devices
        if found.fits
    ]
    head = f"| GPU | activations | GiB | tokens/s | hours | {plan.currency} |"
    return "\n".join([head, "|---|---|--:|--:|--:|--:|", *rows, ""])


def test_tables_made_by_the_code_are_what_it_says(planned: Plan):
    made = {"configuration": excerpt(), "memory": memory_table(planned), "cost": cost_table(planned)}
    if os.environ.get("UPDATE_README"):
        text = README.read_text("utf-8")
        for name, table in made.items():
            before, begin, _, end, after = re.split(rf"(<!-- {name}: (?:begin|end).*?-->\n)", text)
            text = before + begin + table + end + after
        README.write_text(text, "utf-8")
    assert {name: part(name) for name in made} == made, "UPDATE_README=1 writes them anew"


def test_figures_between_the_tables_are_the_planner_s(planned: Plan):
    """Those of the prose, which no one writes anew."""
    told = " ".join(README.read_text("utf-8").split("## How QLoRA works\n")[1].split("\n## Use it\n")[0].split())
    shape, work, first = planned.shape, planned.workload, planned.devices[0].memory
    layer = next(linear for linear in shape.linears if linear.name == "q_proj")
    rank = planned.method.rank
    wanted = [
        f"{layer.inputs:,} × {layer.outputs:,} matrix and r = {rank}",
        f"{rank * (layer.inputs + layer.outputs):,} numbers in place of {layer.inputs * layer.outputs:,}",
        f"{len(planned.method.targets)} matrices of each of its {shape.layers} layers",
        f"{planned.adapter:,} numbers, {planned.trainable_share:.2%} of the model",
        f"{8 * first.parts[WEIGHTS] / shape.linear_parameters:.3f} bits",
        f"{work.largest.rows} rows of {work.largest.length} tokens",
        f"{work.epochs:g} epochs of all {work.rows:,} rows",
        f"{planned.mfu:.0%} of the card's peak",
        f"prices of {planned.prices_as_of}",
    ]
    assert [text for text in wanted if text not in told] == []


def test_figures_of_the_performance_page_are_the_planner_s(planned: Plan):
    told = " ".join((PROJECT / "docs" / "performance.md").read_text("utf-8").split())
    large = plan_run(load_settings(PROJECT / "configs" / "mistral_7b_80gb.yaml"), rows=planned.workload.rows)
    cards = {found.device.name: found for found in large.devices}
    a100, h100 = cards["A100-80GB"], cards["H100"]
    claimed = 45 * 60 * a100.device.tflops  # 10^12 operations
    again = replace(planned.method, checkpointing=True)
    wanted = [
        f"{a100.memory.total / GIB:.0f} GiB and {a100.cost.hours:.1f} hours on an A100 of 80 GB",
        f"{h100.cost.hours:.1f} hours on an H100",
        f"At {planned.workload.tokens / planned.workload.rows / planned.workload.epochs:.0f} tokens a row",
        f"{planned.teraflop / claimed:.0%} of the card's peak",
        f"done at {planned.mfu:.0%} of the device's peak",
    ]
    assert [text for text in wanted if text not in told] == []
    assert operations(planned.shape, again, planned.workload, recomputed=True) > claimed * 1e12, "more than all of it"


def test_every_exit_code_of_an_error_is_explained():
    table = README.read_text("utf-8").split("## Exit codes\n")[1].split("\n## ")[0]
    told = {int(code) for code in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)}
    codes = {
        kind.exit_code
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, errors.Text2SQLError)
    }
    from pipelines.launch import KILLED_EXIT
    from text2sql.errors import GATE_FAILED

    assert told == codes | {0, GATE_FAILED, KILLED_EXIT}


def test_commands_name_files_that_exist():
    named = set(re.findall(r"configs/\w+\.yaml", README.read_text("utf-8")))
    assert named
    assert [path for path in named if not (PROJECT / path).is_file()] == []


def test_chores_are_those_that_make_help_lists():
    run = subprocess.run(["make", "help"], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert [line for line in run.stdout.splitlines() if len(line) > 80] == [], "wraps on a terminal"
    chores = set(re.findall(r"^  make (\w+)", run.stdout, re.MULTILINE))
    assert {"install", "train", "test", "lint", "lock"} <= chores
    told = set(re.findall(r"(?:^|`|=\w+ )make (\w+)", README.read_text("utf-8"), re.MULTILINE))
    assert {"train", "test"} <= told <= chores
