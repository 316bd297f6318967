"""What a function reads in the outputs of a detector decides what goes, what is refitted and what is learnt."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import channelcut as cc
from channelcut.cli import main
from channelcut.core.detections import BOXES, DetectionsError, weighing
from channelcut.core.errors import UserError
from channelcut.ranking import ranking_notes
from channelcut.recovery.distil.detecting import DetectionsLoss

IMAGES = torch.rand(24, 3, 8, 8, generator=torch.Generator().manual_seed(0))
SMALL = ["--keep", "0.5", "--align", "1", "--no-engine", "--no-bench", "--quiet"]
FILE = """
import torch
from torch import nn

def factory():
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 7, 1))
    return body, torch.rand(1, 3, 8, 8)

def batches():
    return [torch.rand(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))]
"""
READS = """
def detections(outputs):
    flat = outputs.flatten(2).transpose(1, 2)
    boxes = torch.cat((flat[..., 3:5], flat[..., 3:5] + flat[..., 5:].exp()), -1)
    return {"scores": flat[..., :1].sigmoid() * flat[..., 1:3].sigmoid(), "boxes": boxes}
"""


class Loud(nn.Module):
    """Its first half of channels makes large class logits where there is no object, its second half the objects."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 7, 1, bias=False)
        with torch.no_grad():
            self.body.weight.copy_(torch.rand(8, 3, 1, 1, generator=torch.Generator().manual_seed(1)))
            self.head.weight.zero_()
            self.head.weight[1:3, :4] = 20.0
            self.head.weight[0, 4:] = 0.3
            self.head.weight[3:, 4:] = 0.1

    def forward(self, x: Tensor) -> Tensor:
        """(N, 7, H, W): objectness, two classes, a corner and the logarithms of two sides."""
        out: Tensor = self.head(torch.relu(self.body(x)))
        return out


def read(outputs: Tensor) -> dict[str, Tensor]:
    flat = outputs.flatten(2).transpose(1, 2)
    boxes = torch.cat((flat[..., 3:5], flat[..., 3:5] + flat[..., 5:].exp() * 8), -1)
    return {"scores": flat[..., :1].sigmoid() * flat[..., 1:3].sigmoid(), "boxes": boxes}


def net() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        body = [nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 7, 1)]
        return nn.Sequential(*body).eval()


@pytest.mark.parametrize("importance", [None, "taylor", "fisher", "group-fisher", "reconstruction"])
def test_what_no_detection_is_lost_by_goes_first(importance: str | None) -> None:
    """Large numbers that are read nowhere outweigh everything until a function says what is read."""
    model = Loud().eval()
    groups = cc.analyze(model, IMAGES[:1])
    asked: dict[str, Any] = {"keep": 0.5, "importance": importance, "calibration": IMAGES}
    plain, weighed = cc.plan(model, groups, **asked), cc.plan(model, groups, detections=read, **asked)
    assert plain.kept["body.weight"][0] == (0, 1, 2, 3)
    assert weighed.kept["body.weight"][0] == (4, 5, 6, 7)
    assert importance or (plain.options["importance"], weighed.options["importance"]) == ("fisher", "fisher")
    assert "weighed_by" not in plain.options and weighed.options["weighed_by"] == "detections"


def test_scores_and_shares_of_confident_boxes_count() -> None:
    scores = torch.tensor([[[0.5, 0.1], [0.0, 0.2]]])
    boxes = torch.tensor([[[0.0, 0.0, 10.0, 20.0], [5.0, 5.0, 5.5, 7.0]]])
    first, second = weighing(lambda _: {"scores": scores, "boxes": boxes}).leaves(None)
    assert torch.equal(first, scores)
    shares = torch.tensor([[[0.0, 0.0, 1.0, 1.0], [5.0, 2.5, 5.5, 3.5]]])  # a box is a pixel at least
    assert torch.allclose(second, BOXES * torch.tensor([[[0.5], [0.2]]]) * shares)


