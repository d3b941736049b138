"""The hooks that a plugin implements (pluggy).

A plugin is a module that implements hooks of `Specs`. It is an installed module that an entry point
of the group "mtlcore" names, or a single file (`--plugin FILE`).
"""

from __future__ import annotations

from pathlib import Path

import pluggy

from ..contracts import Component

GROUP = "mtlcore"
"""The name of the entry-point group, and of the pluggy project."""

hookspec = pluggy.HookspecMarker(GROUP)
hookimpl = pluggy.HookimplMarker(GROUP)


class Specs:
    """All hooks. A plugin implements those that it needs, each marked with `@hookimpl`."""

    @hookspec
    def mtl_components(self) -> list[type[Component]]:  # type: ignore[empty-body]
        """Return the plugin's component classes: frozen attrs classes, each of one kind."""

    @hookspec
    def mtl_examples(self) -> dict[str, Path]:  # type: ignore[empty-body]
        """Return the complete experiments that the plugin ships: name -> TOML file.

        `mtl demo` trains the one named "demo".
        """


class PluginWarning(UserWarning):
    """A plugin failed to load, or a plugin file replaces an installed component."""
