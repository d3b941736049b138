"""A trained model as a folder that others can load, in the layout of model hubs.

    DIR/model.safetensors   the weights of inference: encoder and supervised heads (EMA if used)
    DIR/config.json         the components with all their fields, answers, data, versions, checksum
    DIR/preprocessor.json   the way from an image to the encoder (`Preprocess`)
    DIR/README.md           the model card
    DIR/responsible-use.md  what answers about people say, and uses to avoid
    DIR/model.onnx          the same network for other runtimes (if asked for)

Loading runs no code from the folder. A model of a one-file plugin needs the same file from the
user; its SHA-256 is compared.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from attrs import evolve

from ..checkpoints import LARGEST, Checkpoint, Which
from ..config.experiment import Experiment
from ..config.overrides import Overrides
from ..config.read import parse
from ..config.write import component_table, tables_of
from ..contracts import Component, Detector
from ..errors import MtlError
from ..evaluation.evaluate import Evaluation, empty_network, inference_network, torch_device
from ..evaluation.responsible_use import NAME as RESPONSIBLE_USE
from ..evaluation.responsible_use import responsible_use
from ..files import (
    exists,
    flush_folder,
    in_shell,
    is_file,
    read_file,
    removed_after_failure,
    to_json,
    write_atomically,
    write_errors_as_mtl_error,
)
from ..model.preprocess import Preprocess
from ..prediction.described import described_answers
from ..prediction.predictor import Predictor, detector_of, predictor_of_network
from ..registry.lookup import missing_component
from ..registry.plugin_file import MARK, PluginFile, split_entry
from ..runs import RunFolder
from ..weights import load_weights
from .export import export_run
from .model_card import model_card

FORMAT = 1
"""The format of packages that this version writes, and the only one that it reads."""

WEIGHTS, ONNX = "model.safetensors", "model.onnx"
CONFIG, PREPROCESSOR, CARD = "config.json", "preprocessor.json", "README.md"
PATH_FIELD = "weights"  # the field of encoders that may hold the path of a file

JsonObject = dict[str, Any]


def write_package(
    folder: RunFolder,
    out: Path,
    *,
    which: Which = "last",
    evaluation: Evaluation | None = None,
    license_name: str = "",
    study: Path | None = None,
    onnx: bool = False,
    overrides: Overrides = (),
) -> None:
    """Write the model of a run to the new folder `out`.

    which: the checkpoint, "last" or "best".
    evaluation: its metrics appear in the model card. Default: the validation metrics that the run
        logged at the step of the checkpoint.
    license_name: the license of the package, for the front matter of the card.
    study: a Markdown file for the card, such as a study's table with controls and intervals.
    onnx: also write model.onnx, checked against the run as `Run.export` does.
    overrides: of the experiment, for the images of this check.

    Raises MtlError if `out` exists, if the run has no task or no such checkpoint, if its validation
    augmentation can't be saved as data, if the evaluation is of another run or checkpoint, or if
    the study can't be read. `out` is complete or absent.
    """
    if exists(out):
        raise MtlError(f"{out} already exists: choose another --out")
    experiment = folder.experiment()
    if not experiment.tasks:
        raise MtlError(f"{folder.path} has no supervised task: there is nothing to package")
    checkpoint, net = folder.read(which, partial(inference_network, experiment))
    if evaluation is not None:
        _require_own(evaluation, folder, checkpoint)
    tensors = {name: tensor.contiguous() for name, tensor in net.state_dict().items()}
    weights = safetensors.torch.save(tensors, metadata={"format": "pt"})
    predictor = predictor_of_network(net, experiment, Preprocess.of(experiment), None, 1, False)
    answers = described_answers(predictor)
    config = _config(folder, experiment, checkpoint.step, weights, answers)
    preprocessor = _preprocessor(experiment)
    provenance, text = folder.provenance(), _text_of(study)
    folder.log.require(checkpoint.manifest().log)
    measured = folder.log.validation_at(checkpoint.step) if evaluation is None else evaluation
    card = model_card(config, preprocessor, provenance, measured, license_name, text)

    temporary = out.with_name(f".{out.name}.{uuid.uuid4().hex[:8]}.tmp")
    with removed_after_failure(temporary), write_errors_as_mtl_error(out):
        temporary.mkdir(parents=True)
        write_atomically(temporary / WEIGHTS, weights)
        write_atomically(temporary / CONFIG, _json(config))
        write_atomically(temporary / PREPROCESSOR, _json(preprocessor))
        write_atomically(temporary / CARD, card.encode())
        write_atomically(temporary / RESPONSIBLE_USE, responsible_use().encode())
        if onnx:
            _write_onnx(folder, temporary, which, overrides)
        temporary.rename(out)
        flush_folder(out.absolute().parent)


def load_package(
    path: str | os.PathLike[str],
    *,
    plugins: Sequence[str | os.PathLike[str]] = (),
    detector: Detector | str | None = None,
    batch_size: int = 32,
    mirror: bool = False,
    device: str | torch.device | None = None,
) -> Predictor:
    """Return the predictor of a package, without the data and the run that it came from.

    plugins: the one-file plugins that the model needs. Their SHA-256 must be those of training.
    The other arguments are those of `Run.predictor`.

    Raises MtlError if a file is missing, damaged or of another format, or if a component is not
    installed; the message then names the package that holds it.
    """
    folder = Path(path)
    config = _read_json(folder / CONFIG)
    if config.get("format") != FORMAT:
        raise MtlError(
            f"{folder / CONFIG} has the format {config.get('format')!r}: this version of mtlcore "
            f"reads the format {FORMAT} of `mtl package`"
        )
    experiment = _experiment(folder, config, plugins)
    net = empty_network(experiment)
    load_weights(net, _weights(folder, config), str(folder / WEIGHTS))
    target = torch_device(device)
    if isinstance(detector, str):
        detector = detector_of(detector, None, [Path(file) for file in plugins])
    preprocess = Preprocess.from_data(_read_json(folder / PREPROCESSOR))
    return predictor_of_network(
        net.to(target).eval(), experiment, preprocess, detector, batch_size, mirror
    )


def package_metadata(path: Path) -> JsonObject:
    """Return where a package comes from: versions, training data, checksum, step."""
    config = _read_json(path / CONFIG)
    return {key: config.get(key) for key in ("versions", "trained_on", "weights")}


def is_package(path: Path) -> bool:
    """Return whether a folder looks like a package."""
    return is_file(path / PREPROCESSOR)


# -------------------------------------------------------------------------------------- writing


def _require_own(evaluation: Evaluation, folder: RunFolder, checkpoint: Checkpoint) -> None:
    """Raise MtlError unless these are metrics of this checkpoint of the run."""
    found = Path(evaluation.run).resolve(), evaluation.checkpoint
    if found != (folder.path.resolve(), checkpoint.path.name):
        raise MtlError(
            f"the evaluation is of {evaluation.run}, {evaluation.checkpoint}, but the package is "
            f"of {folder.path}, {checkpoint.path.name}: evaluate this run and checkpoint"
        )


def _text_of(study: Path | None) -> str:
    if study is None:
        return ""
    try:
        return study.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise MtlError(f"{study} can't be read: {error}: expected a Markdown file") from error


def _write_onnx(folder: RunFolder, package: Path, which: Which, overrides: Overrides) -> None:
    try:
        export_run(folder, package / ONNX, "onnx", which=which, overrides=overrides)
    except MtlError:
        shutil.rmtree(package, ignore_errors=True)
        raise


def _config(
    folder: RunFolder, experiment: Experiment, step: int, weights: bytes, answers: JsonObject
) -> JsonObject:
    provenance = folder.provenance()
    recorded = provenance.get("components", {})
    components: dict[str, Component] = {"encoder": experiment.encoder}
    components |= {f"task.{label}": entry.component for label, entry in experiment.tasks.items()}
    origins = {
        path: recorded[path] | {"extra": component.needs_extra}
        for path, component in components.items()
        if path in recorded
    }
    files = {origin["file"] for origin in origins.values() if origin.get("file")}
    return {
        "library_name": "mtlcore",
        "format": FORMAT,
        "versions": {"mtlcore": version("mtlcore"), "torch": version("torch")},
        "experiment": _inference_tables(experiment),
        "answers": answers,
        "components": origins,
        "plugins": {name: _sha256_of(experiment, name) for name in sorted(files)},
        "weights": {
            "file": WEIGHTS,
            "sha256": hashlib.sha256(weights).hexdigest(),
            "step": step,
            "ema": experiment.train.ema > 0,
        },
        "trained_on": {
            "fingerprint": provenance.get("data_fingerprint"),
            "samples": provenance.get("samples", {}),
            "datasets": {
                label: {
                    "name": component_table(entry.component)["name"],
                    "labels": entry.labels,
                    "license": entry.license,
                }
                for label, entry in experiment.data.items()
            },
            "pretexts": {
                label: component_table(entry.component)["name"]
                for label, entry in experiment.pretexts.items()
            },
        },
    }


def _inference_tables(experiment: Experiment) -> JsonObject:
    """The tables that inference needs, with every field: encoder, tasks, sizes, precision."""
    tables = tables_of(evolve(experiment, pretexts={}, data={}, callbacks={}, plugins=()))
    encoder = tables["encoder"]
    if os.sep in str(encoder.get(PATH_FIELD, "")):
        encoder[PATH_FIELD] = Path(encoder[PATH_FIELD]).name  # no path of this machine
    return {
        "encoder": encoder,
        "task": tables["task"],
        "input": {key: tables["input"][key] for key in ("size", "cache_size")},
        "train": {"precision": experiment.train.precision, "steps": 1},
    }


def _preprocessor(experiment: Experiment) -> JsonObject:
    encoder = experiment.encoder
    preprocess = Preprocess.of(experiment).as_data()
    return {**preprocess, "image_mean": list(encoder.mean), "image_std": list(encoder.std)}


def _sha256_of(experiment: Experiment, name: str) -> str:
    """The SHA-256 of a one-file plugin of the run."""
    for listed in experiment.plugins:
        path, sha256 = split_entry(listed)
        if Path(path).name == name:
            return sha256
    raise MtlError(f"the run does not list the plugin file {name}")


def _json(value: JsonObject) -> bytes:
    return to_json(value, indent=2).encode() + b"\n"


# -------------------------------------------------------------------------------------- reading


def _read_json(file: Path) -> JsonObject:
    try:
        content = json.loads(read_file(file))
    except (OSError, ValueError, RecursionError) as error:
        raise MtlError(
            f"{file} can't be read: {error}: expected a folder that `mtl package` wrote"
        ) from error
    if not isinstance(content, dict):
        raise MtlError(f"{file} can't be read: expected a JSON object")
    return content


def _experiment(
    folder: Path, config: Mapping[str, Any], plugins: Sequence[str | os.PathLike[str]]
) -> Experiment:
    """The encoder, the tasks and the sizes of a package, as an experiment without data."""
    listed = _plugins(folder, config, plugins)
    try:
        return parse({**config["experiment"], "plugins": listed})
    except (KeyError, TypeError) as error:
        raise MtlError(f"{folder / CONFIG} is incomplete: {error!r}") from error
    except MtlError as error:
        origins = config.get("components", {}).values()
        hints = [line for origin in origins if (line := missing_component(origin))]
        lines = "\n  ".join([f"{folder / CONFIG}:", *str(error).splitlines(), *hints])
        raise MtlError(lines) from error


def _plugins(
    folder: Path, config: Mapping[str, Any], given: Sequence[str | os.PathLike[str]]
) -> list[str]:
    """The given plugin files, each with its required hash. Raises MtlError if one is missing."""
    required: dict[str, str] = config.get("plugins", {})
    files = [PluginFile.read(path) for path in given]
    hashes = {file.sha256 for file in files}
    for name, sha256 in required.items():
        if sha256 not in hashes:
            raise MtlError(
                f"{folder} needs the one-file plugin {name} with the SHA-256 {sha256}. A package "
                f"contains no code, so pass the file: --plugin {in_shell(name)} (in Python: "
                f"plugins=[{name!r}])"
            )
    return [f"{file.path}{MARK}{file.sha256}" for file in files]


def _weights(folder: Path, config: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The weights of a package. Raises MtlError if they differ from their checksum."""
    file = folder / WEIGHTS
    try:
        data = read_file(file, LARGEST)
        expected = config["weights"]["sha256"]
        if hashlib.sha256(data).hexdigest() != expected:
            raise MtlError(
                f"{file} is damaged: its SHA-256 is not the one in {CONFIG}: copy the package again"
            )
        return safetensors.torch.load(data)
    except (OSError, safetensors.SafetensorError) as error:
        raise MtlError(f"{file} can't be read: {error}") from error
    except (KeyError, TypeError) as error:
        raise MtlError(f"{folder / CONFIG} is incomplete: {error!r}") from error
