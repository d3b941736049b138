"""Checks of detectors."""
