"""The catalog, with real temporary distributions on the path: good and broken ones together."""

from __future__ import annotations

import importlib.metadata
import os
import pickle
import re
import subprocess
import sys
import textwrap
import warnings
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from mtlcore import MtlError
from mtlcore.registry.catalog import Catalog
from mtlcore.registry.components import snake
from mtlcore.registry.hooks import PluginWarning
from mtlcore.registry.torch_version_hint import torch_version_hint

HEAD = """
from __future__ import annotations
from pathlib import Path
from attrs import define, field, frozen
from mtlcore import Augmentation, Dataset, Encoder, LossWeighting
from mtlcore import PretextTask, SupervisedTask, hookimpl
"""
GOOD = """
@frozen
class {name}(LossWeighting):
    power: float = 1.0
    def build(self, names): ...

@hookimpl
def mtl_components(): return [{name}]
"""

Install = Callable[..., list[EntryPoint]]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """(distribution, body, ...) -> the entry points of all distributions installed so far.

    It writes a module and the .dist-info folder that `importlib.metadata` reads.
    """
    monkeypatch.syspath_prepend(str(tmp_path))

    def put(
        distribution: str, body: str, point: str | None = None, head: str = HEAD
    ) -> list[EntryPoint]:
        # The hash makes the module unique: imported modules stay in memory across tests.
        module = f"{distribution.replace('-', '_')}_{abs(hash(tmp_path))}"
        (tmp_path / f"{module}.py").write_text(head + textwrap.dedent(body))
        info = tmp_path / f"{distribution.replace('-', '_')}-1.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.2\n"
        )
        (info / "entry_points.txt").write_text(f"[mtlcore]\n{point or distribution} = {module}\n")
        return [
            p
            for d in importlib.metadata.distributions(path=[str(tmp_path)])
            for p in d.entry_points
        ]

    return put


def loaded(points: list[EntryPoint], **environ: str) -> Catalog:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PluginWarning)
        return Catalog.load(points, environ)


def row(catalog: Catalog, name: str, status: str = "failed") -> dict[str, Any]:
    [found] = [r for r in catalog.records() if r["name"] == name and r["status"] == status]
    return found


@pytest.mark.parametrize(
    ("cls", "name"),
    [
        ("Rotation", "rotation"),
        ("LocalRotation", "local_rotation"),
        ("PCGrad", "pc_grad"),
        ("ResNet18", "res_net18"),
        ("Fer2013", "fer2013"),
        ("SimCLR", "sim_clr"),
    ],
)
def test_a_class_is_named_in_snake_case(cls: str, name: str) -> None:
    assert snake(cls) == name


def test_a_component_is_found_by_kind_and_name_and_records_its_distribution(
    install: Install,
) -> None:
    catalog = loaded(install("mtl-extra", GOOD.format(name="MyBalance")))

    assert catalog.find("weighting", "my_balance")().power == 1.0
    assert row(catalog, "my_balance", "ok") | {"origin": ""} == {
        "kind": "weighting",
        "name": "my_balance",
        "distribution": "mtl-extra",
        "version": "1.2",
        "status": "ok",
        "origin": "",
        "reason": "",
    }


def test_an_explicit_name_wins_and_is_not_inherited(install: Install) -> None:
    body = """
    @frozen
    class First(LossWeighting):
        name = "one"
        def build(self, names): ...

    @frozen
    class Second(First): ...

    @hookimpl
    def mtl_components(): return [First, Second]
    """
    assert set(loaded(install("named", body)).of_kind("weighting")) == {"one", "second"}


def test_a_plugin_that_raises_on_import_fails_alone(install: Install) -> None:
    install("good", GOOD.format(name="Good"))
    points = install("broken", "raise ZeroDivisionError('no luck')")
    with pytest.warns(PluginWarning, match="no luck") as warned:
        catalog = Catalog.load(points, {})

    assert len(warned) == 1
    assert "\n" not in str(warned[0].message)
    assert catalog.find("weighting", "good")
    failed = row(catalog, "broken")
    assert failed["kind"] is None
    assert failed["distribution"] == "broken"
    assert failed["reason"] == "ZeroDivisionError: no luck"


