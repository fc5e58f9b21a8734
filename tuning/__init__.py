"""With which values, and who won? Recipes, sweeps and the leaderboard."""
