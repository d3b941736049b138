"""Plugins that are wrong on purpose, each in one way: what proves that the conformance kit sees it."""

from __future__ import annotations

from collections.abc import Callable


class Broken(dict[str, type]):
    """check -> the class that fails it, and nothing else."""

    def fails(self, check: str) -> Callable[[type], type]:
        """Enter a class as the one that fails this check."""

        def enter(cls: type) -> type:
            assert check not in self, check
            self[check] = cls
            return cls

        return enter
