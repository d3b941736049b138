"""Plugins that are wrong on purpose, each in one way: what proves that the conformance kit sees it."""
