"""Sets up fedloop beside its pyproject.toml and runs the demo, the tests or the linters.

    python3 scripts/bootstrap.py demo [--out DIR] [options of `fedloop demo`]
    python3 scripts/bootstrap.py test [arguments of pytest]
    python3 scripts/bootstrap.py lint
    python3 scripts/bootstrap.py setup

Needs nothing but Python 3.11 or newer. The first call makes `.venv` and installs into it; later
calls find that nothing has changed and start at once.
"""

# No `from __future__ import annotations`, and no newer syntax before the check of the version:
# an old Python must get as far as the sentence that tells what is wrong with it.
import sys

if sys.version_info < (3, 11):  # noqa: UP036 - this is the file that says so
    sys.exit(
        "fedloop needs Python 3.11 or newer; this is {}.{} ({}). Run the same command with a newer "
        "one, such as python3.11.".format(*sys.version_info[:2], sys.executable)
    )

import argparse
import contextlib
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
CONSTRAINTS = "constraints.txt"
STAMP = ".fedloop-stamp"
DRIVER = Path("/proc/driver/nvidia/version")
NVIDIA_SMI_SECONDS = 30
SHOWN_LINES = 25
DEMO_OUT = "demo"


class SetupError(Exception):
    """The environment cannot be made; the text says what to do."""


# --------------------------------------------------------------------------- decisions


def torch_pin(constraints: str) -> str:
    """The version of torch in the text of constraints.txt, the only place that states it.

    Raises:
        SetupError: there is no such line.
    """
    found = re.search(r"^torch==([^\s;#+]+)", constraints, flags=re.MULTILINE)
    if found is None:
        raise SetupError(f"{CONSTRAINTS} has no line torch==VERSION")
    return found[1]


def torch_choices(pin: str, *, nvidia: bool) -> list[str]:
    """Requirements to try in this order: without an NVIDIA driver the small CPU build first.

    Only some indexes offer builds marked `+cpu`.
    """
    plain = f"torch=={pin}"
    return [plain] if nvidia else [f"{plain}+cpu", plain]


def has_nvidia_driver(driver: Path = DRIVER) -> bool:
    """Whether `nvidia-smi` works here, or the kernel's driver is loaded."""
    tool = shutil.which("nvidia-smi")
    if tool is not None:
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            done = subprocess.run(
                [tool],
                check=False,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=NVIDIA_SMI_SECONDS,
            )
            if done.returncode == 0:
                return True
    return driver.exists()


def stamp_of(repository: Path, extras: str) -> str:
    """What an environment was made from: place, pyproject.toml, constraints.txt and extras."""
    digest = hashlib.sha256(f"{repository}\n{extras}\n".encode())
    for name in ("pyproject.toml", CONSTRAINTS):
        digest.update((repository / name).read_bytes())
    return digest.hexdigest()


def is_current(repository: Path, venv: Path, extras: str) -> bool:
    """Whether the environment holds what is asked for; the developers' one holds all."""
    try:
        written = (venv / STAMP).read_text(encoding="utf-8").strip()
    except OSError:
        return False
    enough = {extras, "dev"}
    return program(venv, "python").exists() and written in {
        stamp_of(repository, found) for found in enough
    }


def program(venv: Path, name: str) -> Path:
    """An executable of the environment."""
    windows = os.name == "nt"
    return venv / ("Scripts" if windows else "bin") / (f"{name}.exe" if windows else name)


# --------------------------------------------------------------------------- set-up


def set_up(repository: Path, extras: str, torch_index: str | None) -> Path:
    """Make or complete `.venv` in the repository; returns it.

    Raises:
        SetupError: no `venv` module, or an installation failed.
    """
    venv = repository / ".venv"
    if is_current(repository, venv, extras):
        return venv
    (venv / STAMP).unlink(missing_ok=True)
    if not _works(venv):
        _create(venv)
    pin = torch_pin((repository / CONSTRAINTS).read_text(encoding="utf-8"))
    _install_torch(venv, torch_choices(pin, nvidia=has_nvidia_driver()), torch_index)
    place = f"{repository}[{extras}]" if extras else str(repository)
    with step("installing fedloop and the packages it needs"):
        _pip(venv, "-c", str(repository / CONSTRAINTS), "-e", place)
    (venv / STAMP).write_text(stamp_of(repository, extras) + "\n", encoding="utf-8")
    return venv


def _works(venv: Path) -> bool:
    """Whether a usable Python with pip is there, or only what an interrupted call left."""
    check = "import sys, pip; sys.exit(sys.version_info < (3, 11))"
    try:
        return _run([str(program(venv, "python")), "-c", check]).returncode == 0
    except OSError:
        return False


def _create(venv: Path) -> None:
    missing = [name for name in ("venv", "ensurepip") if importlib.util.find_spec(name) is None]
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    if missing:
        raise SetupError(
            f"this Python ({sys.executable}) comes without its module {missing[0]!r}. Install it "
            f"first: on Debian or Ubuntu `apt install python{version}-venv`, on Fedora or RHEL "
            f"`dnf install python{version}`; then repeat the command."
        )
    with step(f"creating {venv.name} with Python {version}"):
        done = _run([sys.executable, "-m", "venv", "--clear", str(venv)])
        if done.returncode:
            raise SetupError(f"{venv} cannot be created:\n{_tail(done.stdout)}")


