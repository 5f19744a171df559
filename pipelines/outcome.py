"""After a run: results/ on disk, and every system's figures with the gate's verdict on the terminal."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.launch import Finished
from stacks.place import Place
from text2sql.config import Settings
from text2sql.evaluation.gate import Verdict
from text2sql.evaluation.types import Evaluation


@dataclass(frozen=True)
class Outcome:
    """What a pipeline leaves: where its results lie, its figures, its verdict."""

    folder: Path
    written: list[Path]
    evaluation: Evaluation
    verdict: Verdict


def write_results(finished: Finished, settings: Settings) -> Outcome:
    """Export the run's artifacts, whether its steps ran or came from the cache.

    What is found of a version that another run trained goes to a folder of its own: settings.output_dir may hold the
    model of a third.

    Raises:
        OutputError: settings.output_dir cannot be written; it is then as it was.
    """
    from text2sql.evaluation.report import render_report
    from text2sql.evaluation.summary import summary_markdown
    from text2sql.results import export

    evaluation = finished.load("evaluate", "evaluation")
    verdict = finished.load("promote", "verdict")
    report = render_report(
        evaluation,
        verdict,
        history=finished.load("finetune", "training_history").points,
        facts=_facts(finished) | _plain(evaluation),
        examples=settings.evaluation.report_examples,
        seen=_leaks(finished)["same_table"],
    )
    texts = {
        "evaluation.json": evaluation.to_json(),
        "report.html": report,
        "summary.md": summary_markdown(evaluation, verdict),
    }
    folder, folders = settings.output_dir, {}
    if "finetune" not in finished.steps:
        folder /= f"version-{finished.run.model_version.number}"
    else:
        folders = {
            "adapter": finished.load("finetune", "adapter").path,
            "merged_model": finished.load("merge", "merged_model").path,
        }
        texts["merged_model/README.md"] = _card(finished, evaluation, verdict, settings)
    return Outcome(folder, export(folder, folders, texts), evaluation, verdict)


def _card(finished: Finished, evaluation: Evaluation, verdict: Verdict, settings: Settings) -> str:
    from text2sql.evaluation.card import model_card

    history = finished.load("finetune", "training_history")
    trained = {
        "Training rows": _facts(finished)["Splits"]["train"]["rows"],
        "Optimizer steps": history.figures["steps"],
    }
    return model_card(evaluation, verdict, settings, facts=trained)


def _facts(finished: Finished) -> dict[str, Any]:
    """What the report tells of the rows."""
    validation = finished.load("validate", "validation_report")
    tokens = finished.load("format", "token_report")
    facts: dict[str, Any] = {"Rows": validation.figures["rows"]}
    for kind in ("repaired", "set aside"):
        if found := {entry["why"]: entry["rows"] for entry in validation.table if entry["kind"] == kind}:
            facts[kind.capitalize()] = found
    facts["Splits"] = {row["split"]: {k: v for k, v in row.items() if k != "split"} for row in tokens.table}
    shares = {name.replace("_", " "): f"{share:.1%}" for name, share in _leaks(finished).items()}
    facts["Test rows with something in training too"] = shares
    return facts


def _leaks(finished: Finished) -> dict[str, float]:
    """What share of the test rows has what in common with training."""
    rows = finished.load("format", "contamination_report").table
    [test] = [row for row in rows if row["split"] == "test"]
    return {name: share for name, share in test.items() if name not in ("split", "rows")}


def _plain(evaluation: Evaluation) -> dict[str, Any]:
    """What the tuned model reaches without the distractors of data.realistic."""
    if evaluation.plain_schemas is None:
        return {}
    from text2sql.evaluation.figures import FIGURES

    known = {figure.label: figure.show(evaluation.plain_schemas.get(figure.key)) for figure in FIGURES}
    return {"Tuned model on schemas without distractors": known}


def show(outcome: Outcome, finished: Finished, deploy: str | None = None) -> None:
    """Figures and verdict to stdout; how the steps came about to stderr.

    Args:
        deploy: the command that takes a staged version live, where that is what comes next.
    """
    from rich.console import Console
    from rich.markup import escape

    steps = " · ".join(f"{name} {how}" for name, how in finished.steps.items())
    Console(stderr=True, highlight=False, soft_wrap=True).print(f"[dim]{escape(steps)}[/dim]")
    console = Console(highlight=False, soft_wrap=True)
    table = _comparison(outcome.evaluation, " ")
    if console.measure(table, options=console.options.update(width=1_000)).maximum > console.width:
        table = _comparison(outcome.evaluation, "\n")
    console.print(table)
    passed = outcome.verdict.passed
    console.print(f"[bold {'green' if passed else 'red'}]{escape(outcome.verdict.headline)}[/]")
    for rule in outcome.verdict.rules:
        console.print(f"  {'[green]✓[/]' if rule.passed else '[red]✗[/]'} {escape(rule.reason)}")
    stage = f"is now in stage {finished.stage}" if finished.stage else "is not staged"
    console.print(f"Model version {escape(finished.model_version)} {stage}.")
    console.print("Results:")
    for path in outcome.written:
        console.print(f"  {escape(str(path))}{'/' if path.is_dir() else ''}")
    console.print(f"Next: open {escape(str(outcome.folder / 'report.html'))}")
    console.print("      python run.py --pipeline dashboard   shows runs and artifacts")
    if passed and deploy is not None:
        console.print(f"      {escape(deploy)}   takes this version live")


def _comparison(evaluation: Evaluation, gap: str) -> Any:
    """A column a system, and how far the tuned model is ahead of the best of the others; `gap` before intervals."""
    from rich.markup import escape
    from rich.table import Table

    from text2sql.evaluation.figures import best_rival, compared, figure_table, heading, show_comparison

    table = Table(title=f"{len(evaluation.rows):,} test rows, base {escape(evaluation.model)}", title_justify="left")
    table.add_column("")
    for scores in evaluation.systems:
        table.add_column(escape(heading(scores.name)), justify="right")
    for row in figure_table(evaluation):
        cells = [
            f"{cell.text}{gap}[dim]{escape(cell.interval_text)}[/]".removesuffix(f"{gap}[dim][/]") for cell in row.cells
        ]
        table.add_row(row.figure.label, *cells)
    subject, rival = evaluation.subject, best_rival(evaluation)
    if found := compared(evaluation, subject, rival):
        names = f"{escape(heading(found.system))} against {escape(heading(found.other))}"
        table.caption = f"{names}: {escape(show_comparison(found))}"
        table.caption_justify = "left"
    return table


def show_plan(pipeline: str, steps: tuple[str, ...], settings: Settings, place: Place) -> None:
    """What --dry-run prints, all of it YAML: the resolved config, and in comments where each step would run."""
    import yaml

    config = yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    lines = [f"{pipeline} on stack {place.stack} (orchestrator: {place.orchestrator}); nothing was started"]
    where = f"{place.stack}/{place.orchestrator}"
    if given := place.pipeline_options():
        lines += [f"    {line}" for line in yaml.safe_dump(given).splitlines()]
    for name in steps:
        lines.append(f"{name:<14} {where:<24} {place.needs(name)}".rstrip())
        if given := place.step_options(name):
            lines += [f"    {line}" for line in yaml.safe_dump(given).splitlines()]
    sys.stdout.write(config + "\n" + "".join(f"# {line}\n" for line in lines))
