"""The Dockerfiles, without Docker: pinned, no root, no secrets, and everything in them that what they start imports."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = Path(__file__).parents[2]
FILES = {name: PROJECT / "images" / name / "Dockerfile" for name in ("server", "trainer")}
IGNORED = [line for line in (PROJECT / ".dockerignore").read_text("utf-8").splitlines() if line and line[0] != "#"]


def instructions(name: str) -> list[tuple[str, str]]:
    """Each with its arguments, continued lines joined."""
    text = re.sub(r"^#.*\n", "", FILES[name].read_text("utf-8"), flags=re.MULTILINE).replace("\\\n", " ")
    return [
        (word.upper(), rest.strip()) for word, _, rest in (line.partition(" ") for line in text.splitlines() if line)
    ]


@pytest.mark.parametrize("name", FILES)
def test_bases_are_pinned_and_the_last_stage_holds_no_tools(name: str):
    stages = [rest for word, rest in instructions(name) if word == "FROM"]
    assert len(stages) >= 2
    for stage in stages:
        image = stage.split()[0]
        assert re.fullmatch(r"[\w./-]+(:v?\d+\.\d+\.\d+[\w.-]*|@sha256:[0-9a-f]{64})", image), image
    last = [rest for _, rest in instructions(name)][-1 - [w for w, _ in instructions(name)][::-1].index("FROM") :]
    assert not any("pip install" in rest for rest in last)


@pytest.mark.parametrize("name", FILES)
def test_it_runs_as_the_user_that_the_pods_name(name: str):
    [user] = [rest for word, rest in instructions(name) if word == "USER"]
    manifest = {"server": "deployment-server.yaml", "trainer": "cronjob-retrain.yaml"}[name]
    text = (PROJECT / "k8s" / "base" / manifest).read_text("utf-8")
    assert user == "10001:10001"
    assert "runAsUser: 10001" in text
    assert "runAsGroup: 10001" in text
    assert [word for word, _ in instructions(name)].index("USER") > max(
        number for number, (word, _) in enumerate(instructions(name)) if word in ("RUN", "COPY")
    )


@pytest.mark.parametrize("name", FILES)
def test_no_secret_and_nothing_from_the_net_but_packages(name: str):
    for word, rest in instructions(name):
        assert word != "ADD"
        if word in ("ARG", "ENV"):
            assert not re.search(r"TOKEN|SECRET|PASSWORD|_KEY|CREDENTIAL", rest, re.IGNORECASE)
        assert not re.search(r"curl|wget|git clone|://", rest)


@pytest.mark.parametrize("name", FILES)
def test_what_is_copied_is_there_and_let_through(name: str):
    sources = [
        source
        for word, rest in instructions(name)
        if word == "COPY" and not rest.startswith("--from")
        for source in rest.split()[:-1]
    ]
    assert sources
    for source in sources:
        assert (PROJECT / source).exists(), source
        assert f"!{source}" in IGNORED, f"{source} is not let through by .dockerignore"
    assert IGNORED[0] == "*"


def test_everything_that_is_let_through_is_copied():
    copied = {word for name in FILES for _, rest in instructions(name) for word in rest.split()}
    assert {line[1:] for line in IGNORED if line[0] == "!"} <= copied


def test_the_manifests_run_these_images_and_the_commands_build_them():
    base = yaml.safe_load((PROJECT / "k8s" / "base" / "kustomization.yaml").read_text("utf-8"))
    wanted = {f"{image['newName']}:{image['newTag']}" for image in base["images"]}
    built = {re.search(r"-t (\S+) \.", path.read_text("utf-8"))[1] for path in FILES.values()}  # type: ignore[index]
    assert built < wanted
    assert wanted - built == {"vllm/vllm-openai:v0.33.0"}


def closure(names: set[str]) -> set[str]:
    """Distributions with everything that they require here, without extras."""
    found: set[str] = set()
    left = {canonicalize_name(name) for name in names}
    while left:
        name = left.pop()
        found.add(name)
        try:
            lines = requires(name) or []
        except PackageNotFoundError:
            continue
        needed = [Requirement(line) for line in lines]
        left |= {
            canonicalize_name(n.name) for n in needed if n.marker is None or n.marker.evaluate({"extra": ""})
        } - found
    return found


SERVER = """
import json, sys
import text2sql.__main__, text2sql.cli.serve, text2sql.serving.server, text2sql.serving.engines
import text2sql.serving.transformers_engine, text2sql.serving.vllm_engine, text2sql.serving.uploads
import text2sql.serving.docs, text2sql.serving.guard_pool, text2sql.serving.chat, text2sql.deployment.artifacts
import fsspec.implementations.local, s3fs, multipart
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


def test_the_server_has_what_it_imports():
    """All third-party packages that its modules load, on this machine, are among what its image installs."""
    lines = (PROJECT / "images" / "server" / "requirements.in").read_text("utf-8").splitlines()
    there = closure({line for line in lines if line and line[0] != "#"})
    command = [sys.executable, "-W", "ignore", "-c", SERVER]
    run = subprocess.run(command, capture_output=True, text=True, check=True, cwd=PROJECT)
    loaded = set(json.loads(run.stdout.splitlines()[-1])) - {"text2sql"}
    owners = packages_distributions()
    needed = {canonicalize_name(owner) for module in loaded for owner in owners.get(module, [])}
    optional = {canonicalize_name(line) for line in OPTIONAL}
    assert needed - there - optional == set()
    pinned = {line.split("==")[0] for line in (PROJECT / "requirements.txt").read_text("utf-8").splitlines()}
    direct = {canonicalize_name(line) for line in lines if line and line[0] != "#"}
    assert direct <= {canonicalize_name(name) for name in pinned}, "or its version would be anybody's guess"


OPTIONAL = ("colorama", "greenlet", "mypy-extensions", "sniffio", "watchfiles")
"""What libraries load where it happens to be installed, and do without."""
