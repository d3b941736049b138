"""plugin_name keeps the contract of its kind: one case a check, each with its reason where it fails."""

from __future__ import annotations

from plugin_name import PluginName

import mtlcore.testing

test_conformance = mtlcore.testing.pretext_conformance(PluginName)
