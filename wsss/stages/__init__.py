"""The stages: one file each, a frozen dataclass of settings with what it reads, writes and does.

A stage's module is imported whenever a recipe is read, so it must not import torch; what computes is imported inside
the functions that use it. `registry.py` lists the kinds; the folders hold what several stages share.
"""
