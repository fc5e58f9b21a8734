"""Helpers of the stages that train or read an affinity network."""
