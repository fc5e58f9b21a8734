"""Plots and sheets of images, as PNG bytes."""
