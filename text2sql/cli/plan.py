"""python -m text2sql plan: what a run will take, before anything is spent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from text2sql.cli.options import DEFAULT_CONFIG, Config, Overrides, guarded, settings_of

if TYPE_CHECKING:
    from rich.console import Console

    from text2sql.training.planner.plan import OnDevice, Plan


def plan(
    config: Config = DEFAULT_CONFIG,
    overrides: Overrides = None,
    device: Annotated[
        str | None, typer.Option(help="T4, A10, A100-40GB, A100-80GB, H100 or H200; default: all.", show_default=False)
    ] = None,
    mfu: Annotated[
        float | None,
        typer.Option(
            help="Share of the device's peak that is reached.", min=0.01, max=1.0, show_default="0.4, assumed"
        ),
    ] = None,
    price: Annotated[
        float | None, typer.Option(help="Of an hour of one device, in USD.", min=0.0, show_default="indicative")
    ] = None,
    rows: Annotated[
        int | None, typer.Option(help="Training rows, where the data is not here.", min=1, show_default=False)
    ] = None,
    tokens_per_row: Annotated[
        int | None, typer.Option(help="Tokens a row, where they cannot be counted.", min=2, show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Everything as JSON.")] = False,
) -> None:
    """Estimate memory, time and money of a training run. Says where it fits; needs no GPU and no weights."""

    def work() -> int:
        import json
        import sys

        from text2sql.training.planner.cost import MFU, read_devices
        from text2sql.training.planner.plan import plan_run

        names = {found.name.lower(): found.name for found in read_devices()[0]}
        if device is not None and device.lower() not in names:
            raise typer.BadParameter(
                f"no device {device!r}; there are: {', '.join(names.values())}", param_hint="--device"
            )
        chosen = names[device.lower()] if device else None
        made = plan_run(settings_of(config, overrides), chosen, mfu or MFU, price, rows, tokens_per_row)
        if as_json:
            sys.stdout.write(json.dumps(made.to_dict(), indent=2) + "\n")
        else:
            _show(made)
        return 0

    guarded(work)


def _show(plan: Plan) -> None:
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    shape, work = plan.shape, plan.workload
    console.print("ESTIMATE, not a measurement (docs/performance.md has formulas and errors)\n", markup=False)
    _facts(
        console,
        [
            ("model", f"{shape.name} ({shape.source})"),
            ("parameters", f"{shape.parameters:,}"),
            ("  in linear layers", f"{shape.linear_parameters:,} without the head"),
            ("trainable", f"{plan.adapter:,} (LoRA r {plan.method.rank}), {plan.trainable_share:.3%} of all"),
            ("rows", f"{work.rows:,} an epoch, {work.left_out:,} left out for length; {work.epochs:g} epochs"),
            ("tokens", f"{work.tokens:,}, with padding {work.padded:,} ({work.tokens / work.padded:.0%} useful)"),
            ("  from", work.source),
            ("steps", f"{work.steps:,} of {work.passes / work.steps:.3g} micro-batches"),
            ("largest batch", f"{work.largest.rows} × {work.largest.length} tokens, {work.largest.scored} with loss"),
            ("arithmetic", f"{plan.teraflop:,.0f} × 10^12 operations, nothing recomputed"),
        ],
    )
    _memory(console, plan.devices)
    _costs(console, plan)


def _facts(console: Console, lines: list[tuple[str, str]]) -> None:
    for name, text in lines:
        console.print(f"{name:<20}{text}", markup=False)
    console.print()


def _memory(console: Console, devices: tuple[OnDevice, ...]) -> None:
    """One column for devices that hold the same."""
    from rich.table import Table

    columns: dict[tuple[float, ...], list[str]] = {}
    for found in devices:
        columns.setdefault(tuple(found.memory.parts.values()), []).append(found.device.name)
    table = Table(box=None, padding=(0, 2), title="memory at the peak, GiB", title_justify="left")
    table.add_column("part")
    for names in columns.values():
        table.add_column(", ".join(names) if len(columns) > 1 or len(names) == 1 else "every device", justify="right")
    for position, part in enumerate(devices[0].memory.parts):
        table.add_row(part, *(f"{values[position] / 2**30:,.2f}" for values in columns))
    table.add_row("sum", *(f"{sum(values) / 2**30:,.2f}" for values in columns), style="bold")
    console.print(table)
    console.print()


def _costs(console: Console, plan: Plan) -> None:
    from rich.table import Table

    title = (
        f"training alone, at {plan.mfu:.0%} of the peak (assumed; --mfu) and on-demand prices of {plan.prices_as_of} "
        "(indicative; --price)"
    )
    table = Table(box=None, padding=(0, 1), title=title, title_justify="left")
    words = ("device", "checkpointing", "fits")
    columns = ("needs", "of GiB", "fits", "rows that fit", "hours", plan.currency, "tokens/s")
    for column in ("device", "checkpointing", *columns):
        table.add_column(column, justify="left" if column in words else "right", no_wrap=True)
    for found in plan.devices:
        shown = (f"{found.cost.hours:,.2f}", f"{found.cost.money:,.2f}", f"{found.cost.tokens_per_second:,.0f}")
        table.add_row(
            found.device.name,
            ("auto: " if plan.automatic else "") + ("yes" if found.checkpointing else "no"),
            f"{found.memory.total / 2**30:.1f}",
            f"{found.device.memory_gib:.1f}",
            "yes" if found.fits else "NO",
            str(found.largest_rows),
            *(shown if found.fits else ("-", "-", "-")),
        )
    console.print(table)
    for found in plan.devices:
        if changes := " ".join(f"--set {change}" for change in found.changes):
            console.print(
                f"{found.device.name}: {'faster with' if found.fits else 'fits with'} {changes}", markup=False
            )
        elif not found.fits:
            console.print(
                f"{found.device.name}: does not fit by any setting; lower training.max_length, or take a larger device",
                markup=False,
            )
