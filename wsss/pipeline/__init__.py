"""A recipe: read, checked, run and followed on the screen."""
