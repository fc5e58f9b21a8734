"""Helpers of the stages that measure and check results."""