def _install_torch(venv: Path, choices: Sequence[str], index: str | None) -> None:
    """Install the first choice that can be had. What torch needs comes with the next step, under
    the constraints and from the usual index."""
    options = ["--no-deps", *(["--index-url", index] if index else [])]
    for place, choice in enumerate(choices):
        last = place == len(choices) - 1
        try:
            with step(f"installing {choice}"):
                _pip(venv, *options, choice)
            return
        except SetupError:
            if last:
                raise
            print(
                "   no CPU build on this index: taking the larger CUDA build, "
                "which still runs on the CPU",
                flush=True,
            )


def _pip(venv: Path, *arguments: str) -> None:
    pip = [str(program(venv, "python")), "-m", "pip", "--disable-pip-version-check", "--no-input"]
    done = _run([*pip, "install", "--quiet", *arguments])
    if done.returncode:
        raise SetupError(f"pip could not install {arguments[-1]}:\n{_tail(done.stdout)}")


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        check=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
    )


def _tail(text: str) -> str:
    lines = [f"   {line}" for line in text.strip().splitlines()]
    return "\n".join(lines[-SHOWN_LINES:]) or "   (it said nothing)"


@contextlib.contextmanager
def step(what: str) -> Iterator[None]:
    """Say what is going on, and afterwards how long it took."""
    print(f"-> {what} ...", flush=True)
    started = time.monotonic()
    try:
        yield
    except BaseException:
        print(f"   failed after {time.monotonic() - started:.0f} s", flush=True)
        raise
    print(f"   done in {time.monotonic() - started:.0f} s", flush=True)


# --------------------------------------------------------------------------- verbs


def demo(venv: Path, out: str, arguments: Sequence[str]) -> int:
    """Run the demo; ``out`` is relative to where the user stands."""
    return _call([str(program(venv, "fedloop")), "demo", "--out", out, *arguments])


def test(venv: Path, arguments: Sequence[str]) -> int:
    """Run pytest in the repository, where its settings are."""
    return _call([str(program(venv, "python")), "-m", "pytest", *arguments], cwd=REPOSITORY)


def lint(venv: Path) -> int:
    """Run every linter, also after one has failed; returns the first failure."""
    python = str(program(venv, "python"))
    commands = (
        [python, "-m", "ruff", "check", "."],
        [python, "-m", "ruff", "format", "--check", "."],
        [python, "-m", "mypy"],
        [python, "-m", "mypy", "scripts"],
        [str(program(venv, "lint-imports")), "--no-logo"],
    )
    codes = []
    for command in commands:
        print("->", " ".join([Path(command[0]).name, *command[1:]]), flush=True)
        codes.append(_call(command, cwd=REPOSITORY))
    return next((code for code in codes if code), 0)


def _call(command: Sequence[str], cwd: Path | None = None) -> int:
    """Run in the foreground; a signal's end is told as a shell tells it."""
    code = subprocess.run(command, check=False, cwd=cwd).returncode
    return code if code >= 0 else 128 - code


def parse(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Split the command line into what is meant for this script and what is handed on."""
    parser = argparse.ArgumentParser(
        prog="bootstrap.py",
        description="Sets up fedloop in .venv and runs the demo, the tests or the linters.",
        allow_abbrev=False,
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="demo|test|lint|setup")
    texts = {
        "demo": "set up and run `fedloop demo` (further options go to it, such as --resume)",
        "test": "set up with the developers' tools and run pytest (further arguments go to it)",
        "lint": "ruff check, ruff format --check, mypy and lint-imports",
        "setup": "set up only",
    }
    for verb, text in texts.items():
        own = verbs.add_parser(verb, help=text, description=text, allow_abbrev=False)
        own.add_argument(
            "--torch-index", metavar="URL", help="package index for torch alone (a mirror, say)"
        )
        if verb == "demo":
            own.add_argument(
                "--out", metavar="DIR", default=DEMO_OUT, help="run folder (default: %(default)s)"
            )
    known, rest = parser.parse_known_args(arguments)
    if rest and known.verb in ("lint", "setup"):
        parser.error(f"unknown argument for {known.verb}: {rest[0]}")
    return known, rest


def main(arguments: Sequence[str] | None = None) -> int:
    known, rest = parse(sys.argv[1:] if arguments is None else arguments)
    extras = "dev" if known.verb in ("test", "lint") else ""
    try:
        venv = set_up(REPOSITORY, extras, known.torch_index)
    except (SetupError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if known.verb == "demo":
        return demo(venv, known.out, rest)
    if known.verb == "test":
        return test(venv, rest)
    if known.verb == "lint":
        return lint(venv)
    print(f"ready: {program(venv, 'fedloop')}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
