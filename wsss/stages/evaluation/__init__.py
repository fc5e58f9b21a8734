"""Shared code of the stages that evaluate and check results."""
