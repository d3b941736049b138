"""What authors of plugins need beside the contracts: descriptions, new plugins, transforms as pretext tasks."""
