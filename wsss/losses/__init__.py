"""Losses as pure functions over logits, one per file."""
