"""Read, check and run a recipe, and show its progress."""
