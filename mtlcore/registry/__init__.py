"""Plugins: how mtlcore finds them, loads each one in isolation, and looks components up.

hooks.py               the hooks that a plugin implements
components.py          the rules that a component class must meet
plugin_file.py         a plugin that is a single Python file
records.py             where a component comes from, and why a plugin failed
switches.py            the environment variables
catalog.py             every component by kind and name
torch_version_hint.py  one clear line for a torchvision built for another torch
"""
