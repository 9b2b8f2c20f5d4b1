"""Every job has a folder of its own, whatever centers are called."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from fedloop.settings import CampaignName, ExperimentSettings
from simulation.experiments.jobs import (
    LONGEST_NAME,
    igniter_job,
    model_folder,
    path_safe,
    plan_jobs,
    seed_folder,
)

NAMES = st.text(max_size=30) | st.text("ab._-é/\\ A\u0301\0", max_size=6)
NAME: TypeAdapter[str] = TypeAdapter(CampaignName)


@given(NAMES, NAMES)
def test_different_names_stay_different(a: str, b: str) -> None:
    assert (path_safe(a) == path_safe(b)) == (a == b)


@given(st.text(max_size=400) | st.text("数据", min_size=50, max_size=300))
def test_a_safe_name_is_one_ordinary_folder(name: str) -> None:
    safe = path_safe(name)
    assert safe not in ("", ".", "..")
    assert all(c.isascii() and (c.isalnum() or c in "-_.") for c in safe)
    assert len(safe) <= LONGEST_NAME + 20


def test_plain_names_stay_readable() -> None:
    assert path_safe("RUMC_2-a") == "RUMC_2-a"
    assert path_safe("é") != path_safe(".e9.") != path_safe("..e9..")


def test_long_names_differ_by_their_end() -> None:
    assert path_safe("x" * 300 + "1") != path_safe("x" * 300 + "2")


def experiment(**changes: object) -> ExperimentSettings:
    return ExperimentSettings(**({"budgets": (2, 5)} | changes))  # type: ignore[arg-type]


def test_the_plan_of_a_seed() -> None:
    settings = experiment(
        arms=[
            {"name": "random", "strategy": "random", "draws": 2},
            {"name": "default", "strategy": "anchors_doubt", "parameters": {"anchor": 0.2}},
        ],
        bounds=("site_alone", "pooled", "oracle"),
    )
    jobs = plan_jobs(settings, 3, ["A", "B/C"])
    assert jobs[0] == igniter_job(3)
    assert [job.name for job in jobs] == [
        "baseline",
        *("random_k2_d0", "random_k2_d1", "random_k5_d0", "random_k5_d1"),
        *("default_k2_d0", "default_k5_d0"),
        *("oracle_k2_d0", "oracle_k5_d0"),
        "pooled",
        *("site_alone_A", "site_alone_B.2f.C"),
    ]
    assert {job.seed for job in jobs} == {3}
    assert [job.needs_igniter for job in jobs] == [False] + [True] * 8 + [False] * 3
    assert jobs[5].parameters == (("anchor", 0.2),)


@given(
    arms=st.lists(
        st.from_regex(r"[a-z0-9][a-z0-9_+-]{0,6}", fullmatch=True),
        min_size=1,
        max_size=4,
        unique=True,
    ).filter(lambda arms: not {"baseline", "oracle", "pooled", "site_alone"} & set(arms)),
    budgets=st.lists(st.integers(1, 99), min_size=1, max_size=3, unique=True),
    draws=st.integers(1, 3),
    centers=st.lists(NAMES, min_size=1, max_size=4, unique=True),
)
def test_names_are_unique_within_a_seed_and_fit_a_campaign(
    arms: list[str], budgets: list[int], draws: int, centers: list[str]
) -> None:
    settings = experiment(
        arms=[{"name": n, "strategy": "random", "draws": draws} for n in arms],
        budgets=budgets,
        bounds=("site_alone", "pooled", "oracle"),
    )
    jobs = plan_jobs(settings, 0, centers)
    names = [job.name for job in jobs]
    assert len(set(names)) == len(names)
    for job in jobs:
        assert NAME.validate_python(job.name) == job.name


def test_an_arm_that_is_the_oracle_is_not_run_twice() -> None:
    settings = experiment(
        arms=[{"name": "best", "strategy": "oracle_error"}], bounds=("oracle",), budgets=(2,)
    )
    assert [job.name for job in plan_jobs(settings, 0, ["A"])] == ["baseline", "oracle_k2_d0"]


def test_folders(tmp_path) -> None:
    job = igniter_job(4)
    assert job.folder(tmp_path) == seed_folder(tmp_path, 4) / "baseline"
    assert model_folder(tmp_path, job) == tmp_path / "models" / "seed_4" / "baseline"
    assert not job.done(tmp_path)
    job.folder(tmp_path).mkdir(parents=True)
    (job.folder(tmp_path) / "done").touch()
    assert job.done(tmp_path)