def test_the_loss_is_of_what_is_found() -> None:
    loss = DetectionsLoss(lambda found: found)
    boxes = torch.tensor([[[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 10.0]]])
    his = {"scores": torch.tensor([[[0.8], [0.0]]]), "boxes": boxes}
    assert float(loss(his, his)) == pytest.approx(0, abs=1e-6)
    moved = {**his, "boxes": boxes + torch.tensor([[[0.0], [5.0]]])}
    assert float(loss(his, moved)) == pytest.approx(0, abs=1e-6), "a box without confidence is nobody's"
    moved = {**his, "boxes": boxes + torch.tensor([[[5.0], [0.0]]])}
    assert float(loss(his, moved)) == pytest.approx(BOXES * (0.5 - 0.05), rel=1e-4)
    lost = {**his, "scores": torch.tensor([[[0.4], [0.0]]])}
    divergence = 0.8 * torch.tensor(2.0).log() + 0.2 * torch.tensor(0.2 / 0.6).log()
    assert float(loss(his, lost)) == pytest.approx(float(divergence) / 0.8, rel=1e-4)


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (lambda out: out, r"returns a Tensor \(no mapping\). Expected \{\"scores\""),
        (lambda out: {"scores": out}, r"returns a dict \(scores: shape \(\d+, 7, 8, 8\)\). Expected"),
        (lambda out: read(out) | {"boxes": read(out)["boxes"][..., :2]}, r"boxes of shape \(\d+, 64, 2\). Expected"),
        (lambda out: read(out) | {"scores": read(out)["scores"] * 3 - 2}, "scores from .*sigmoid or softmax"),
        (lambda out: read(out) | {"scores": read(out)["scores"] * torch.nan}, "scores from nan to nan"),
        (lambda out: read(out) | {"boxes": read(out)["boxes"] * torch.nan}, "boxes that are not finite"),
        (lambda out: {name: part[:, :0] for name, part in read(out).items()}, r"scores of shape \(\d+, 0, \d+\)"),
        (lambda out: read(out.detach()), "No gradient leads through detections"),
        (lambda out: out["boxes"], "fails with .*It is called with what the forward returns"),
        (3, r"detections is an int. Expected a function that is called as detections\(outputs\)"),
    ],
)
def test_what_no_detections_are_is_said(function: Any, text: str) -> None:
    model = Loud().eval()
    with pytest.raises(UserError, match=text):
        cc.prune(model, IMAGES[:1], keep=0.5, calibration=IMAGES, detections=function)
    if callable(function):
        result = cc.prune(model, IMAGES[:1], keep=0.5)
        with pytest.raises(DetectionsError, match=text):
            cc.compensate(model, result, IMAGES, detections=function)


@pytest.mark.parametrize("function", [lambda out: out, lambda out: read(out) | {"scores": read(out)["scores"] * 3 - 2}])
def test_a_recovery_refuses_them_too(function: Callable[[Any], Mapping[str, Tensor]]) -> None:
    model = net()
    with pytest.raises(DetectionsError):
        cc.recover(model, cc.prune(model, IMAGES[:1], keep=0.5), IMAGES, epochs=1, detections=function)


def test_compensation_weighs_by_detections() -> None:
    model = net()
    result = cc.prune(model, IMAGES[:1], keep=0.5)
    plain, weighed = (cc.compensate(model, result, IMAGES, detections=each).model for each in (None, read))
    assert not torch.allclose(plain[3].weight, weighed[3].weight)
    by_prune = cc.prune(model, IMAGES[:1], keep=0.5, importance="l2", calibration=IMAGES, detections=read)
    assert torch.allclose(by_prune.model[3].weight, weighed[3].weight, atol=1e-5)


