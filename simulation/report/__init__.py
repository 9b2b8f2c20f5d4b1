"""The report of an experiment: one self-contained HTML file, drawn from run folders."""

from simulation.report.build import build_report

__all__ = ["build_report"]
