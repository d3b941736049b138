"""A user's script: it builds an experiment. tests/test_typing.py checks it with strict mypy."""

from __future__ import annotations

from pathlib import Path

from attrs import evolve, frozen

import mtlcore
from mtlcore import Classification, DataEntry, Encoder, Experiment, PretextEntry, Regression


@mtlcore.register
@frozen
class Mood(Classification):
    """A task of this script."""

    strict: bool = False


encoder: Encoder = mtlcore.component("encoder", "resnet_small", width=16)
experiment = Experiment(
    encoder=encoder,
    tasks={"mood": Mood(strict=True), "age": mtlcore.TaskEntry(Regression(), weight=0.5)},
    pretexts={"puzzling": PretextEntry(mtlcore.component("pretext", "puzzling"), weight=0.3)},
    data={"people": DataEntry(mtlcore.component("dataset", "csv", file=Path("p.csv")))},
    input=mtlcore.Input(size=(48, 64), batch_size=32),
    train=mtlcore.Train(steps=500),
    callbacks={"probe": mtlcore.component("callback", "probe", every=50)},
)
longer: Experiment = evolve(experiment, train=mtlcore.Train(steps=1000))
text: str = longer.to_toml()
Path("experiment.toml").write_text(text, encoding="utf-8")
again = mtlcore.load_experiment("experiment.toml", {"train.steps": 500})
mood: mtlcore.SupervisedTask = again.tasks["mood"].component
assert again == experiment
