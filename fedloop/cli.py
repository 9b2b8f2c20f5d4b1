"""``fedloop VERB``: verbs come from the entry-point group ``fedloop.commands`` and load on use."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint, entry_points

import click
import typer

from fedloop import __version__
from fedloop.errors import FedloopError

GROUP = "fedloop.commands"
INTERRUPTED = 130


class LazyGroup(click.Group):
    """A group whose commands are imported when they are needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return sorted(_verbs())

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        verb = _verbs().get(cmd_name)
        if verb is None:
            return None
        loaded = verb.load()
        return typer.main.get_command(loaded) if isinstance(loaded, typer.Typer) else loaded


def _verbs() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=GROUP)}


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Start here:  fedloop demo --out demo",
)
@click.version_option(__version__, prog_name="fedloop")
def app() -> None:
    """Federated, human-in-the-loop segmentation: images stay, weights travel, clinicians correct
    the few patches that help most."""


def main() -> None:
    """Console entry point. Exit codes: 0 done, 1 failed, 2 wrong usage or settings."""
    try:
        result = app.main(prog_name="fedloop", standalone_mode=False)
        sys.exit(result if isinstance(result, int) else 0)
    except FedloopError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted; what was complete is kept (continue with --resume)", err=True)
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
