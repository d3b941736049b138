"""A sweep: one experiment with several values of some keys, each over several seeds.

    DIR/<setting>_seed=<n>/        an ordinary run per setting and seed
    DIR/configs/<the same>.toml    the configuration that the run was started with
    DIR/sweep.json                 all metrics and the chosen setting; rewritten after each run
    DIR/chosen.toml                the chosen setting, a complete experiment

The runs are trained one after another. The same command resumes a sweep, also with more values or
seeds: finished runs are read, interrupted ones resume, and the others start. A run resumes only
with the configuration that it was started with.

The chosen setting has the best mean, over its seeds, of the run's main metric (`train.best`) at the
last step ON THE VALIDATION SPLIT. The test split is not read. A weight of 0 removes its table from
the experiment, so the run without it is a setting like the others. A run that diverges is recorded
and not trained again, and its setting is never chosen.
"""

from __future__ import annotations

from .axes import Axis as Axis
from .outcome import Outcome as Outcome
from .outcome import Setting as Setting
from .planned import ENDED as ENDED
from .planned import Planned as Planned
from .sweep import Sweep as Sweep
