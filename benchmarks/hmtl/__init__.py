"""Does hybrid training help? The committed studies of this project, run by `mtlcore.study`.

A protocol is a study file in `benchmarks/protocols` that is committed before it is run. A protocol
that has been run never changes: a change makes a new protocol with a new name.
"""
