import pluggy
hookspec, hookimpl = pluggy.HookspecMarker("mtlcore"), pluggy.HookimplMarker("mtlcore")
