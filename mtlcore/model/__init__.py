"""From a batch to losses: views, the hybrid network, the part that is kept for inference."""
