"""Does hybrid training help? Runs the arms of a protocol and writes their rows and tables.

A protocol is a TOML file. It lists the arms, what is tuned, and the rule that chooses an arm.
"""
