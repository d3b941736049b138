"""Training: the optimizer step, the loop around it, and the files that a run writes."""
