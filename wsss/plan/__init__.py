"""Estimate the cost of a recipe on a given cluster: work per stage, costs with their sources, time by resource."""
