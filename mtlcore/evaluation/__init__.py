"""Read a run and measure it. Nothing here trains."""
