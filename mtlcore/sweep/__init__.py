"""A sweep: one experiment with several values of one or more keys, each over several seeds; the best setting is written as TOML.

    DIR/<setting>_seed=<n>/        a run like any other, one for each setting and seed
    DIR/configs/<the same>.toml    what it was begun with: a run that was begun otherwise is never gone on with
    DIR/sweep.json                 every figure, and what was chosen; rewritten after each run
    DIR/chosen.toml                the chosen setting, complete: `mtl train DIR/chosen.toml`

Runs follow one another. Those that are finished are read, those that were interrupted go on, the others begin: the same command
again is all it takes, also with further values or seeds. A setting is chosen by the mean of the run's main metric (`train.best`)
at the last step ON THE VALIDATION SPLIT; the test split is not read. A weight of 0 takes its table out of the experiment: the run
without it is a setting like the others. A run that diverges is noted as such and not tried again: its setting is never chosen.
"""

from __future__ import annotations

from .axes import Axis as Axis
from .outcome import Outcome as Outcome
from .outcome import Setting as Setting
from .planned import ENDED as ENDED
from .planned import Planned as Planned
from .sweep import Sweep as Sweep
