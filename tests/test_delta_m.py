"""`delta_m`: a run against single-task runs, in Python and by `mtl eval --against`."""

from __future__ import annotations

import json

import pytest
from attrs import evolve

from mtlcore import Evaluation, MtlError
from mtlcore.cli import main
from mtlcore.evaluation.delta_m import delta_m

HIGHER = {
    "seg/miou": True,
    "seg/accuracy": True,
    "depth/abs_error": False,
    "depth/rel_error": False,
}


def evaluation(run: str, **metrics: float) -> Evaluation:
    named = {name.replace("__", "/"): value for name, value in metrics.items()}
    n = dict.fromkeys((name.partition("/")[0] for name in named), 10)
    return Evaluation(run, "camvid", "validation", "last", n, named, {})


BOTH = evaluation(
    "both", seg__miou=0.55, seg__accuracy=0.9, depth__abs_error=1.2, depth__rel_error=0.1
)
SEG = evaluation("seg", seg__miou=0.5, seg__accuracy=0.9)
DEPTH = evaluation("depth", depth__abs_error=1.0, depth__rel_error=0.2)


def test_it_is_the_mean_of_the_relative_gains_where_lower_errors_are_gains():
    found = delta_m(BOTH, [SEG, DEPTH], HIGHER)
    assert found.delta_m == pytest.approx((0.1 - 0.2) / 2)
    assert found.delta_m_all == pytest.approx(((0.1 + 0) / 2 + (-0.2 + 0.5) / 2) / 2)
    assert found.runs == {"seg": "seg", "depth": "depth"}
    assert [change.metric for change in found.changes] == list(HIGHER)


def test_runs_that_can_not_be_compared_are_refused(subtests):
    zero = evaluation("zero", seg__miou=0.0)
    cases = {
        "found none": [SEG],
        "found seg, seg": [SEG, SEG, DEPTH],
        "expected the same data": [evolve(SEG, split="test"), DEPTH],
        "is 0 there": [zero, DEPTH],
        "no metric in both": [evaluation("other", seg__else=1.0), DEPTH],
    }
    for expected, against in cases.items():
        with subtests.test(expected), pytest.raises(MtlError, match=expected):
            delta_m(BOTH, against, HIGHER)


@pytest.mark.slow
def test_the_command_evaluates_all_runs_and_prints_both_figures(tmp_path, capsys):
    config = """
plugins = ["{toys}"]
[encoder]
width = 4
{tasks}
[data.scenes]
n = 24
size = [24, 32]
[input]
size = [24, 32]
batch_size = 8
validation = 0.3
[augment]
name = "weak"
[train]
steps = 2
"""
    from aligned_toys import __file__ as toys

    depth = '[task.depth]\nname = "dense_regression"\n'
    seg = '[task.classes]\nname = "segmentation"\nclasses = ["dark", "bright"]\n'
    for name, tasks in (("both", depth + seg), ("depth", depth), ("seg", seg)):
        file = tmp_path / f"{name}.toml"
        file.write_text(config.format(toys=toys, tasks=tasks))
        assert main(["train", str(file), "--out", str(tmp_path / name)]) == 0
    capsys.readouterr()
    words = ["eval", str(tmp_path / "both"), "--mirror"]
    for name in ("depth", "seg"):
        words += ["--against", str(tmp_path / name)]
    assert main([*words, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    gains = printed["gains"]
    mains = (gains["depth/abs_error"] + gains["classes/miou"]) / 2
    assert printed["delta_m"] == pytest.approx(mains)
    assert main(words) == 0
    assert "delta_m" in capsys.readouterr().out
