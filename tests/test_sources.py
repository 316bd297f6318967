"""Models by name: nearly right names, which weights they have, the inputs that they are run on."""

from __future__ import annotations

import contextlib
import io
import json
import sys
import types
from pathlib import Path
from typing import Any

import networks
import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import channelcut as cc
from channelcut.cli import main
from channelcut.core.inputs import positional_inputs
from channelcut.core.specs import InputSpec, read_specs, write_specs
from channelcut.sources import Source, example_inputs, hints, libraries, open_source, specs_of
from channelcut.sources.libraries import LIBRARIES
from channelcut.sources.provenance import provenance

HERE = Path(__file__).parent
MODEL = f"{HERE / 'networks.py'}:residual"

FILE = """
import torch
from torch import nn

class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(1, 16, 3, padding=1), nn.Conv2d(16, 4, 1)

    def forward(self, image, mask):
        return self.c(torch.relu(self.a(image.float() / 255) + self.b(mask.float())))

class NeedsWidth(nn.Module):
    def __init__(self, width):
        super().__init__()

def one():
    print("a model is built")
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 4, 1))

def named():
    return Two(), {"mask": torch.ones(1, 1, 16, 16), "image": torch.full((1, 3, 16, 16), 7, dtype=torch.uint8)}

def placed():
    return [Two(), (torch.rand(1, 3, 16, 16), torch.ones(1, 1, 16, 16))]

def half():
    return one().half(), torch.rand(1, 3, 16, 16).half()

def _private():
    return one()

def needs(width):
    return one()

def wrong_inputs():
    return one(), "images"

def three():
    return one(), torch.rand(1), torch.rand(1)
"""


@pytest.fixture
def nets(tmp_path: Path) -> Path:
    path = tmp_path / "nets.py"
    path.write_text(FILE)
    return path


def fails(capsys: pytest.CaptureFixture[str], *argv: str | Path) -> str:
    assert main([str(a) for a in argv]) == 2
    said = capsys.readouterr()
    assert said.out == "" and "Traceback" not in said.err
    return said.err.strip().splitlines()[-1]


