"""The tables beside the slides: pN stages, centers, and a README for people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from fedloop.settings import SyntheticCamelyonSettings
from simulation.synthetic.plan import SlidePlan

_MANY_NODES = 4
"""Positive nodes from which a patient with a macrometastasis is pN2."""


def pn_stage(categories: Sequence[str]) -> str:
    """Return a patient's stage from its nodes' categories, by the rule of Camelyon17.

    Isolated tumour cells make a stage of their own, but do not count as positive nodes. The rule
    gives the published stage of all 100 training patients.
    """
    positive = sum(category in {"micro", "macro"} for category in categories)
    if "macro" in categories:
        return "pN2" if positive >= _MANY_NODES else "pN1"
    if positive:
        return "pN1mi"
    return "pN0(i+)" if "itc" in categories else "pN0"


def stage_labels(plans: Iterable[SlidePlan]) -> str:
    """Return ``stage_labels.csv``: a row for each patient, followed by its nodes."""
    patients: dict[str, list[SlidePlan]] = {}
    for plan in sorted(plans, key=lambda plan: plan.case_id):
        patients.setdefault(plan.case_id.split("_node_")[0], []).append(plan)
    lines = ["patient,stage"]
    for patient, nodes in patients.items():
        lines.append(f"{patient}.zip,{pn_stage([node.category for node in nodes])}")
        lines += [f"{node.case_id}.tif,{node.category}" for node in nodes]
    return "\n".join([*lines, ""])


def centers_table(plans: Iterable[SlidePlan]) -> str:
    """Return ``centers.csv``: whose each case is, in which split, of which category."""
    rows = (f"{plan.case_id},{plan.center},{plan.split},{plan.category}" for plan in plans)
    return "\n".join(["case,center,split,category", *rows, ""])


def readme(settings: SyntheticCamelyonSettings, seed: int) -> str:
    """Return a README that tells a person what this folder is and is not."""
    values = "\n".join(f"- `{name}`: {_plain(value)}" for name, value in settings)
    return f"""# Synthetic lymph-node slides

**These images are computer-made. They show no patient, and no hospital made them.** The center
names RUMC, UMCU, CWZ, RST and LPON only mark five invented combinations of stain, scanner and
tissue; no result on these data is a result about those hospitals or about real slides.

The layout is that of Camelyon17, so that the same reader opens both:

- `images/patient_NNN_node_M.tif`: pyramidal TIFF; `annotations/*.xml`: ASAP polygons in level-0
  pixels (group `metastases` minus group `normal`), for slides with tumour only. Every lesion is
  annotated, isolated tumour cells too.
- `stage_labels.csv`: lesion category of each node, pN stage of each patient.
- `centers.csv`: center, split and category of each case. A patient is in one split only.
- `dataset.json`: settings, seed and files; written last, so a folder without it is unfinished.

A node is about 2 mm across at the default size, and micro- and macrometastases are drawn to its
scale: their radii (60-120 um and 220-380 um) are smaller than the clinical definitions ask.

## How it was made
`simulation.synthetic` of fedloop, seed {seed}. The same seed and settings give the same files.

{values}
"""


def _plain(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
