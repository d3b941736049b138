"""Checks of optimizers."""
