"""Shared code of the stages that train or read a classifier."""
