"""From files to batches: pictures, splits, the store, the joined sources, the sampler. No worker processes."""
