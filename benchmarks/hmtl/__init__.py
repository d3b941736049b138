"""Does hybrid training help? A protocol (a TOML file) says which arms are trained, what is tuned, by which rule arms are chosen."""
