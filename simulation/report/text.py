"""What the report says in words, generated from the numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import BaseModel

from fedloop.settings import ExperimentSettings
from simulation.report.figures_data import Study
from simulation.report.runfolder import BASELINE
from simulation.report.statistics import Comparison, Verdict, compare, correct, verdict

PRIMARY = "dice_global"

FEW_SEEDS = 8
"""Below this many seeds two random draws alone differ by as much as most methods do."""

REFERENCES = {"random": "random", "foreground_random": "predicted-foreground random"}

DEFINITIONS = {
    "Global Dice (dice_global)": "2·|prediction ∩ reference| / (|prediction| + |reference|) with "
    "voxels pooled over all test cases of a center, mean over foreground classes. The primary "
    "outcome.",
    "Dice per case (dice)": "The same within one test case, mean over foreground classes; a class "
    "in neither reference nor prediction counts as 1.",
    "Mean case Dice (dice_case_mean)": "Mean Dice over the test cases of a center that hold "
    "lesion.",
    "Own copy (dice_personal)": "Global Dice of a copy of the joint model that the site fine-tuned "
    "on its own corrections.",
    "Precision, recall": "Per test case: share of predicted foreground that is right; share of "
    "reference foreground that is found. Undefined (left out) where the denominator is zero.",
    "False-positive share (fp_share)": "Predicted foreground on background, as a share of the "
    "case's tissue; on a negative case all of what is predicted.",
    "Minutes": "Modelled time of the clinician: a fixed time per patch plus time per corrected "
    "pixel. Not measured on people.",
    "UGA": "Uncertainty of a patch: mean over tissue voxels and members of the cross-entropy "
    "between the ensemble's mean prediction and the member's.",
    "Baseline": "The igniter: the model as trained on the first site's labels, before any "
    "correction.",
    "Bounds": "Site alone: each site trains on its own labels. Pooled: one model on all sites' "
    "labels, which a federation exists to avoid. Oracle: patches chosen by their true error, which "
    "only a simulation knows.",
    "95 % interval": "Student's t over seeds, after averaging the centers of each seed: centers of "
    "one seed share an igniter and are no independent repetitions.",
    "Paired difference": "Arm less reference within the same seed and center; p from a paired "
    "t-test over seeds, corrected by Holm's method over all comparisons of the table.",
    "Spearman's ρ": "Rank correlation; its interval resamples whole cases.",
}


def comparisons(study: Study) -> list[tuple[int, Comparison]]:
    """(budget, comparison) of every arm against both random arms, corrected as one family."""
    found: list[tuple[int, Comparison]] = []
    references = [name for s in REFERENCES if (name := study.reference(s))]
    for place, reference in enumerate(references):
        for budget in study.budgets:
            outcomes = {
                arm: study.values(PRIMARY, arm, budget)
                for arm in study.arms
                if study.has(PRIMARY, arm, budget)
            }
            for arm in outcomes:
                # The two references are compared with each other once, not in both directions.
                if arm in references[: place + 1] or reference not in outcomes:
                    continue
                if set(outcomes[arm]) & set(outcomes[reference]):
                    found.append((budget, compare(arm, reference, outcomes)))
    budgets = [budget for budget, _ in found]
    return list(zip(budgets, correct([c for _, c in found]), strict=True))


def summary(study: Study, compared: Sequence[tuple[int, Comparison]]) -> str:
    """The first paragraph: what was compared, on which data, how many seeds, what was found."""
    parts = [_compared(study), _found(study)]
    if len(study.seeds) == 1:
        parts.append(
            "This is one seed: no interval can be given and no claim about the ranking of the "
            "methods can be made."
        )
    else:
        parts += [
            _against(study, compared, strategy, words)
            for strategy, words in REFERENCES.items()
            if study.reference(strategy)
        ]
        if not any(study.reference(strategy) for strategy in REFERENCES):
            parts.append("No random arm was run, so nothing says whether choosing helps at all.")
        if len(study.seeds) < FEW_SEEDS:
            parts.append(f"With {len(study.seeds)} seeds only large differences can be shown.")
    return " ".join(part for part in parts if part)


def data_words(settings: ExperimentSettings) -> str:
    """Which data, in words."""
    if settings.data.synthetic is not None:
        return "synthetic lymph-node slides, generated anew for each seed"
    if settings.data.root is not None:
        return f"the data set {settings.data.root.name}"
    return "the experiment's data"


def deviations(settings: ExperimentSettings) -> list[tuple[str, str]]:
    """Settings that differ from their defaults, as dotted keys."""
    return list(_flat(settings.model_dump(mode="json", exclude_defaults=True)))


def all_settings(settings: BaseModel) -> list[tuple[str, str]]:
    """Every setting, as dotted keys."""
    return list(_flat(settings.model_dump(mode="json")))


def _flat(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        elif isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
            for item in value:
                yield from _flat(item, f"{prefix}{key}[{item.get('name', '')}].")
        else:
            yield f"{prefix}{key}", _shown(value)


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(_shown(item) for item in value) or "none"
    if isinstance(value, dict) or value is None:
        return "none"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _compared(study: Study) -> str:
    tests = sum(counts.test for counts in study.record.centers.values())
    budgets = _and([str(budget) for budget in study.budgets])
    number, names = len(study.arms), _and(study.arms)
    ways = f"{number} ways" if number > 1 else "One way"
    cycles = study.settings.federation.cycles
    per = f", dealt to {cycles} cycles" if cycles > 1 else ""
    verb = "were compared" if number > 1 else "was tried"
    return (
        f"{ways} to choose the patches a clinician corrects ({names or 'none yet'}) {verb} "
        f"on {data_words(study.settings)}: {_count(len(study.centers), 'center')}, "
        f"{_count(tests, 'test case')}, {_count(len(study.seeds), 'seed')}, {budgets} patches per "
        f"site{per}."
    )


def _found(study: Study) -> str:
    text = ""
    if study.has(PRIMARY, BASELINE, 0):
        start = study.estimate(PRIMARY, BASELINE, 0)
        text = f"Uncorrected, the model of {study.record.igniter_site} has a mean global Dice of "
        text += f"{interval(start)}. "
    means = {
        arm: study.estimate(PRIMARY, arm, study.top)
        for arm in study.arms
        if study.has(PRIMARY, arm, study.top)
    }
    if not means:
        return text.strip()
    best = max(means, key=lambda arm: means[arm].mean)
    text += f"With {study.top} patches per site {best} has {interval(means[best])}"
    others = [name for s in REFERENCES if (name := study.reference(s)) in means and name != best]
    if others:
        text += ", " + _and([f"{name} {interval(means[name])}" for name in others if name])
    return text + "."


def interval(found: Any) -> str:
    """Such as ``0.629 [0.588, 0.670]``; the mean alone with one seed."""
    if found.low is None or found.high is None:
        return f"{found.mean:.3f}".replace("-", "−")
    return f"{found.mean:.3f} [{found.low:.3f}, {found.high:.3f}]".replace("-", "−")


def _against(
    study: Study, compared: Sequence[tuple[int, Comparison]], strategy: str, title: str
) -> str:
    """One sentence or two on how the arms stand against a reference."""
    reference = study.reference(strategy)
    groups: dict[Verdict, dict[str, list[str]]] = {}
    for budget, comparison in compared:
        if comparison.reference == reference:
            said = verdict(comparison)
            change = comparison.difference.describe(signed=True).split(" (")[0]
            # A long list of numbers that show nothing would bury those that do; the table has all.
            words = f"{budget}" if said == "no difference shown" else f"{change} at {budget}"
            groups.setdefault(said, {}).setdefault(comparison.arm, []).append(words)
    if not groups:
        return ""
    named = title if reference == strategy else f"{title} ({reference})"
    better = _listed(groups.get("better", {}))
    text = f"Better than {named}: {better}." if better else f"No method is shown to beat {named}."
    if worse := _listed(groups.get("worse", {})):
        text += f" Worse: {worse}."
    undecided = _undecided(groups.get("no difference shown", {}), len(study.budgets))
    if undecided:
        text += f" No difference shown: {undecided}."
    return text


def _listed(group: dict[str, list[str]]) -> str:
    return "; ".join(f"{arm} ({', '.join(changes)})" for arm, changes in group.items())


def _undecided(group: dict[str, list[str]], budgets: int) -> str:
    """Names, with the budgets only where not all are meant."""
    return ", ".join(
        arm if len(found) == budgets else f"{arm} (at {_and(found)})"
        for arm, found in group.items()
    )


def _and(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
