"""The ranges of the settings that all optimizers share."""

from __future__ import annotations

from attrs.validators import and_, ge, gt, le, lt

learning_rate = and_(gt(0.0), le(1000.0))
decay = and_(ge(0.0), le(1000.0))
momentum = and_(ge(0.0), lt(1.0))
