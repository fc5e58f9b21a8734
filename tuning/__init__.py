"""Searches settings and compares results: recipes, sweeps and the leaderboard."""
