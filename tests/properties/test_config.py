"""Properties of any experiment: its dump parses to an equal one, and unknown keys are errors."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from attrs import evolve
from config_toys import (
    Box,
    Color,
    Equal,
    Faces,
    Folder,
    Hub,
    Puzzling,
    ResnetSmall,
    Strong,
    Styled,
    Validation,
    toy_catalog,
)
from hypothesis import assume, given
from hypothesis import strategies as st

from mtlcore import MtlError
from mtlcore.config import dump, parse
from mtlcore.config.experiment import (
    DataEntry,
    Experiment,
    GroupOverride,
    Input,
    ParameterGroups,
    PretextEntry,
    Schedule,
    TaskEntry,
    Train,
    Views,
)
from mtlcore.optimizers import SGD, AdamW

TOYS = toy_catalog()
DEFAULT_AUGMENTATIONS = {"strong": Strong(), "validation": Validation()}

texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8)
labels = st.from_regex(r"[A-Z][a-z0-9_]{1,6}", fullmatch=True)
numbers = st.floats(0, 1e30)
rates = st.floats(1e-30, 1000.0)
shares = st.floats(0, 1)
counts = st.integers(1, 10**6)
sizes = st.integers(1, 16384)
whole = st.integers(-(2**63) + 1, 2**63 - 1)
paths = st.from_regex(r"/[^\x00/][^\x00]{0,8}", fullmatch=True).map(Path)
boxes = st.builds(Box, numbers, numbers)
strong = st.builds(Strong, boxes, numbers)
augmentations = (
    strong | st.builds(Validation, boxes, numbers) | st.builds(Styled, boxes, numbers, style=paths)
)

encoders = st.builds(
    ResnetSmall,
    counts,
    st.lists(whole, max_size=3).map(tuple),
    st.sampled_from(["batch", "none"]),
) | st.builds(Hub, texts, st.none() | paths)
tasks = st.builds(
    TaskEntry,
    st.builds(
        Faces,
        texts.filter(bool),  # an empty one is replaced by the label
        st.lists(texts, max_size=3).map(tuple),
        st.sampled_from([7, 8]),
        numbers,
        st.sampled_from(Color),
    ),
    rates,
)
pretexts = st.builds(
    PretextEntry,
    st.builds(
        Puzzling,
        st.sampled_from([2, 3]),
        st.lists(st.tuples(numbers, numbers), max_size=2).map(tuple),
        st.booleans(),
        st.none() | whole,
        texts | numbers,
    ),
    rates,
    st.booleans(),
    st.sampled_from(["all", "unlabeled"]),
    st.sampled_from(["none", "views_only", "random_target"]),
)
datasets = st.builds(
    DataEntry,
    st.builds(
        Folder, paths, st.dictionaries(texts, texts, max_size=2), st.frozensets(texts, max_size=2)
    ),
    shares,
    st.sampled_from(["drop", "keep"]),
    st.none() | counts,
    st.none() | texts,
    st.none() | texts,
    rates,
    st.integers(0, 10**6),
)
trains = st.builds(
    Train,
    counts,
    st.none(),
    precision=st.sampled_from(["32", "bf16-mixed", "16-mixed"]),
    init_from=st.none() | paths,
) | st.builds(Train, st.none(), rates)

optimizers = st.one_of(st.builds(AdamW, rates), st.builds(SGD, rates))
overrides = st.builds(GroupOverride, texts, rates, st.none() | st.just(0.0))
parameter_groups = st.builds(
    ParameterGroups,
    st.none() | rates,
    st.floats(0.01, 1.0),
    st.lists(overrides, max_size=2).map(tuple),
)
freezes = st.sampled_from(["none", "stem", "all"]) | sizes
milestones = st.lists(st.floats(0.001, 0.999), max_size=3, unique=True)
schedules = st.builds(Schedule, st.sampled_from(["cosine", "constant"])) | st.builds(
    Schedule, st.just("step"), milestones=milestones.map(lambda shares: tuple(sorted(shares)))
)
inputs = st.builds(Input, sizes, counts, st.none() | counts, shares, st.none() | sizes)
views = st.builds(
    Views,
    st.sampled_from(["clean", "both"]),
    st.integers(1, 64),
    statistics=st.sampled_from(["all", "clean"]),
)


@st.composite
def experiments(draw: st.DrawFn) -> Experiment:
    names = draw(st.lists(labels, min_size=2, max_size=4, unique=True))
    cut = draw(st.integers(1, len(names) - 1))

    # Pretexts may read unlabeled samples alone, so one dataset must keep them.
    data = draw(st.dictionaries(texts, datasets, max_size=1))
    data |= {"unlabeled": evolve(draw(datasets), unlabeled="keep")}
    further = draw(st.dictionaries(texts, augmentations, max_size=2))
    entries = {name: draw(pretexts) for name in names[cut:]}
    seen = draw(views)
    if not any(entry.supervised and entry.samples == "all" for entry in entries.values()):
        seen = evolve(seen, supervised="clean")  # "both" would have no effect
    return Experiment(
        encoder=draw(encoders),
        tasks={name: draw(tasks) for name in names[:cut]},
        pretexts=entries,
        data=data,
        weighting=Equal(),
        augment=draw(augmentations),
        augmentations=DEFAULT_AUGMENTATIONS | further,
        input=draw(inputs),
        views=seen,
        freeze=draw(freezes),
        optimizer=draw(optimizers),
        parameter_groups=draw(parameter_groups),
        schedule=draw(schedules),
        train=draw(trains),
        seed=draw(whole),
    )


@given(experiments())
def test_a_dump_parses_to_an_equal_experiment(experiment: Experiment) -> None:
    again = parse(tomllib.loads(dump(experiment)), TOYS)
    assert again == experiment
    assert list(again.entries) == list(experiment.entries)
    assert dump(again) == dump(experiment)


SECTIONS = ["encoder", "input", "views", "optimizer", "schedule", "train", "augment", "weighting"]


@given(experiments(), st.sampled_from(SECTIONS), labels)
def test_an_unknown_key_is_an_error(experiment: Experiment, section: str, key: str) -> None:
    tables = tomllib.loads(dump(experiment))
    assume(key not in tables[section])
    tables[section][key] = 1
    with pytest.raises(MtlError, match=f"{section}.{key}: unknown key"):
        parse(tables, TOYS)
