"""From files to batches: images, splits, the image cache, the joined datasets, the sampler. No worker processes."""
