"""Output for people: tables, settings, layers, pictures."""
