"""Checks of loss weightings."""
