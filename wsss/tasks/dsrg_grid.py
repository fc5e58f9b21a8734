"""The grid of DSRG, in a separate file so that settings can be checked against it without importing torch."""

GRID = 8
"""Pixels of the crop per pixel of the grid on which seeds, CRF and losses are computed."""