def test_a_plugin_that_exits_on_import_fails_alone(install: Install) -> None:
    install("good", GOOD.format(name="Good"))
    catalog = loaded(install("quitter", "raise SystemExit(3)"))
    assert catalog.find("weighting", "good")
    assert "SystemExit" in row(catalog, "quitter")["reason"]


def test_finding_a_component_of_a_failed_plugin_raises_its_original_error(install: Install) -> None:
    catalog = loaded(install("broken", "raise ZeroDivisionError('no luck')", point="jigsaw"))

    with pytest.raises(MtlError, match="no luck") as raised:
        catalog.find("pretext", "jigsaw")
    assert "broken 1.2" in str(raised.value)
    assert isinstance(raised.value.__cause__, ZeroDivisionError)
    assert raised.value.__cause__.__traceback__ is not None


def test_an_unknown_name_lists_the_failed_plugins_that_may_have_it(install: Install) -> None:
    catalog = loaded(install("broken", "raise ZeroDivisionError('no luck')"))
    with pytest.raises(MtlError, match=r"unknown pretext 'jigsaw'.*broken 1\.2.*no luck") as raised:
        catalog.find("pretext", "jigsaw")
    assert isinstance(raised.value.__cause__, ZeroDivisionError)


def test_a_failed_component_does_not_affect_its_name_in_another_kind(install: Install) -> None:
    body = """
    class Bad(LossWeighting):
        def build(self, names): ...

    @hookimpl
    def mtl_components(): return [Bad]
    """
    catalog = loaded(install("mixed", body))
    with pytest.raises(MtlError, match="its plugin 'mixed'"):
        catalog.find("weighting", "bad")
    with pytest.raises(MtlError, match="unknown encoder 'bad'"):
        catalog.find("encoder", "bad")


def test_an_unknown_name_has_the_nearest_of_that_kind(install: Install) -> None:
    install("other", GOOD.format(name="Balances"))
    catalog = loaded(install("good", GOOD.format(name="Balance")))
    with pytest.raises(MtlError, match="did you mean 'balance'"):
        catalog.find("weighting", "balanze")
    with pytest.raises(MtlError, match="known: none"):
        catalog.find("encoder", "balance")


def test_a_misspelled_hook_is_a_failure_of_its_plugin_alone_and_names_the_nearest_hook(
    install: Install,
) -> None:
    install("typo", "@hookimpl\ndef mtl_component(): return []")
    catalog = loaded(install("zzz-later", GOOD.format(name="Later")))
    assert catalog.find("weighting", "later")
    reason = row(catalog, "typo")["reason"]
    assert "'mtl_component'" in reason
    assert "did you mean 'mtl_components'" in reason


def test_a_plugin_without_a_marked_hook_is_a_failure(install: Install) -> None:
    catalog = loaded(install("unmarked", "def mtl_components(): return []"))
    assert "@hookimpl" in row(catalog, "unmarked")["reason"]


