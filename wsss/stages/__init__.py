"""The stages: one file each, with a frozen dataclass that holds the settings and says what the stage reads and writes.

A stage's module is imported whenever a recipe is read, so it must not import torch at module level; modules that
compute are imported inside the functions that use them. `registry.py` lists the stage kinds; the folders hold code
that several stages share.
"""
