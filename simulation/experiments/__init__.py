"""Experiments: which campaigns run on which sites, and how their numbers become a run folder."""
