"""Experiments: which campaigns to run, on which sites, and how their numbers become a run folder."""