def test_a_hook_with_an_argument_that_does_not_exist_is_a_failure(install: Install) -> None:
    catalog = loaded(install("greedy", "@hookimpl\ndef mtl_components(epoch): return []"))
    assert "epoch" in row(catalog, "greedy")["reason"]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (
            "class Bad(LossWeighting):\n    power: float = 1.0\n    def build(self, names): ...",
            "lacks @frozen",
        ),
        (
            "@frozen\nclass Base(LossWeighting):\n    def build(self, names): ...\n"
            "class Bad(Base):\n    power: float = 1.0",
            "lacks @frozen",
        ),
        (
            "@define\nclass Bad(LossWeighting):\n    def build(self, names): ...",
            "use attrs' @frozen",
        ),
        (
            "@define(slots=False)\nclass Bad(LossWeighting):\n    def build(self, names): ...",
            "use attrs' @frozen",
        ),
        ("@frozen\nclass Bad(LossWeighting):\n    power: float = 1.0", "does not implement build"),
        (
            "@frozen\nclass Bad(LossWeighting):\n    power: Nowhere = 1.0\n"
            "    def build(self, names): ...",
            "Nowhere",
        ),
        (
            "@frozen\nclass Bad(LossWeighting):\n    family = True\n"
            "    def build(self, names): ...",
            "family",
        ),
        (
            "@frozen\nclass Bad(LossWeighting):\n    name = 'Not So'\n"
            "    def build(self, names): ...",
            "'Not So'",
        ),
        (
            "@frozen\nclass Bad(SupervisedTask):\n    def target(self, a): ...\n"
            "    def build(self, context): ...",
            "which annotation it `reads`",
        ),
        (
            "@frozen\nclass Bad(PretextTask):\n    samples: int = 3\n"
            "    def views(self, s, r): ...\n    def build(self, h): ...",
            "'samples'",
        ),
        (
            "@frozen\nclass Bad(Dataset):\n    exclude_duplicates: bool = True\n"
            "    def index(self): ...\n"
            "    def decode(self, i, r): ...",
            "'exclude_duplicates'",
        ),
    ],
)
def test_an_invalid_component_is_rejected_with_its_reason_and_the_others_are_not(
    install: Install, body: str, reason: str
) -> None:
    good = "\n@frozen\nclass Good(LossWeighting):\n    def build(self, names): ...\n"
    hook = "@hookimpl\ndef mtl_components(): return [Bad, Good]\n"
    catalog = loaded(install("mixed", f"{body}\n{good}{hook}"))

    assert catalog.find("weighting", "good")
    [failed] = [r for r in catalog.records() if r["status"] == "failed"]
    assert reason in str(failed["reason"])
    assert failed["kind"] is not None
    with pytest.raises(MtlError, match="Bad"):
        catalog.find(str(failed["kind"]), str(failed["name"]))


@pytest.mark.parametrize("returned", ["[3]", "[dict]", "[object()]"])
def test_an_object_that_is_no_component_class_is_rejected(install: Install, returned: str) -> None:
    catalog = loaded(install("odd", f"@hookimpl\ndef mtl_components(): return {returned}"))
    assert "expected classes derived from" in row(catalog, "odd")["reason"]


def test_a_hook_that_returns_no_list_is_a_failure(install: Install) -> None:
    catalog = loaded(install("odd", "@hookimpl\ndef mtl_components(): return 3"))
    assert "expected a list" in row(catalog, "odd")["reason"]


def test_a_duplicate_is_rejected_with_both_distributions_and_the_first_stays(
    install: Install,
) -> None:
    install("aaa", GOOD.format(name="Twice"))
    catalog = loaded(install("zzz", GOOD.format(name="Twice")))

    assert "aaa" in catalog.find("weighting", "twice").__module__
    reason = row(catalog, "twice")["reason"]
    assert "aaa 1.2" in reason
    assert "zzz 1.2" in reason


def test_a_duplicate_of_a_shipped_component_never_replaces_it(install: Install) -> None:
    shipped = [p for p in importlib.metadata.entry_points(group="mtlcore") if p.name == "weighting"]
    catalog = loaded([*install("aaa", GOOD.format(name="Equal")), *shipped])
    assert catalog.find("weighting", "equal").__module__ == "mtlcore.weighting.equal"
    assert "mtlcore" in row(catalog, "equal")["reason"]


def test_the_same_module_behind_two_entry_points_has_a_clear_reason(install: Install) -> None:
    [point] = install("one", GOOD.format(name="One"))
    catalog = loaded([point, EntryPoint("again", point.value, "mtlcore")])
    [failed] = [record for record in catalog.records() if record["status"] == "failed"]
    assert "already registered by another entry point" in str(failed["reason"])


# ------------------------------------------------------------ environment variables


