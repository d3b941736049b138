"""Readers of face data sets, one file a set."""
