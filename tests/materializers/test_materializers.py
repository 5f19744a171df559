"""Artifacts come back as they went, are named by their content, and are shown with every text escaped."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, DatasetDict

from materializers.types import ModelFolder, Report, TrainingHistory
from text2sql.data.files import list_files, sha256_folder
from text2sql.errors import ModelError
from text2sql.evaluation.gate import RuleResult, Verdict
from text2sql.evaluation.types import Evaluation, RowScore, SystemScores, TestRow

HOSTILE = "<script>alert(1)</script>"
ROWS = {"question": ["how many?", HOSTILE, None], "row_id": [0, 1, 2]}
SCORES = SystemScores(
    "base", {"perplexity": float("inf"), "exact_match": 0.5}, [HOSTILE], [RowScore(*[True] * 4, None)], 1.0
)
DATACLASSES = [
    ("ReportMaterializer", Report("Checks", {"rows": 3, HOSTILE: None}, [{"reason": HOSTILE, "rows": 1}])),
    (
        "TrainingHistoryMaterializer",
        TrainingHistory([{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.5}], {"x": HOSTILE}),
    ),
    ("VerdictMaterializer", Verdict(False, [RuleResult(HOSTILE, 0.1, 0.5, False, "too low", (0.05, 0.15))])),
    ("EvaluationMaterializer", Evaluation([TestRow(HOSTILE, "CREATE", "SELECT")], [SCORES], "m", "2026-01-01")),
]


@pytest.fixture
def make(zenml_client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A materializer by name, over a folder in the session's artifact store; and a model cache of the test's own."""
    monkeypatch.setenv("TEXT2SQL_CACHE", str(tmp_path / "cache"))
    uri = Path(zenml_client.active_stack.artifact_store.path) / "tests" / tmp_path.name
    uri.mkdir(parents=True)

    def by_name(name: str) -> Any:
        from materializers import dataset, figures, model_folder

        found = [getattr(module, name) for module in (dataset, figures, model_folder) if hasattr(module, name)]
        return found[0](str(uri))

    return by_name


def page(materializer: Any, data: Any) -> str:
    [path] = [path for path in materializer.save_visualizations(data) if path.endswith(".html")]
    text = Path(path).read_text(encoding="utf-8")
    assert HOSTILE not in text
    assert "<script" not in text.lower(), "the dashboard runs none"
    return text


@pytest.mark.parametrize(("name", "data"), DATACLASSES, ids=[name for name, _ in DATACLASSES])
def test_dataclasses(make: Any, name: str, data: Any):
    materializer = make(name)
    materializer.save(data)
    assert materializer.load(object) == data
    assert "&lt;script&gt;" in page(materializer, data)
    assert materializer.compute_content_hash(data) == materializer.compute_content_hash(materializer.load(type(data)))


def test_metadata_holds_only_what_zenml_can_store(make: Any):
    materializer = make("EvaluationMaterializer")
    metadata = materializer.extract_metadata(DATACLASSES[3][1])
    assert metadata == {"rows": 1, "base_exact_match": 0.5}


def test_an_evaluation_is_shown_as_its_summary_and_its_report(make: Any):
    from text2sql.evaluation.summary import summary_markdown

    materializer, evaluation = make("EvaluationMaterializer"), DATACLASSES[3][1]
    summary, report = materializer.save_visualizations(evaluation)
    assert Path(summary).read_text(encoding="utf-8") == summary_markdown(evaluation, None)
    assert "Examples" in Path(report).read_text(encoding="utf-8")


def test_pages_show_shares_and_leave_out_what_is_empty(make: Any):
    report = Report("In training too", {}, [{"split": "test", "same_table": 0.703704}], ["same_table"])
    text = page(make("ReportMaterializer"), report)
    assert "70.4%" in text
    assert "<th>same table</th>" in text
    rows = Dataset.from_dict({"question": ["q" * 50], "repairs": [""]})
    text = page(make("DatasetMaterializer"), rows)
    assert '<td class="long">' in text
    assert "repairs" not in text


def test_a_verdict_is_shown_with_its_reasons_and_intervals(make: Any):
    text = page(make("VerdictMaterializer"), DATACLASSES[2][1])
    cells = ("✗", "too low; its 95% interval is [0.050, 0.150]")
    assert [cell for cell in cells if f">{cell}</td>" not in text] == []


def test_the_loss_curve_is_a_picture(make: Any):
    text = page(make("TrainingHistoryMaterializer"), DATACLASSES[1][1])
    assert "<svg" in text
    assert "training loss from 2.000 at step 1 to 1.500 at step 2" in text


@pytest.mark.parametrize("kind", ["rows", "splits", "none"])
def test_rows(make: Any, kind: str):
    rows = Dataset.from_dict(ROWS)
    data = {"rows": rows, "splits": DatasetDict(train=rows, test=rows.select([0])), "none": rows.select([])}[kind]
    materializer = make("DatasetMaterializer")
    materializer.save(data)
    loaded = materializer.load(type(data))
    assert type(loaded) is type(data)
    parts = data.items() if isinstance(data, DatasetDict) else [(None, data)]
    for name, part in parts:
        found = loaded[name] if name else loaded
        assert found.to_dict() == part.to_dict()
        assert found.features == part.features
    assert materializer.extract_metadata(data)["rows"] == {"rows": 3, "splits": 4, "none": 0}[kind]
    assert ("&lt;script&gt;" in page(materializer, data)) == (kind != "none")


def test_equal_rows_in_other_buffers_have_the_same_hash(make: Any):
    materializer = make("DatasetMaterializer")
    rows = Dataset.from_dict(ROWS)
    shuffled_back = rows.select([2, 1, 0]).select([2, 1, 0])
    other = rows.select([1, 0, 2])
    assert materializer.compute_content_hash(rows) == materializer.compute_content_hash(shuffled_back)
    assert materializer.compute_content_hash(rows) != materializer.compute_content_hash(other)


