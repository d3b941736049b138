"""From files to batches: images, splits, the store, the joined sources, the sampler. No worker processes."""
