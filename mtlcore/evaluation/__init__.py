"""Measure a run, and draw what it sees and predicts. Nothing here trains."""
