"""A trained model for others: exported files, packages with a model card, and their benchmark."""
