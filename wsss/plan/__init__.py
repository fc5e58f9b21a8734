"""What a recipe would take on a named cluster: work per stage, costs with their sources, time by resource."""
