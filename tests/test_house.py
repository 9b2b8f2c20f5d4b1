"""The house itself: configurations load, documents tell the truth, rooms keep to their stairs."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from fedloop.cli import app
from fedloop.configuration import load
from fedloop.settings import CampaignSettings, ExperimentSettings, Settings

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGES = ("fedloop", "server", "client", "strategies", "simulation", "configs")
CONFIGS = sorted(p.relative_to(REPOSITORY) for p in (REPOSITORY / "configs").rglob("*.yaml"))
MODELS: dict[str, type[Settings]] = {"experiments": ExperimentSettings}
"""Settings class of the files in each folder of configs."""

DOCUMENTS = sorted(
    path.relative_to(REPOSITORY)
    for path in (*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md"))
)
MODULES = sorted(
    path.relative_to(REPOSITORY)
    for folder in (*PACKAGES, "scripts", "benchmarks")
    for path in (REPOSITORY / folder).rglob("*.py")
)


def read(path: Path) -> str:
    return (REPOSITORY / path).read_text(encoding="utf-8")


# --------------------------------------------------------------------------- configurations


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("path", CONFIGS, ids=str)
def test_every_configuration_loads(path: Path, quick: bool) -> None:
    settings = load(MODELS[path.parts[1]], REPOSITORY / path, quick=quick)
    assert not quick or getattr(settings, "reduced", True)


def test_there_are_configurations() -> None:
    assert Path("configs/experiments/demo.yaml") in CONFIGS


@pytest.mark.parametrize("path", CONFIGS, ids=str)
def test_experiment_bears_the_name_of_its_file(path: Path) -> None:
    assert yaml.safe_load(read(path))["name"] == path.stem


# --------------------------------------------------------------------------- documents


def keys_of(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys of a settings class with their defaults as YAML has them; ``...``: required.

    Lists of settings are written ``arms[].name``.
    """
    for name, field in model.model_fields.items():
        inner = settings_in(field.annotation)
        if inner is not None:
            many = typing.get_origin(field.annotation) is tuple
            yield from keys_of(inner, f"{prefix}{name}{'[]' if many else ''}.")
            continue
        default = field.get_default(call_default_factory=True, validated_data={})
        yield f"{prefix}{name}", ... if default is PydanticUndefined else plain(default)


def settings_in(annotation: Any) -> type[BaseModel] | None:
    """The settings class in ``X``, ``X | None`` or ``tuple[X, ...]``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = (settings_in(argument) for argument in typing.get_args(annotation))
    return next((model for model in found if model is not None), None)


def plain(value: Any) -> Any:
    return [plain(item) for item in value] if isinstance(value, tuple) else value


def documented() -> dict[str, Any]:
    """Keys and defaults in the tables ``| `key` | default | meaning |`` of the reference."""
    rows = re.findall(
        r"^\| `([a-z_0-9.\[\]]+)` \| (required|`[^|]*`) \| [^|]+ \|$",
        read(Path("docs/experiments.md")),
        flags=re.MULTILINE,
    )
    return {
        key: ... if default == "required" else yaml.safe_load(default.strip("`"))
        for key, default in rows
    }


def test_reference_names_every_setting_with_its_default() -> None:
    found = documented()
    settings = dict(keys_of(ExperimentSettings))
    assert {key: value for key, value in found.items() if key in settings} == settings


REPEATED = ("federation.", "training.", "igniter.", "spec.model.", "spec.imaging.")
"""Parts of a campaign that the reference describes as an experiment's."""


def test_reference_names_every_setting_of_a_campaign() -> None:
    found = documented()
    own = {
        key: default for key, default in keys_of(CampaignSettings) if not key.startswith(REPEATED)
    }
    assert {key: value for key, value in found.items() if key in own} == own


def test_reference_names_no_setting_that_does_not_exist() -> None:
    known = {key for model in (ExperimentSettings, CampaignSettings) for key, _ in keys_of(model)}
    assert set(documented()) <= known


def commands(path: Path) -> list[str]:
    """Lines ``fedloop VERB …`` in the code blocks of a document."""
    blocks = re.findall(r"^```[a-z]*\n(.*?)^```", read(path), flags=re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.startswith("fedloop ")]


