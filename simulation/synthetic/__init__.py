"""Synthetic lymph-node slides in the layout of Camelyon17; no real tissue is involved."""

from simulation.synthetic.camelyon import finish, is_finished, write_camelyon, write_slide
from simulation.synthetic.plan import SlidePlan, slide_plan

__all__ = ["SlidePlan", "finish", "is_finished", "slide_plan", "write_camelyon", "write_slide"]
