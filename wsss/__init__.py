"""What do we compute? Operations, losses, models, tasks and stages."""
