"""The environment variables that select plugins.

MTLCORE_PLUGINS_BLOCK   do not load these plugins
MTLCORE_PLUGINS_ONLY    load these plugins alone
MTLCORE_PLUGINS_FATAL   "1": the first plugin that fails stops the program

The first two are comma lists of entry-point names or distributions.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

from attrs import frozen

from ..errors import nearest
from .hooks import PluginWarning
from .records import Provider

BLOCK = "MTLCORE_PLUGINS_BLOCK"
ONLY = "MTLCORE_PLUGINS_ONLY"
FATAL = "MTLCORE_PLUGINS_FATAL"

_FALSE = ("", "0", "false", "no")


@frozen
class Switches:
    """The values of the three variables."""

    block: set[str]
    only: set[str]
    fatal: bool

    @classmethod
    def read(cls, environ: Mapping[str, str]) -> Switches:
        """Parse the variables of an environment."""
        block = _names(environ.get(BLOCK, ""))
        only = _names(environ.get(ONLY, ""))
        fatal = environ.get(FATAL, "").lower() not in _FALSE
        return cls(block, only, fatal)

    def reason(self, provider: Provider) -> str:
        """Why this plugin must not load; "" where it may."""
        if provider.named_in(self.block):
            return f"blocked by {BLOCK}={','.join(sorted(self.block))}"
        if self.only and not provider.named_in(self.only):
            return f"not among {ONLY}={','.join(sorted(self.only))}"
        return ""

    def warn_about_unknown(self, providers: Sequence[Provider]) -> None:
        """Warn about each name that is not an installed plugin, with the nearest one."""
        known = {p.name for p in providers} | {p.distribution for p in providers if p.distribution}
        for variable, names in ((BLOCK, self.block), (ONLY, self.only)):
            for name in sorted(names):
                if not any(provider.named_in({name}) for provider in providers):
                    message = f"{variable} names {name!r}, which is not an installed plugin"
                    warnings.warn(f"{message}; {nearest(name, known)}", PluginWarning, stacklevel=2)


def _names(text: str) -> set[str]:
    """ "a, b" -> {"a", "b"}."""
    return {name.strip() for name in text.split(",")} - {""}
