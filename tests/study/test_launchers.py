"""Runs of a study one by one, as schedulers start them, and on a Ray cluster that loses a node."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

import pytest
from study_toys import PLUGIN, STUDY, dots_run

from mtlcore import MtlError
from mtlcore.cli import main
from mtlcore.study.launchers.on_ray import run_on_ray
from mtlcore.study.launchers.one import collect, name_of_number, numbered, train_one
from mtlcore.study.study import Study
from mtlcore.study.training import weights_of


def quiet(_: str) -> None:
    pass


def written(folder: Path, steps: int = 1) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "base.toml").write_text(PLUGIN + dots_run(steps) + "save_every = 5\n")
    (folder / "study.toml").write_text(STUDY)
    return folder / "study.toml"


def weights(study: Study) -> dict[tuple[str, int], str]:
    return {(row["arm"], row["seed"]): row["weights"] for row in study.workspace.rows()}


def test_numbers_of_runs_stay_while_runs_end(tmp_path, capsys) -> None:
    file = written(tmp_path)
    words = ["study", "run", str(file)]
    assert main([*words, "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    names = [line.partition(" ")[2] for line in lines]
    assert [line.partition(" ")[0] for line in lines] == ["1", "2", "3", "4"]
    assert main([*words, "--only", "1"]) == 0
    assert main([*words, "--only", "3"]) == 0
    study = Study.load(file)
    done = {(row["arm"], row["seed"]) for row in study.workspace.rows()}
    assert done == {("supervised", 0), ("supervised", 1)}
    assert [name_of_number(study, n) for n in (1, 2, 3, 4)] == names
    assert main([*words, "--only", "1"]) == 0  # it has ended: nothing is trained
    assert len(study.workspace.rows()) == 2
    assert numbered(study) == [names[1], names[3]]
    assert main([*words, "--only", "3"]) == 2
    assert "has the runs 1 to 2" in capsys.readouterr().err


def test_runs_of_several_machines_are_collected_once(tmp_path, capsys) -> None:
    file = written(tmp_path)
    here, there = Study.load(file), Study.load(file, tmp_path / "there")
    first, second, *_ = numbered(there)
    train_one(here, first, quiet)
    for name in (first, second):
        train_one(there, name, quiet)
    (here.workspace.work / second).mkdir()  # half trained here, and finished there
    (here.workspace.work / second / "half").touch()
    assert main(["study", "run", str(file), "--collect", str(there.folder)]) == 0
    assert capsys.readouterr().out.startswith("added 1 runs")
    assert weights(here) == weights(there)
    assert weights_of(here.workspace.work / second) == here.workspace.rows()[1]["weights"]
    assert (here.workspace.work / f"{second}.old-1" / "half").exists()
    assert collect(here, [there.folder]) == []
    with pytest.raises(MtlError, match="is no folder of a study"):
        collect(here, [tmp_path / "nowhere"])


def test_errors_of_launchers_say_what_to_type(tmp_path, monkeypatch, capsys) -> None:
    study = Study.load(written(tmp_path))
    with pytest.raises(MtlError, match="--list"):
        name_of_number(study, 1)
    with pytest.raises(MtlError, match="main-none-0-0-1: the study has no such run now"):
        train_one(study, "main-none-0-0-1", quiet)
    with pytest.raises(MtlError, match="cpus = 0"):
        run_on_ray(study, cpus=0)
    with pytest.raises(MtlError, match="did you mean 'puzzling'"):
        run_on_ray(study, arms=["puzling"])
    words = ["study", "run", str(tmp_path / "study.toml"), "--only", "1"]
    assert main([*words, "--jobs", "2", "--arms", "puzzling"]) == 2
    assert "--jobs and --arms: --only does not use it" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MtlError, match=r"pip install 'mtlcore\[ray\]'"):
        run_on_ray(study)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_lost_node_changes_no_bit_of_the_results(tmp_path, monkeypatch) -> None:
    """A study on two nodes; one is killed while it trains. The rows equal those of one process."""
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    node = {"num_cpus": 1, "object_store_memory": 80_000_000}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "num_cpus": 0})
    nodes = [cluster.add_node(**node), cluster.add_node(**node)]
    study = Study.load(written(tmp_path / "ray", steps=120))
    killed: list[float] = []

    def kill_one() -> None:
        """Kill the second node once two runs have saved a checkpoint."""
        while len(list(study.workspace.work.glob("*/checkpoints/last-*"))) < 2:
            time.sleep(0.05)
        assert not study.workspace.rows()
        cluster.remove_node(nodes[1], allow_graceful=False)
        killed.append(time.time())

    try:
        ray.init(address=cluster.address, log_to_driver=False)
        killer = threading.Thread(target=kill_one, daemon=True)
        killer.start()
        lines: list[str] = []
        assert run_on_ray(study, say=lines.append) == {}
        killer.join(5)
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert killed
    local = Study.load(written(tmp_path / "local", steps=120))
    local.train(say=quiet)
    assert len(weights(study)) == 4
    assert weights(study) == weights(local)
    assert [line for line in lines if "no result" in line or "failed" in line] == []
