"""The parts of the benchmark full_size.py: a drawn LID, and what is watched while a recipe runs on it."""