@pytest.mark.parametrize("blocked", ["jigsaw", "my-dist", "My_Dist", "nothing-else, jigsaw"])
def test_a_plugin_is_blocked_by_entry_point_or_distribution(install: Install, blocked: str) -> None:
    install("other", GOOD.format(name="Other"))
    points = install(
        "my-dist", "raise AssertionError('a blocked plugin must not run')", point="jigsaw"
    )
    catalog = loaded(points, MTLCORE_PLUGINS_BLOCK=blocked)

    assert row(catalog, "jigsaw", "blocked")["distribution"] == "my-dist"
    assert catalog.find("weighting", "other")
    with pytest.raises(MtlError, match="MTLCORE_PLUGINS_BLOCK"):
        catalog.find("pretext", "jigsaw")


def test_only_the_pinned_plugins_load(install: Install) -> None:
    install("one", GOOD.format(name="One"))
    catalog = loaded(install("two", GOOD.format(name="Two")), MTLCORE_PLUGINS_ONLY="two")
    assert set(catalog.of_kind("weighting")) == {"two"}
    assert "MTLCORE_PLUGINS_ONLY" in row(catalog, "one", "blocked")["reason"]


def test_a_variable_that_names_no_plugin_causes_a_warning(install: Install) -> None:
    with pytest.warns(
        PluginWarning, match="MTLCORE_PLUGINS_BLOCK.*'jigsav'.*did you mean 'jigsaw'"
    ):
        Catalog.load(
            install("jigsaw", GOOD.format(name="Jigsaw")), {"MTLCORE_PLUGINS_BLOCK": "jigsav"}
        )


@pytest.mark.parametrize(
    ("value", "fatal"), [("1", True), ("true", True), ("0", False), ("", False)]
)
def test_failures_are_fatal_if_the_variable_says_so(
    install: Install, value: str, fatal: bool
) -> None:
    points = install("broken", "raise ZeroDivisionError('no luck')")
    if not fatal:
        assert row(loaded(points, MTLCORE_PLUGINS_FATAL=value), "broken")
        return
    with pytest.raises(MtlError, match=r"broken 1\.2.*no luck") as raised:
        loaded(points, MTLCORE_PLUGINS_FATAL=value)
    assert isinstance(raised.value.__cause__, ZeroDivisionError)


# ------------------------------------------------------------ families, examples, files


def test_a_family_accepts_any_name_after_the_colon_and_others_refuse_one(install: Install) -> None:
    body = """
    @frozen
    class Hub(LossWeighting):
        family = True
        model: str
        def build(self, names): ...

    @frozen
    class Plain(LossWeighting):
        def build(self, names): ...

    @hookimpl
    def mtl_components(): return [Hub, Plain]
    """
    catalog = loaded(install("hub", body))
    assert catalog.find("weighting", "hub:resnet18") is catalog.find("weighting", "hub")
    with pytest.raises(MtlError, match="'plain' is not a family"):
        catalog.find("weighting", "plain:resnet18")


def test_a_shipped_experiment_is_found_by_name(install: Install) -> None:
    body = "@hookimpl\ndef mtl_examples(): return {'demo': Path('/somewhere/demo.toml')}"
    catalog = loaded(install("shipping", body))
    assert catalog.example("demo") == Path("/somewhere/demo.toml")
    with pytest.raises(MtlError, match="did you mean 'demo'"):
        catalog.example("demos")


def test_a_plugin_file_with_postponed_annotations_builds_and_pickles(tmp_path: Path) -> None:
    file = tmp_path / "my plugin.py"
    file.write_text(HEAD + GOOD.format(name="Filed"))
    catalog = Catalog()
    catalog.load_file(file)
    built = catalog.find("weighting", "filed")(2.0)

    assert pickle.loads(pickle.dumps(built)) == built
    assert row(catalog, "filed", "ok")["origin"] == str(file)
    assert not list(tmp_path.glob("**/*.pyc"))


def test_a_plugin_file_loads_once_per_catalog(tmp_path: Path) -> None:
    file = tmp_path / "once.py"
    file.write_text(HEAD + GOOD.format(name="Once"))
    catalog = Catalog()
    catalog.load_file(file)
    with pytest.raises(MtlError, match=r"once\.py is already loaded"):
        catalog.load_file(file)


