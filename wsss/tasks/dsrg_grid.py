"""The grid of DSRG, in a file of its own: settings are checked against it without importing torch."""

GRID = 8
"""Pixels of the crop per pixel of the grid that seeds, CRF and losses live on."""
