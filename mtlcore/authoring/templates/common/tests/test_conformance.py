"""Check that plugin_name follows the contract of its kind: one test, which runs all checks."""

from __future__ import annotations

from plugin_name import PluginName

import mtlcore.testing

test_conformance = mtlcore.testing.pretext_conformance(PluginName)