def test_a_recovery_learns_what_is_found(tmp_path: Path) -> None:
    """Its loss is of detections, and a checkpoint of another loss is refused."""
    model = net()
    result = cc.prune(model, IMAGES[:1], keep=0.5)
    options = cc.RecoverOptions(features=0.0, augment=(), learning_rate=1e-2)
    found = cc.recover(model, result, IMAGES, epochs=8, options=options, detections=read, out=tmp_path)
    assert found.recovery is not None and found.recovery.after < 0.7 * found.recovery.before
    loss = DetectionsLoss(read)
    with torch.no_grad():
        wanted, before, after = (network(IMAGES) for network in (model, result.model, found.model))
        assert float(loss(wanted, after)) < 0.7 * float(loss(wanted, before))
    with pytest.raises(UserError, match="the detections"):
        cc.recover(model, result, IMAGES, epochs=8, options=options, out=tmp_path)


def test_rounds_and_sparse_trainings_learn_by_them() -> None:
    seen = []

    def noted(outputs: Tensor) -> dict[str, Tensor]:
        seen.append(len(outputs))
        return read(outputs)

    options = cc.RecoverOptions(learning_rate=1e-3)
    cc.prune_in_rounds(net(), IMAGES[:1], IMAGES, rounds=1, epochs=1, keep=0.5, options=options, detections=noted)
    assert seen
    seen.clear()
    cc.sparsify(net(), IMAGES[:1], IMAGES, epochs=1, keep=0.5, options=options, detections=noted)
    assert seen


def test_a_file_says_what_its_network_detects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranked and taught by it, in compress and from the folder; without it the report says what is missing."""
    monkeypatch.setattr("channelcut.compress.export_both", lambda *_: {})
    (tmp_path / "det.py").write_text(FILE)
    name = f"{tmp_path / 'det.py'}:factory"
    assert main(["compress", name, *SMALL, "--out", str(tmp_path / "plain")]) == 0
    plain = json.loads((tmp_path / "plain" / "report.json").read_text())
    assert any("detections(outputs) beside the factory" in note for note in plain["notes"])
    (tmp_path / "det.py").write_text(FILE + READS)
    learnt, loss = [], DetectionsLoss.__call__
    monkeypatch.setattr(DetectionsLoss, "__call__", lambda *given: learnt.append(given) or loss(*given))
    assert main(["compress", name, *SMALL, "--recover", "1", "--out", str(tmp_path / "out")]) == 0
    assert learnt
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["options"]["weighed_by"] == "detections"
    assert not any("detections(outputs)" in note for note in report["notes"])
    (tmp_path / "det.py").write_text(FILE + READS.replace(".sigmoid() *", "[..., :1] *"))
    assert main(["recover", str(tmp_path / "out"), "--epochs", "1", "--out", str(tmp_path / "again")]) == 2


def test_an_error_in_the_file_names_its_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "det.py").write_text(FILE + "\ndef detections(outputs):\n    return outputs['boxes']\n")
    assert main(["compress", f"{tmp_path / 'det.py'}:factory", *SMALL, "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert f"detections() of {tmp_path / 'det.py'}, line 14, fails with" in said and "Traceback" not in said
    assert not (tmp_path / "out").exists()


def test_classifiers_are_not_told_of_detections() -> None:
    pooled = nn.Sequential(*net().children(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    for model, notes in ((pooled, 0), (net(), 1)):
        groups = cc.analyze(model, IMAGES[:1])
        plan = cc.plan(model, groups, keep=0.5, calibration=IMAGES)
        assert len(ranking_notes(plan, groups.graph)) == notes
        said = replace(plan, options={**plan.options, "weighed_by": "detections"})
        assert not ranking_notes(said, groups.graph)


def test_a_function_that_decodes_in_place_reads_what_another_one_does() -> None:
    def in_place(outputs: Tensor) -> Mapping[str, Tensor]:
        found = read(outputs)
        outputs.mul_(0.0)
        return {name: part.clone() for name, part in found.items()}

    def before(outputs: Tensor) -> Mapping[str, Tensor]:
        return {name: part.clone() for name, part in read(outputs).items()}

    model = Loud().eval()
    asked = {"keep": 0.5, "calibration": IMAGES, "importance": "l2"}
    one, other = (cc.prune(model, IMAGES[:1], **asked, detections=each) for each in (before, in_place))
    assert one.compensation is not None and other.compensation is not None
    assert one.compensation.layers == other.compensation.layers