@pytest.mark.parametrize("path", DOCUMENTS, ids=str)
def test_commands_of_documents_exist(path: Path) -> None:
    context = click.Context(app)
    for line in commands(path):
        _, verb, *words = line.split()
        command = app.get_command(context, verb)
        assert command is not None, f"{path}: {line}: no such verb"
        options = {option for parameter in command.params for option in parameter.opts}
        used = {word.split("=")[0] for word in words if word.startswith("--")}
        assert used <= options, f"{path}: {line}: no option {sorted(used - options)}"
        for word in words:
            if word.startswith("configs/") and word != "configs/experiments/my_tiles.yaml":
                assert (REPOSITORY / word).is_file(), f"{path}: {line}: {word} is missing"


def test_readme_shows_every_verb() -> None:
    text = read(Path("README.md"))
    verbs = app.list_commands(click.Context(app))
    assert {"demo", "simulate", "report"} <= set(verbs)
    for verb in verbs:
        assert f"fedloop {verb}" in text or f"bootstrap.py {verb}" in text


@pytest.mark.parametrize("path", DOCUMENTS, ids=str)
def test_links_of_documents_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", read(path)):
        if "://" not in target:
            place = (REPOSITORY / path).parent / target
            assert place.exists(), f"{path} links to {target}, which does not exist"


@pytest.mark.parametrize("path", [p for p in DOCUMENTS if p.parts[0] in {"README.md", "docs"}])
def test_files_named_in_documents_exist(path: Path) -> None:
    """Such as ``client/ranking/registry.py``; those an example asks to write are left out."""
    text = read(path)
    written = set(re.findall(r"^`([\w/.]+)`:$", text, flags=re.MULTILINE))
    roots = "|".join((*PACKAGES, "scripts", "tests", "docs"))
    for named in re.findall(rf"`((?:{roots})/[\w./-]+)`", text):
        assert named in written or (REPOSITORY / named).exists(), f"{path} names {named}"


# --------------------------------------------------------------------------- files


def tracked() -> list[Path]:
    """Files of the repository; in an unpacked sdist, all but what tools left."""
    if shutil.which("git") and (REPOSITORY / ".git").exists():
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],  # noqa: S607
            cwd=REPOSITORY,
            capture_output=True,
            check=False,
        )
        if listed.returncode == 0:
            names = listed.stdout.decode().split("\0")
            return [REPOSITORY / name for name in names if name]
    return [REPOSITORY / path for path in (*MODULES, *DOCUMENTS, *CONFIGS)]


PERSONAL = (
    re.escape(f"{REPOSITORY}/"),
    re.escape(str(REPOSITORY.parent / "shared")),
    r"\.\./shared",
    r"/(?:home|Users)/\w",
    r"file:///\w",
)
"""Paths that exist on one machine only."""


def test_no_file_names_a_place_on_somebodys_machine() -> None:
    pattern = re.compile("|".join(PERSONAL))
    found = []
    for path in tracked():
        if not path.is_file() or path == Path(__file__):
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        found += [f"{path.relative_to(REPOSITORY)}: {m[0]}" for m in pattern.finditer(text)]
    assert not found


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_module_has_a_docstring_and_postponed_annotations(path: Path) -> None:
    tree = ast.parse(read(path))
    if not tree.body:
        return
    assert ast.get_docstring(tree), f"{path} has no docstring"
    defines = any(isinstance(node, ast.FunctionDef | ast.ClassDef) for node in tree.body)
    # The bootstrap script must be understood by Pythons that are too old, to refuse them.
    if defines and path != Path("scripts/bootstrap.py"):
        future = any(
            isinstance(node, ast.ImportFrom)
            and node.module == "__future__"
            and any(alias.name == "annotations" for alias in node.names)
            for node in tree.body
        )
        assert future, f"{path} lacks `from __future__ import annotations`"


LINT_IMPORTS = "from importlinter.cli import lint_imports_command; lint_imports_command()"


def test_rooms_keep_to_their_stairs() -> None:
    """The contracts of import-linter in pyproject.toml."""
    pytest.importorskip("importlinter")
    done = subprocess.run(
        [sys.executable, "-c", LINT_IMPORTS, "--no-cache", "--no-logo"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no executable bit")
def test_ci_script_can_be_run() -> None:
    script = REPOSITORY / ".ci" / "run"
    if not script.exists():
        pytest.skip("not in a source distribution")
    assert script.stat().st_mode & 0o100
