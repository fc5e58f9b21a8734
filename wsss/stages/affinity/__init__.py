"""Shared code of the stages that train or read an affinity network."""
