"""Readers of face datasets, one file each."""
