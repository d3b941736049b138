"""Plugins: how they are found, loaded one by one, and looked up by kind and name."""
