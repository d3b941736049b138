"""Checks of supervised tasks."""