@pytest.fixture
def model(tmp_path: Path) -> ModelFolder:
    folder = tmp_path / "model"
    (folder / "tokenizer").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(os.urandom(100_000))
    (folder / "tokenizer" / "vocab.txt").write_text(HOSTILE)
    (folder / f"{HOSTILE.replace('/', '')}.txt").write_text("")
    return ModelFolder(folder, sha256_folder(folder))


def test_a_model_comes_back_whole_and_its_source_stays(make: Any, model: ModelFolder):
    materializer = make("ModelFolderMaterializer")
    materializer.save(model)
    loaded = materializer.load(ModelFolder)
    assert loaded.digest == model.digest == sha256_folder(loaded.path) == sha256_folder(model.path)
    assert loaded.path != model.path
    stored = Path(materializer.uri) / "files" / "model.safetensors"
    assert stored.read_bytes() == (model.path / "model.safetensors").read_bytes(), "stored as it is"
    assert materializer.extract_metadata(model)["files"] == 3
    page(materializer, model)


def test_a_second_load_copies_nothing(make: Any, model: ModelFolder):
    materializer = make("ModelFolderMaterializer")
    materializer.save(model)
    first = materializer.load(ModelFolder)
    (Path(materializer.uri) / "files" / "model.safetensors").unlink()
    assert materializer.load(ModelFolder) == first


def test_a_damaged_cache_is_filled_again(make: Any, model: ModelFolder):
    materializer = make("ModelFolderMaterializer")
    materializer.save(model)
    place = materializer.load(ModelFolder).path
    (place / "model.safetensors").unlink()
    assert sha256_folder(materializer.load(ModelFolder).path) == model.digest


def test_a_damaged_store_is_noticed(make: Any, model: ModelFolder):
    materializer = make("ModelFolderMaterializer")
    materializer.save(model)
    with (Path(materializer.uri) / "files" / "model.safetensors").open("r+b") as file:
        file.write(b"!")
    with pytest.raises(ModelError, match="damaged"):
        materializer.load(ModelFolder)


def test_a_kept_folder_is_moved_and_stored_without_a_copy(make: Any, model: ModelFolder):
    from materializers.model_folder import cache_folder, keep

    incoming = cache_folder() / ".incoming"
    incoming.parent.mkdir(parents=True)
    model.path.rename(incoming)
    kept = keep(incoming)
    assert kept == ModelFolder(cache_folder() / model.digest, model.digest)
    materializer = make("ModelFolderMaterializer")
    materializer.save(kept)
    stored = Path(materializer.uri) / "files" / "model.safetensors"
    assert stored.stat().st_ino == (kept.path / "model.safetensors").stat().st_ino
    assert len(list_files(kept.path)) == 3


GIGANTIC = 256 * 2**20
"""A file of this size with nothing in it takes no room on a disk, and as much as any other in memory."""


@pytest.fixture
def gigantic(tmp_path: Path) -> ModelFolder:
    (tmp_path / "gigantic").mkdir()
    with (tmp_path / "gigantic" / "model.safetensors").open("wb") as file:
        file.truncate(GIGANTIC)
    return ModelFolder(tmp_path / "gigantic", sha256_folder(tmp_path / "gigantic"))


class Watched:
    """What this process reads, and by how much its resident memory grows at most (Linux)."""

    def __enter__(self) -> Watched:
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts again
        self.resident, self.bytes_read = self._number("status", "VmRSS"), self._number("io", "rchar")
        return self

    def __exit__(self, *error: object) -> None:
        self.grown = (self._number("status", "VmHWM") - self.resident) * 1024
        self.bytes_read = self._number("io", "rchar") - self.bytes_read

    @staticmethod
    def _number(file: str, name: str) -> int:
        lines = Path(f"/proc/self/{file}").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads /proc")
def test_a_gigantic_file_is_read_once_each_way_and_never_held(make: Any, gigantic: ModelFolder):
    """A copy is hashed as it passes, a piece at a time."""
    materializer = make("ModelFolderMaterializer")
    for transfer in (lambda: materializer.save(gigantic), lambda: materializer.load(ModelFolder)):
        with Watched() as watched:
            transfer()
        assert watched.bytes_read < 1.05 * GIGANTIC
        assert watched.grown < 64 * 2**20


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads /proc")
def test_what_was_hashed_when_it_was_made_is_not_read_again_to_be_stored(make: Any, gigantic: ModelFolder):
    from materializers.model_folder import cache_folder, keep

    incoming = cache_folder() / ".incoming"
    incoming.parent.mkdir(parents=True)
    gigantic.path.rename(incoming)
    with Watched() as watched:
        kept = keep(incoming)
        make("ModelFolderMaterializer").save(kept)
    assert kept.digest == gigantic.digest
    assert watched.bytes_read < 1.05 * GIGANTIC, "hashed once, for its name"
    assert watched.grown < 64 * 2**20


def test_a_folder_that_changed_under_way_is_refused(make: Any, model: ModelFolder):
    (model.path / "model.safetensors").write_bytes(b"other")
    with pytest.raises(ModelError, match="changed"):
        make("ModelFolderMaterializer").save(model)


def test_old_models_leave_the_cache(tmp_path: Path):
    from materializers.model_folder import KEPT_ENTRIES, _prune

    for number in range(KEPT_ENTRIES + 2):
        (tmp_path / str(number)).mkdir()
        os.utime(tmp_path / str(number), (number, number))
    (tmp_path / "new").mkdir()
    _prune(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["3", "4", "5", "new"]