def test_a_copy_of_a_plugin_file_has_the_same_class(tmp_path: Path) -> None:
    first, second = tmp_path / "same.py", tmp_path / "copy" / "same.py"
    second.parent.mkdir()
    for file in (first, second):
        file.write_text(HEAD + GOOD.format(name="Same"))
    one, other = Catalog(), Catalog()
    one.load_file(first)
    other.load_file(second)
    assert one.find("weighting", "same") is other.find("weighting", "same")


def test_a_file_loaded_into_a_copy_does_not_change_the_catalog(
    tmp_path: Path, install: Install
) -> None:
    file = tmp_path / "joins.py"
    file.write_text(HEAD + GOOD.format(name="Joins"))
    catalog = loaded(install("good", GOOD.format(name="Good")))
    twin = catalog.copy()
    twin.load_file(file)
    assert set(twin.of_kind("weighting")) == {"good", "joins"}
    assert set(catalog.of_kind("weighting")) == {"good"}
    assert len(catalog.records()) == 1


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("absent.py", None, "can't be read"),
        ("notes.txt", "hello", "expected a Python file"),
        ("raises.py", "raise KeyError('whoops')", "whoops"),
        ("syntax.py", "def (:", "SyntaxError"),
    ],
)
def test_a_plugin_file_that_cannot_load_is_an_error_at_once(
    tmp_path: Path, name: str, text: str | None, message: str
) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(MtlError, match=message) as raised:
        Catalog().load_file(tmp_path / name)
    assert name in str(raised.value)


# ------------------------------------------------------------ files and installed plugins

PRETEXT = """
import torch
from mtlcore import Head

@frozen
class Brighter(PretextTask):
    \"""Was it made brighter?\"""
    by: float = {by}
    def views(self, batch, rng):
        target = rng.randint(2, len(batch.clean.images))
        images = batch.clean.images + self.by * target[:, None, None, None]
        return [batch.clean.repaint(images.clamp(0, 1))], target
    def build(self, context): return BrighterHead(context.info.dim)

class BrighterHead(Head):
    def __init__(self, dim):
        super().__init__()
        self.classifier = torch.nn.Linear(dim, 2)
    def forward(self, features): return self.classifier(features.pooled)
    def loss(self, output, target):
        return torch.nn.functional.cross_entropy(output, target, reduction="none")

@hookimpl
def mtl_components(): return [Brighter]
"""
RUN = """
[task.fer]
[pretext.brighter]
[data.synthfaces]
train = 16
test = 4
[encoder]
width = 4
[input]
size = 16
batch_size = 8
[schedule]
warmup = 0

[train]
steps = 1
"""


def test_a_file_replaces_an_installed_component_and_causes_a_warning(
    tmp_path: Path, install: Install
) -> None:
    file = tmp_path / "balance.py"
    file.write_text(HEAD + GOOD.format(name="Balance").replace("1.0", "2.0"))
    both = GOOD.format(name="Balance").replace("[Balance]", "[Balance, Other]")
    other = "@frozen\nclass Other(LossWeighting):\n    def build(self, names): ...\n"
    installed = loaded(install("mtl-extra", other + both))
    catalog = installed.copy()
    with pytest.warns(PluginWarning) as warned:
        catalog.load_file(file)

    [message] = [str(warning.message) for warning in warned]
    assert "\n" not in message
    expected = f"'balance' comes from {file}, which replaces 'mtl-extra' of mtl-extra 1.2"
    assert expected in message
    assert catalog.find("weighting", "balance")().power == 2.0
    assert installed.find("weighting", "balance")().power == 1.0
    assert row(catalog, "balance", "ok")["origin"] == str(file)
    hidden = row(catalog, "balance", "shadowed")
    assert hidden["distribution"] == "mtl-extra"
    assert hidden["reason"] == f"replaced by 'balance' ({file})"
    # The other components of that plugin stay.
    assert row(catalog, "other", "ok")["distribution"] == "mtl-extra"


def test_a_file_replaces_a_shipped_component(tmp_path: Path) -> None:
    file = tmp_path / "equal.py"
    file.write_text(HEAD + GOOD.format(name="Equal"))
    shipped = [p for p in importlib.metadata.entry_points(group="mtlcore") if p.name == "weighting"]
    catalog = loaded(shipped)
    with pytest.warns(PluginWarning, match="which replaces 'weighting' of mtlcore"):
        catalog.load_file(file)
    assert catalog.find("weighting", "equal").__module__.startswith("mtlcore_file_")