# -- names --


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("rtdetr-l", "Did you mean ultralytics:rtdetr-l.yaml, or the checkpoint ultralytics:rtdetr-l.pt?"),
        ("resnet50", "Did you mean torchvision:resnet50 or timm:resnet50?"),
        ("resnt50", "Did you mean torchvision:resnet50 or timm:resnet50?"),
        ("torchvison:resnet50", "Did you mean torchvision:resnet50?"),
        ("TIMM:resnet50", "Did you mean timm:resnet50?"),
        ("model.engine", "A .engine file cannot be cut: give the network that it was made from."),
        ("best.pth", "best.pth holds weights, and no network. Name what builds it, and give --weights best.pth"),
        ("nobody.nowhere:build", "No module named 'nobody'. Expected one of"),
    ],
)
def test_names_that_are_nearly_right(
    name: str, text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(hints, "names_of", lambda _: ["resnet50", "resnet18", "vgg16"])
    said = fails(capsys, "analyze", name)
    assert "names no model" in said and text in said and "Expected one of: ultralytics:NAME" in said


def test_a_file_without_a_function_names_those_in_it(nets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = fails(capsys, "analyze", nets)
    assert f"Name the function in it that returns the model: {nets}:one, {nets}:named, {nets}:placed." in text
    assert hints.factories_in(nets) == ["one", "named", "placed", "half", "wrong_inputs", "three", "Two"]
    assert "Did you mean named?" in fails(capsys, "analyze", f"{nets}:nmed")
    assert f"Did you mean {nets}?" in fails(capsys, "analyze", f"{nets.with_name('net.py')}:one")
    (nets.parent / "out").mkdir()
    plan = nets.parent / "out" / "plan.json"
    plan.write_text("{}")
    assert f"A result is named by its folder: {plan.parent}." in fails(capsys, "analyze", plan)


@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_a_library_names_its_nearest_models(library: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        __import__(library)
    except (ImportError, RuntimeError) as error:  # torchvision beside a torch of another build
        pytest.skip(f"{library} cannot be imported: {error}")
    assert f"Did you mean {library}:resnet50" in fails(capsys, "analyze", f"{library}:resnt50")


# -- weights --


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """torchvision, replaced by a library that notes which weights it was asked for; no ONNX files, which take long."""
    monkeypatch.setattr("channelcut.compress.export_both", lambda *_: {})
    asked: list[str] = []

    def make(name: str, weights: str, trust: bool) -> nn.Module:
        del name, trust
        asked.append(weights)
        return networks.residual()

    monkeypatch.setitem(LIBRARIES, "torchvision", (InputSpec((2, 3, 16, 16)), make))
    return asked


SMALL = ["--keep", "0.5", "--align", "1", "--no-engine", "--no-bench", "--quiet"]


def compressed(folder: Path, *flags: str) -> dict[str, Any]:
    assert main(["compress", *flags, *SMALL, "--out", str(folder)]) == 0
    found: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return found


def test_the_report_says_which_weights_a_cut_ranked(library: list[str], tmp_path: Path) -> None:
    torch.save(networks.residual().state_dict(), tmp_path / "tuned.pt")
    rows = {
        "plain": ([], "random", "", True),
        "trusted": (["--trust"], "random", "", True),  # it allows pickles, and chooses nothing
        "chosen": (["--weights", "random"], "random", "random", True),
        "trained": (["--weights", "pretrained"], "pretrained", "pretrained", False),
        "file": (["--weights", str(tmp_path / "tuned.pt")], "tuned.pt", "", False),
    }
    for name, (flags, said, asked, warned) in rows.items():
        report = compressed(tmp_path / name, "torchvision:resnet18", *flags)
        assert report["weights"] == said and library[-1] == asked
        assert any("The weights are random" in note for note in report["notes"]) == warned
        assert json.loads((tmp_path / name / "plan.json").read_text())["options"]["weights"] == said
    assert compressed(tmp_path / "own", MODEL, "--input", "2x3x16x16")["weights"] == "as residual() makes them"
    again = open_source(str(tmp_path / "trained"))
    assert again.weights == "pretrained, as cut in trained"
    again.build()
    assert library[-1] == "", "nothing is downloaded to open a result"
    assert open_source(str(tmp_path / "plain")).weights.startswith("random")
    assert provenance(open_source("torchvision:resnet18"))["source"].endswith(", weights random")


def test_an_architecture_that_pretrained_weights_change_is_opened(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """torchvision's detectors have frozen norms around pretrained weights, and others without."""
    monkeypatch.setattr("channelcut.compress.export_both", lambda *_: {})
    make = lambda name, weights, trust: networks.build("Residual" if weights else "Chain").eval()  # noqa: E731
    monkeypatch.setitem(LIBRARIES, "torchvision", (InputSpec((2, 3, 16, 16)), make))
    compressed(tmp_path / "out", "torchvision:some", "--weights", "pretrained")
    model, x = open_source(str(tmp_path / "out")).open()
    assert model(x).shape[0] == 2


@pytest.mark.parametrize(
    ("name", "choice", "text"),
    [
        (MODEL, "random", "residual() decides about the weights of"),
        (MODEL, "pretrained", "so --weights pretrained means nothing here. Expected a state dict"),
        (MODEL, "pretraind", "There is no weights file pretraind. Expected --weights pretrained, --weights random"),
        ("some.onnx", "random", "some.onnx holds its own weights, so --weights random means nothing here"),
        ("ultralytics:yolo26n.pt", "random", "The architecture with random weights is ultralytics:yolo26n.yaml"),
        ("ultralytics:yolo26n.yaml", "pretrained", "The pretrained checkpoint is ultralytics:yolo26n.pt"),
    ],
)
def test_weights_that_a_model_cannot_have(
    name: str, choice: str, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if name.startswith("ultralytics"):
        pytest.importorskip("ultralytics")
    assert text in fails(capsys, "analyze", name, "--input", "2x3x16x16", "--weights", choice)


def test_weights_that_cannot_be_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(name: str, pretrained: bool) -> nn.Module:
        del name
        if pretrained:
            raise ConnectionError("no route to host")
        return networks.residual()

    monkeypatch.setitem(sys.modules, "timm", types.SimpleNamespace(create_model=offline))
    assert isinstance(libraries.timm("resnet18", "random", False), nn.Module)
    with pytest.raises(cc.UserError, match=r"timm:resnet18 cannot be had \(ConnectionError: no route.*--weights FILE"):
        libraries.timm("resnet18", "pretrained", False)


def test_what_can_go_counts_the_floors_of_a_cut(capsys: pytest.CaptureFixture[str]) -> None:
    left = {}
    for flags in ((), ("--align", "1"), ("--align", "1", "--min-keep", "0.5"), ("--align", "1", "--min-channels", "9")):
        assert main(["analyze", MODEL, "--input", "2x3x16x16", "--json", *flags]) == 0
        data = json.loads(capsys.readouterr().out)
        left[flags] = [group["least"] for group in data["groups"]], data["totals"]["least_params"]
    assert [widths for widths, _ in left.values()] == [[8, 8], [2, 3], [8, 12], [9, 9]]
    for (flags, (_, params)), keep in zip(left.items(), ("8", "1", "1", "1"), strict=True):
        floors = {"align": int(keep), "min_keep": 0.1} | ({"min_keep": 0.5} if "--min-keep" in flags else {})
        channels = 9 if "--min-channels" in flags else 1
        least = cc.BudgetError
        with pytest.raises(least) as error:
            cc.prune(networks.residual(), networks.example(), params=0.01, min_channels=channels, **floors)
        assert f"{params:.4f} of the original's params remain" in str(error.value)


def test_a_budget_that_is_met_already_is_said(library: list[str], tmp_path: Path) -> None:
    for budget in ({"macs": 1e12}, {"params": 5e9}):
        with pytest.warns(UserWarning, match=r"is met already: the network has .* so nothing was removed") as seen:
            result = cc.prune(networks.residual(), networks.example(), **budget)  # type: ignore[arg-type]
        assert result.plan.params_ratio == 1 and seen[0].filename == __file__
        groups = cc.analyze(networks.residual(), networks.example())
        with pytest.warns(UserWarning, match="is met already") as seen:
            cc.plan(networks.residual(), groups, **budget)  # type: ignore[arg-type]
        assert seen[0].filename == __file__
    flags = [MODEL, "--input", "2x3x16x16", "--macs", "1T", *SMALL[2:]]
    assert main(["compress", *flags, "--out", str(tmp_path / "out")]) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert any("The budget macs=1e+12 is met already" in note for note in report["notes"])


# -- inputs --


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("1x3x320x320", InputSpec((1, 3, 320, 320))),
        ("1X3X32X32:UINT8", InputSpec((1, 3, 32, 32), "uint8")),
        ("mask=1x1x8x8:bool", InputSpec((1, 1, 8, 8), "bool", "mask")),
        ("a.b=4:half", InputSpec((4,), "float16", "a.b")),
        ("ids=2x77:long", InputSpec((2, 77), "int64", "ids")),
    ],
)
def test_inputs_as_text(text: str, spec: InputSpec) -> None:
    assert InputSpec.parse(text) == spec and InputSpec.parse(str(spec)) == spec
    assert read_specs(write_specs([spec, spec])) == (spec, spec)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("1x3xa", "is no shape. Expected extents joined by x"),
        ("", "is no shape"),
        ("=1x3", "is no shape"),
        ("1x0x3", "is no shape"),
        ("1x3:uint7", "there is no type 'uint7'. Expected one of float32,"),
    ],
)
def test_inputs_that_make_no_sense(text: str, why: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert why in fails(capsys, "analyze", MODEL, "--input", text)


class Three(nn.Module):
    def forward(self, image: Tensor, mask: Tensor, *, scale: Tensor | None = None) -> Tensor:
        return image * mask if scale is None else image * mask * scale


def test_examples_of_every_kind() -> None:
    one = example_inputs([InputSpec((2, 3, 4, 4))])
    assert one.shape == (2, 3, 4, 4) and torch.equal(one, example_inputs([InputSpec((2, 3, 4, 4))]))
    kinds = ("float16", "uint8", "int64", "bool")
    several = example_inputs([InputSpec((64,), kind) for kind in kinds])
    assert [str(t.dtype) for t in several] == [f"torch.{kind}" for kind in kinds]
    assert several[1].max() > 200 and not several[2].any() and several[3].any() and not several[3].all()
    named = example_inputs([InputSpec((1, 3, 2, 2)), InputSpec((1, 1, 2, 2), name="mask")], Three())
    assert list(named) == ["image", "mask"] and specs_of(named) == (
        InputSpec((1, 3, 2, 2), name="image"),
        InputSpec((1, 1, 2, 2), name="mask"),
    )
    assert specs_of(([one], one)) is None
    with pytest.raises(cc.UserError, match="do not name each one once"):
        example_inputs([InputSpec((1,), name="mask"), InputSpec((1,))], Three())
    image, mask = named["image"], named["mask"]
    assert [id(t) for t in positional_inputs(Three(), {"mask": mask, "image": image})] == [id(image), id(mask)]
    for bad in ({"image": image, "size": mask}, {"image": image, "mask": mask, "scale": mask}):
        with pytest.raises(cc.UserError, match=r"do not fit the forward of Three|by name, or after inputs"):
            positional_inputs(Three(), bad)


def run(path: Path, *inputs: Tensor) -> np.ndarray[Any, Any]:
    session = onnxruntime.InferenceSession(path)
    feed = {spec.name: x.numpy() for spec, x in zip(session.get_inputs(), inputs, strict=True)}
    found: np.ndarray[Any, Any] = session.run(None, feed)[0]
    return found


@pytest.mark.parametrize(
    ("factory", "flags"),
    [
        ("named", []),
        ("placed", []),
        ("Two", ["--input", "image=1x3x24x24:uint8", "--input", "mask=1x1x24x24"]),
        ("Two", ["--input", "mask=1x1x8x8:bool", "--input", "image=1x3x8x8"]),
        ("named", ["--input", "image=2x3x8x8", "--input", "mask=2x1x8x8"]),  # other inputs than the factory's
    ],
)
def test_several_inputs_go_all_the_way(nets: Path, factory: str, flags: list[str]) -> None:
    out = nets.parent / "out"
    report = compressed(out, f"{nets}:{factory}", *flags)
    assert report["cost"]["after"]["params"] < report["cost"]["before"]["params"]
    model, x = open_source(str(out)).open()
    args = positional_inputs(model, x)
    if flags:
        assert report["input"] == [text for text in flags if text != "--input"]
    with torch.no_grad():
        assert np.allclose(run(out / "model.onnx", *args), model(*args).numpy(), rtol=1e-4, atol=1e-5)
    assert main(["verify", str(out), "--images", "2", "--quiet"]) == 0
    assert json.loads((out / "parity.json").read_text())["first_broken"] is None
    assert main(["export", str(out), "--out", str(nets.parent / "again.onnx"), "--quiet"]) == 0
    assert np.allclose(run(nets.parent / "again.onnx", *args), run(out / "model.onnx", *args), atol=1e-5)


def test_half_precision_goes_all_the_way(nets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = nets.parent / "out"
    assert compressed(out, f"{nets}:half")["input"] == ["1x3x16x16:float16"]
    assert main(["verify", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["first_broken"] is None


@pytest.mark.parametrize(
    ("factory", "text"),
    [
        ("one", "The input shape of"),
        ("wrong_inputs", "The example input x is a str. Expected a tensor"),
        (
            "three",
            "three() returns a tuple of Sequential, Tensor, Tensor. Expected a torch.nn.Module, or (model, inputs)",
        ),
        ("needs", "needs() fails with TypeError"),
    ],
)
def test_factories_that_cannot_be_run(nets: Path, factory: str, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert text in fails(capsys, "analyze", f"{nets}:{factory}")


def test_what_a_factory_prints_stays_out_of_json(nets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["analyze", f"{nets}:half", "--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["weights"] == "as half() makes them" and "a model is built" in said.err


def test_the_library_leaves_the_streams_of_the_process_alone(nets: Path) -> None:
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        before = sys.stdout
        source = open_source(f"{nets}:one")
        same: list[bool] = []
        make = lambda: (source.make(), same.append(sys.stdout is before))[0]  # noqa: E731
        Source(source.name, make, (InputSpec((1, 3, 8, 8)),)).open()
    assert same == [True]
    assert "a model is built" in shown.getvalue()
