"""The suite `dense`: all sides do the same work, and its rows of mIoU resume."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

from dense_rows import read, table


def test_the_table_of_miou_pairs_the_sides_by_seed(tmp_path):
    file = tmp_path / "rows.jsonl"
    assert read(file) == []
    values = {("ours", 0): 0.3, ("ours", 1): 0.25, ("plain PyTorch", 1): 0.26, ("LibMTL", 2): 0.2}
    rows = [{"side": side, "seed": seed, "miou": miou} for (side, seed), miou in values.items()]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = table(read(file)).splitlines()
    assert "| ours | 27.50 | 30.00, 25.00 | +0.00, +0.00 |" in lines
    assert "| plain PyTorch | 26.00 | 26.00 | -1.00 |" in lines
    assert "| LibMTL | 20.00 | 20.00 |  |" in lines


@pytest.mark.slow
def test_all_sides_of_the_suite_take_the_same_steps(monkeypatch):
    pytest.importorskip("timm")
    from dense_data import DATA, SMALL, experiment
    from dense_sides import LIBMTL, HandStep, Net, as_ours, batches, libmtl_step, ours

    from mtlcore.data.dataset import open_data

    monkeypatch.delenv(DATA, raising=False)
    exp, data = open_data(experiment(size=SMALL), {"train", "validation"})
    trainer = ours(data, exp)
    model = trainer.parts.train_state.model
    sides = {"plain": HandStep} | ({"LibMTL": libmtl_step} if LIBMTL else {})
    nets = {name: Net(exp) for name in sides}
    for net in nets.values():
        net.load_state_dict(model.state_dict())
    steps = {
        name: side(nets[name], batches(data, as_ours(data, exp))) for name, side in sides.items()
    }
    for _ in range(2):
        trainer.step()
        for step in steps.values():
            step()
    mine = model.state_dict()
    for name, net in nets.items():
        for key, value in net.state_dict().items():
            assert (value - mine[key]).abs().float().mean() < 1e-5, (name, key)
