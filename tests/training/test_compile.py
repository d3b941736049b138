"""`train.compile`: the compiled encoder trains as the eager one does, up to rounding."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from dots_run import DOTS, tiny_toml, weights

from mtlcore import MtlError
from mtlcore.callbacks.progress import SilentReporter
from mtlcore.config import load
from mtlcore.encoders import ResnetSmall
from mtlcore.evaluation.evaluate import evaluate
from mtlcore.model.inference import SharedEncoder
from mtlcore.training.trainer import Trainer, train

BRANCHING = Path(__file__).with_name("branching.py")
STEPS = """
steps = 4
ema = 0.5
eval_every = 2
save_every = 2
log_every = 2
accelerator = "cpu"
"""
# Adam would turn the rounding of a gradient near 0 into a whole step.
SGD = """
[optimizer]
name = "sgd"
lr = 0.05
"""
PRETEXT = """
[pretext.puzzling]
grid = 2
weight = 0.3
"""
WEIGHTINGS = {
    "equal": "",
    "uncertainty": '[weighting]\nname = "uncertainty"',
    "upgrad": '[weighting]\nname = "torchjd:UPGrad"\nat = "parameters"\nevery = 2',
}
HANG_S = 1800  # only ends a process that hangs
pytestmark = pytest.mark.timeout(2 * HANG_S)


class Notes(SilentReporter):
    """Keeps the messages."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def config(folder: Path, tables: str = "", plugins: tuple[Path, ...] = (DOTS,)) -> Path:
    file = folder / "dots.toml"
    text = tiny_toml(STEPS, plugins=plugins, tables=f"{SGD}{tables}")
    # One block: the compiler takes most of the time of these tests.
    file.write_text(text.replace("width = 4", "width = 4\ndepths = [1]"))
    return file


@pytest.mark.parametrize("compiles", ["true", '"try"'])
def test_a_graph_break_is_an_error_with_its_line_unless_eager_training_is_asked_for(
    compiles, tmp_path
):
    file = config(tmp_path, plugins=(DOTS, BRANCHING))
    experiment = load(file, ["encoder.name=branching", f"train.compile={compiles}"])
    reporter = Notes()
    if compiles == "true":
        with pytest.raises(MtlError, match=r"can't be compiled: .*branching\.py\", line 2\d") as e:
            train(experiment, tmp_path / "run", reporter=reporter)
        assert 'set train.compile = false, or "try"' in str(e.value)
        assert not (tmp_path / "run").exists()
        return
    train(experiment, tmp_path / "run", reporter=reporter)
    [note] = [note for note in reporter.notes if "compile" in note]
    assert note.startswith('train.compile = "try": the encoder can\'t be compiled, and is trained')
    train(load(file, ["encoder.name=branching"]), tmp_path / "eager")
    tried, eager = weights(tmp_path / "run"), weights(tmp_path / "eager")
    assert all(torch.equal(tried[name], eager[name]) for name in eager)


def test_a_step_that_fails_without_the_compiler_too_is_not_blamed_on_it(tmp_path):
    plugins = (DOTS, BRANCHING, Path(__file__).with_name("troubles.py"))
    file = config(tmp_path, "[pretext.trains]", plugins)
    one = ["input.batch_size=1", "encoder.name=branching", "train.compile=true"]
    experiment = load(file, one)
    with pytest.raises(MtlError, match="a trial of the first training step failed") as refused:
        train(experiment, tmp_path / "run")
    assert "compile" not in str(refused.value)


def test_a_copy_of_a_compiled_encoder_is_eager_and_names_stay():
    encoder = SharedEncoder(ResnetSmall(width=4, depths=(1,)), (8, 8))
    names = list(encoder.state_dict())
    encoder.compile_training()
    assert list(encoder.state_dict()) == names
    assert encoder._compiled is not None
    assert copy.deepcopy(encoder)._compiled is None


def test_a_gramian_at_the_features_is_refused_with_a_compiled_encoder(tmp_path):
    tables = f'{PRETEXT}\n[weighting]\nname = "primary_projection"\nat = "features"'
    with pytest.raises(MtlError, match=r'train\.compile and weighting\.at = "features"'):
        load(config(tmp_path, tables), ["train.compile=true"])


@pytest.mark.slow
@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_a_compiled_step_is_the_eager_one_up_to_rounding(weighting, tmp_path):
    file = config(tmp_path, PRETEXT + WEIGHTINGS[weighting])
    eager = Trainer(load(file), progress=False)
    compiled = Trainer(load(file, ["train.compile=true"]), progress=False)
    for trainer in (eager, compiled):
        trainer.step()
    a, b = eager.model.state_dict(), compiled.model.state_dict()
    assert list(a) == list(b)
    torch.testing.assert_close(b, a, atol=1e-5, rtol=1e-4)
    assert any(not torch.equal(a[name], b[name]) for name in a)  # it was compiled
    for _ in range(3):  # with cached task weights, too
        compiled.step()
    assert compiled.skipped == 0


@pytest.mark.slow
def test_a_compiled_run_resumes_bit_for_bit(tmp_path):
    file = config(tmp_path, PRETEXT)
    whole = load(file, ["train.compile=true"])
    train(whole, tmp_path / "whole")
    train(load(file), tmp_path / "eager")
    assert weights(tmp_path / "whole").keys() == weights(tmp_path / "eager").keys()
    assert evaluate(tmp_path / "whole").metrics
    trainer = Trainer(whole, tmp_path / "parts", progress=False)
    for _ in range(2):
        trainer.step()
    trainer.save()
    again = Trainer(whole, tmp_path / "parts", resume=True, progress=False)
    again.run()
    a, b = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.slow
def test_two_processes_train_a_compiled_encoder(tmp_path):
    code = tmp_path / "mtl.py"
    code.write_text("import sys\nfrom mtlcore.cli import main\nsys.exit(main())\n")
    words = ["train", str(config(tmp_path, PRETEXT)), "--set", "train.micro_batches=2"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", str(code)]
    commands = {
        "two": [*torchrun, *words, "--set", "train.compile=true"],
        "one": [sys.executable, str(code), *words],
    }
    for name, command in commands.items():
        done = subprocess.run(
            [*command, "--out", str(tmp_path / name)],
            capture_output=True,
            text=True,
            timeout=HANG_S,
        )
        assert done.returncode == 0, done.stderr[-2000:]
    a, b = weights(tmp_path / "two"), weights(tmp_path / "one")
    parameters = [name for name in a if "running" not in name and "num_batches" not in name]
    for name in parameters:
        torch.testing.assert_close(a[name], b[name], atol=1e-4, rtol=1e-3)


@pytest.mark.slow
def test_without_a_cpp_compiler_the_message_names_it(tmp_path):
    code = "import sys; from mtlcore.cli import main; sys.exit(main())"
    words = ["train", str(config(tmp_path)), "--set", "train.compile=true", "--out"]
    done = subprocess.run(
        [sys.executable, "-c", code, *words, str(tmp_path / "run")],
        env={"PATH": "/nonexistent", "PYTHONPATH": ":".join(sys.path), "HOME": str(tmp_path)}
        | {"CXX": "/nonexistent/g++", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        timeout=HANG_S,
    )
    assert done.returncode == 2, done.stderr[-2000:]
    assert "mtl: train.compile = true: the encoder can't be compiled" in done.stderr
    assert "compiler" in done.stderr.lower()
