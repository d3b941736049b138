"""Tools for plugin authors: descriptions, new plugins, and transforms as pretext tasks."""
