"""Checks of encoders."""
