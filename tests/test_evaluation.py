"""Evaluation: on two ranks as on one process, in the run's precision, in batches of any size."""

from __future__ import annotations

import evaluation_worker
import pytest
import torch
from attrs import evolve, frozen
from evaluation_worker import BATCH, CPU, N, evaluated, opened, toy_run
from mtl_pretexts.rotation import Rotation
from torchmetrics import MeanMetric

from mtlcore.config.experiment import PretextEntry
from mtlcore.evaluation.measure import Measured, measure, measure_pretexts
from mtlcore.evaluation.precision import lacking
from mtlcore.evaluation.validation import EvaluationBatch, ValidationBatches

pytestmark = pytest.mark.timeout(1800)  # only ends processes that hang

SUPERVISED, PRETEXTS = 0, 1
COUNTS = ("kind/n[when=early]", "kind/n[when=late]")


@pytest.fixture(scope="session")
def two_ranks(on_two_ranks):
    return on_two_ranks(evaluation_worker.run)


@pytest.fixture(scope="module")
def one_process():
    return {"both": evaluated(toy_run()), "bf16": evaluated(toy_run("bf16-mixed"))}


# ---------------------------------------------------------------------------------- ranks


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["both", "bf16"])
@pytest.mark.parametrize("kind", [SUPERVISED, PRETEXTS])
def test_two_ranks_evaluate_as_one_process_does(two_ranks, one_process, kind, precision):
    """With an uneven number of batches, and ranks without labels or members of a group."""
    metrics, tables, n = two_ranks[precision][kind]
    expected = one_process[precision][kind]
    assert n == expected.n == N
    assert list(metrics) == list(expected.metrics)
    assert metrics == pytest.approx(expected.metrics, abs=1e-6)
    assert tables == expected.tables


@pytest.mark.slow
def test_the_ranks_see_every_sample_once(two_ranks):
    metrics, tables, _ = two_ranks["both"][SUPERVISED]
    labeled = sum(metrics[name] for name in COUNTS)
    assert metrics["kind/n[when=early]"] > 0
    assert sum(map(sum, tables["kind/confusion"])) == labeled


@pytest.mark.slow
def test_one_rank_can_evaluate_alone(two_ranks):
    """As in a callback, inside of `single_rank`."""
    assert two_ranks["alone"] == two_ranks["both"]


# ---------------------------------------------------------------------------------- batches


def test_a_batch_holds_images_and_labels_and_no_counts_of_a_step():
    run, data, _ = opened(toy_run())
    indices = data.split["train"]
    batch = ValidationBatches(run, data, indices, CPU).batch(1)
    assert type(batch) is EvaluationBatch
    assert batch._fields == ("images", "targets", "present")
    samples = indices[BATCH : 2 * BATCH]
    assert torch.equal(batch.images, data.images.take(samples).images)
    for label in run.tasks:
        assert torch.equal(batch.targets[label], data.targets[label][samples])
        assert torch.equal(batch.present[label], data.present[label][samples])


# ---------------------------------------------------------------------------------- precision


def test_an_evaluation_in_bf16_equals_forwards_under_autocast(one_process):
    """The errors of a regression, computed from the network's outputs under `torch.autocast`."""
    run, data, model = opened(toy_run("bf16-mixed"))
    model.eval()
    indices = data.split["train"]
    errors = []
    for start in range(0, N, BATCH):
        images = data.images.take(indices[start : start + BATCH]).images.float() / 255
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            output = model.inference()(images)["height"]
        assert output.dtype == torch.bfloat16
        batch = torch.from_numpy(indices[start : start + BATCH])
        present = data.present["height"][batch]
        prediction = run.tasks["height"].component.decode(output.float())
        errors.append((prediction - data.targets["height"][batch]).abs()[present])
    found = one_process["bf16"][SUPERVISED].metrics["height/mae"]
    assert found == pytest.approx(float(torch.cat(errors).mean()), abs=1e-6)
    assert found != pytest.approx(one_process["both"][SUPERVISED].metrics["height/mae"], abs=1e-6)


def test_pretexts_are_evaluated_in_the_precision_of_the_run_too(one_process):
    fp32, bf16 = (one_process[name][PRETEXTS].metrics for name in ("both", "bf16"))
    assert fp32.keys() == bf16.keys()
    assert fp32["inpainting/loss"] != bf16["inpainting/loss"]
    assert fp32["inpainting/loss"] == pytest.approx(bf16["inpainting/loss"], rel=0.05)


def test_a_cpu_lacks_half_precision_and_no_other():
    assert "CUDA" in lacking("16-mixed", CPU)
    assert lacking("bf16-mixed", CPU) == lacking("32", CPU) == ""


# ---------------------------------------------------------------------------------- batch size


@pytest.mark.parametrize("size", [1, 5, N, 256])
def test_the_batch_size_of_evaluation_changes_no_supervised_metric(one_process, size):
    run, data, model = opened(toy_run(eval_batch_size=size))
    found = measure(model.inference(), run, data, data.split["train"], CPU)
    expected = one_process["both"][SUPERVISED]
    assert found.metrics == pytest.approx(expected.metrics, abs=1e-5)
    assert found.tables == expected.tables


def test_evaluation_leaves_the_network_as_it_was():
    run, data, model = opened(toy_run())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    generator = torch.random.get_rng_state()
    measure(model.inference(), run, data, data.split["train"], CPU)
    measure_pretexts(model, run, data, data.split["train"], CPU)
    assert model.training
    assert torch.equal(generator, torch.random.get_rng_state())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_metrics_of_pretexts_get_contiguous_outputs_and_targets():
    seen = []

    @frozen
    class Sideways(Rotation):
        """Its logits and its targets are not contiguous."""

        def views(self, batch, rng):
            views, turns = super().views(batch, rng)
            return views, torch.stack([turns, turns], 1)[:, 0]

        def build(self, context):
            head = super().build(context)
            forward = head.forward
            head.forward = lambda features: forward(features).T.contiguous().T
            return head

        def metrics(self):
            return {"views": Viewed()}

    class Viewed(MeanMetric):
        higher_is_better = True

        def update(self, output, target):
            seen.append((output.view(-1), target.view(-1)))
            super().update((output.argmax(1) == target).float())

    run = evolve(toy_run(), pretexts={"sideways": PretextEntry(Sideways())})
    run, data, model = opened(run)
    measure_pretexts(model, run, data, data.split["train"], CPU)
    assert seen


def test_a_run_without_tasks_or_pretexts_has_no_such_metrics():
    run, data, model = opened(toy_run())
    indices = data.split["train"]
    found = measure(model.inference(), evolve(run, tasks={}), data, indices, CPU)
    of_pretexts = measure_pretexts(model, evolve(run, pretexts={}), data, indices, CPU)
    assert found == of_pretexts == Measured(n=N)
