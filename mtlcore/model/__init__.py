"""From a batch to losses: views, the hybrid network, and the network for inference."""
