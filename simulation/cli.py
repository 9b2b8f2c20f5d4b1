"""``fedloop demo``, ``simulate`` and ``report``. Heavy imports happen inside the commands."""

from __future__ import annotations

import json
from enum import StrEnum
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedloop.configuration import load
from fedloop.errors import SettingsError
from fedloop.settings import ExperimentSettings

if TYPE_CHECKING:
    from simulation.experiments.simulate import Outcome

DEMO_CONFIG = Path("configs/experiments/demo.yaml")

demo = typer.Typer(rich_markup_mode="rich", pretty_exceptions_enable=False)
simulate = typer.Typer(rich_markup_mode="rich", pretty_exceptions_enable=False)
report = typer.Typer(rich_markup_mode="rich", pretty_exceptions_enable=False)


class EngineName(StrEnum):
    """Where campaigns run."""

    INPROCESS = "inprocess"
    RAY = "ray"


Out = Annotated[Path, typer.Option("--out", help="Run folder to write.", show_default=False)]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a setting, e.g. federation.rounds=4."),
]
Resume = Annotated[bool, typer.Option("--resume", help="Continue the run in --out.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")]
Json = Annotated[bool, typer.Option("--json", help="Print a summary as JSON on stdout.")]


@demo.command(
    epilog="Example:  fedloop demo --out demo   (then open demo/report.html)",
)
def demo_command(
    out: Out,
    overrides: Sets = None,
    resume: Resume = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Run the main job in minutes on a laptop CPU: five synthetic Camelyon centers, a federated
    ensemble, and uncertainty-guided corrections against random ones."""
    settings = load(ExperimentSettings, find_config(DEMO_CONFIG), overrides=overrides or ())
    _run(settings, out, resume=resume, quiet=quiet, as_json=as_json)


@simulate.command(
    epilog="Example:  fedloop simulate configs/experiments/uga_synthetic.yaml --out runs/uga "
    "--seeds 0,1,2",
)
def simulate_command(
    config: Annotated[Path, typer.Argument(help="YAML file with deviations from the defaults.")],
    out: Out,
    seeds: Annotated[
        str | None, typer.Option(help="Comma-separated seeds, in place of the file's.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Reduced form: minutes on 2 cores; the report says so.")
    ] = False,
    overrides: Sets = None,
    resume: Resume = False,
    engine: Annotated[
        EngineName, typer.Option(help="inprocess: this machine; ray: several GPUs or machines.")
    ] = EngineName.INPROCESS,
    address: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="A running Ray cluster (--engine ray).")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes (default: one per CPU core).")
    ] = None,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Run an experiment: seeds x arms x budgets, resumable, with a report at the end."""
    if address and engine is not EngineName.RAY:
        raise SettingsError("--address needs --engine ray")
    changes: list[str] = list(overrides or ())
    if seeds is not None:
        changes.append(f"seeds={_seed_list(seeds)}")
    if workers is not None:
        changes.append(f"workers={workers}")
    settings = load(ExperimentSettings, find_config(config), overrides=changes, quick=quick)
    _run(
        settings,
        out,
        resume=resume,
        quiet=quiet,
        as_json=as_json,
        engine=engine,
        address=address,
    )


@report.command(epilog="Example:  fedloop report runs/uga runs/uga-more-seeds --out report")
def report_command(
    runs: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Run folders.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for report.html and its figures.")],
) -> None:
    """Build one report from one or several run folders."""
    from simulation.report.build import build_report

    typer.echo(build_report(runs, out))


def find_config(path: Path) -> Path:
    """The file itself, or the one of that name installed with the package.

    Raises:
        SettingsError: neither exists.
    """
    if path.exists():
        return path
    if path.parts[:1] == ("configs",):
        installed = Path(str(files("configs"))).joinpath(*path.parts[1:])
        if installed.exists():
            return installed
    raise SettingsError(f"{path}: no such configuration file")


def _seed_list(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise SettingsError(f"--seeds {text}: expected whole numbers such as 0,1,2") from None


def _run(
    settings: ExperimentSettings,
    out: Path,
    *,
    resume: bool,
    quiet: bool,
    as_json: bool,
    engine: EngineName = EngineName.INPROCESS,
    address: str | None = None,
) -> None:
    from simulation.experiments.simulate import EngineChoice, simulate
    from simulation.progress import Reporter

    outcome: Outcome = simulate(
        settings,
        out,
        resume=resume,
        reporter=Reporter(quiet=quiet),
        engine=EngineChoice(engine.value, address),
    )
    if as_json:
        typer.echo(json.dumps(outcome.as_dict(), indent=2))
    else:
        typer.echo(f"report: {outcome.report}")
