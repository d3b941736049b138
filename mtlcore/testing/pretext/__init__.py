"""Checks of pretext tasks."""