def test_a_file_with_the_text_of_the_installed_plugin_causes_no_warning(
    tmp_path: Path, install: Install
) -> None:
    [point] = install("mtl-extra", GOOD.format(name="Alike"))
    catalog = loaded([point])
    file = tmp_path / "copy" / "alike.py"
    file.parent.mkdir()
    file.write_bytes((tmp_path / f"{point.value}.py").read_bytes())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        catalog.load_file(file)
    assert catalog.find("weighting", "alike").__module__.startswith("mtlcore_file_")
    assert row(catalog, "alike", "shadowed")["reason"].endswith(", which has the same text")


def test_two_files_with_the_same_component_are_an_error_that_names_both_and_the_fix(
    tmp_path: Path, install: Install
) -> None:
    first, second = tmp_path / "first.py", tmp_path / "second.py"
    for number, file in enumerate((first, second)):
        file.write_text(HEAD + GOOD.format(name="Twofold").replace("1.0", f"{number}.0"))
    catalog = loaded(install("mtl-extra", GOOD.format(name="Twofold")))
    with pytest.warns(PluginWarning, match="first.py"):
        catalog.load_file(first)
    with pytest.raises(
        MtlError, match="two plugin files can't provide the same component; name one of them alone"
    ) as raised:
        catalog.load_file(second)
    assert str(first) in str(raised.value)
    assert str(second) in str(raised.value)
    assert catalog.find("weighting", "twofold")().power == 0.0


def test_a_plugin_that_returns_a_component_twice_is_a_failure(install: Install) -> None:
    catalog = loaded(
        install("mtl-extra", GOOD.format(name="Echo").replace("[Echo]", "[Echo, Echo]"))
    )
    assert row(catalog, "echo", "ok")
    assert row(catalog, "echo")["reason"].endswith("returns the weighting 'echo' twice")


@pytest.mark.slow
def test_a_run_of_a_file_is_evaluated_after_another_version_is_installed(tmp_path: Path) -> None:
    file, config, site = tmp_path / "brighter.py", tmp_path / "run.toml", tmp_path / "site"
    file.write_text(HEAD + PRETEXT.format(by=0.25))
    config.write_text(RUN)
    assert mtl(site, "train", config, "--plugin", file, "--out", tmp_path / "run").stderr == ""
    info = site / "mtl_brighter-0.1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mtl-brighter\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text("[mtlcore]\nbrighter = brighter_plugin\n")
    (site / "brighter_plugin.py").write_text(HEAD + PRETEXT.format(by=0.5))

    done = mtl(site, "eval", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    [warning] = done.stderr.splitlines()
    assert re.fullmatch(
        r"mtl: warning: pretext 'brighter' comes from .*, which replaces .*mtl-brighter 0\.1.*",
        warning,
    )
    assert "by = 0.25" in (tmp_path / "run" / "config.toml").read_text()


def mtl(site: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-m", "mtlcore"]
    env = os.environ | {"PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*program, *map(str, words)], capture_output=True, text=True, env=env, check=False
    )


# ------------------------------------------------------------ torch and torchvision


def test_a_torchvision_built_for_another_torch_is_one_line_with_the_command_to_type(
    install: Install,
) -> None:
    body = """
    try:
        raise RuntimeError("operator torchvision::nms does not exist")
    except RuntimeError:
        raise ImportError("could not import the models")
    """
    catalog = loaded(install("vision", body))
    reason = row(catalog, "vision")["reason"]
    assert importlib.metadata.version("torchvision") in reason
    assert "install --upgrade torch torchvision" in reason
    assert "\n" not in reason


def test_other_errors_have_no_hint() -> None:
    assert torch_version_hint(RuntimeError("operator aten::nms does not exist")) is None
    looped = ValueError("a")
    looped.__cause__ = looped
    assert torch_version_hint(looped) is None
