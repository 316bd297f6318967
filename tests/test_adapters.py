"""The seam to libraries: what of a network is deployed, how images become inputs, what stands beside a factory."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import channelcut as cc
from channelcut.adapters import deployed_form, preprocessing_of
from channelcut.adapters.user_file import UserFile
from channelcut.cli import main
from channelcut.core.deployed import DEFAULT, Deploy
from channelcut.core.errors import UserError
from channelcut.core.progress import Stopwatch
from channelcut.options import CompressOptions, PruneOptions
from channelcut.recovery.images import Preprocessing, load_images
from channelcut.samples import real_inputs, with_samples
from channelcut.sources import open_source

SMALL = ["--keep", "0.5", "--align", "1", "--no-engine", "--no-bench", "--quiet"]

DETECTOR = """
import torch
from torch import Tensor, nn

calls = []

def factory():
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 16, 3, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 4, 1))
    return body, torch.rand(1, 3, 12, 12)
"""
EVALUATE = """
def evaluate(model):
    calls.append(model)
    print("evaluating")
    with torch.no_grad():
        width = float(model[0].weight.shape[0])
        mean = model[1].running_mean.abs().max()
        model.train()
        return {"width": width, "moved": mean, "top_1": torch.tensor(0.25)}
"""
LOSS = """
def loss(model, batch):
    x, target = batch
    return (model(x) - target).square().mean()
"""
BATCHES = """
def batches():
    generator = torch.Generator().manual_seed(0)
    while True:
        yield torch.rand(8, 3, 12, 12, generator=generator), torch.zeros(8, 4, 10, 10)
"""


def torchvision_models() -> Any:
    """torchvision's models; the one on PyPI stands on another build of torch than a CPU one, and does not import."""
    unfit = (ImportError, RuntimeError)
    return pytest.importorskip("torchvision", reason="torchvision is absent or unfit", exc_type=unfit).models


@pytest.fixture(autouse=True)
def nothing_is_exported(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes the time of a run is tested elsewhere."""
    monkeypatch.setattr("channelcut.compress.export_both", lambda *_: {})


def written(folder: Path, *parts: str) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "det.py").write_text("".join((DETECTOR, *parts)))
    return f"{folder / 'det.py'}:factory"


def owner_of(name: str) -> UserFile:
    source = open_source(name)
    found, said = source.adapter(source.build())
    assert isinstance(found, UserFile) and not said
    return found


def report_of(folder: Path, *flags: str) -> dict[str, Any]:
    assert main(["compress", *flags, *SMALL, "--out", str(folder)]) == 0
    found: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return found


# A user's own file


def test_a_file_evaluates_and_calibrates_its_own_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = report_of(tmp_path / "out", written(tmp_path, EVALUATE, LOSS, BATCHES), "--restore", "recalibrate")
    said = report["accuracy"]
    assert said["by"] == "evaluate() of det.py"
    rows = {(row["network"], row["what"]): row["metrics"] for row in said["rows"]}
    assert [row["width"] for row in rows.values()] == [16, 8, 8]
    assert [row["moved"] > 0 for row in rows.values()] == [False, False, True], "only restoring moves statistics"
    assert list(rows) == [("original", "module"), ("pruned", "module, as cut"), ("pruned", "module, restored")]
    assert report["recalibration"]["images"] == 256
    assert not any("Nothing was restored" in note for note in report["notes"])
    page = (tmp_path / "out" / "report.html").read_text()
    assert "evaluate() of det.py" in page and "top_1" in page and "0.250" in page
    capsys.readouterr()
    assert main(["report", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr().out
    assert "evaluate() of det.py" in shown and "top_1" in shown


def test_json_is_not_disturbed_by_what_a_file_prints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = written(tmp_path, EVALUATE.replace('{"width": width, "moved": mean, "top_1": torch.tensor(0.25)}', "0.5"))
    assert main(["compress", name, *SMALL, "--json", "--out", str(tmp_path / "out")]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [row["metrics"] for row in report["accuracy"]["rows"]] == [{"score": 0.5}] * 2
    assert report["recalibration"] is None and report["compensation"] is None


def test_given_data_wins_over_batches_and_evaluation_can_be_left_out(tmp_path: Path) -> None:
    name = written(tmp_path, EVALUATE, "\ndef batches():\n    raise ValueError('not asked for')\n")
    report = report_of(tmp_path / "out", name, "--no-evaluate", "--data", str(pictures(tmp_path / "images")))
    assert report["compensation"]["images"] == 3 and report.get("accuracy") is None


def test_the_network_that_is_evaluated_is_a_copy(tmp_path: Path) -> None:
    source = open_source(written(tmp_path, EVALUATE))
    model = source.build()
    owner = source.adapter(model)[0]
    assert owner.evaluate(model, "", imgsz=0) == {"width": 16.0, "moved": 0.0, "top_1": 0.25}
    assert not model.training, "evaluate puts its model into training mode"


def test_the_loss_is_carried(tmp_path: Path) -> None:
    owner = owner_of(written(tmp_path, LOSS))
    model = open_source(written(tmp_path, LOSS)).build()
    x, target = torch.rand(2, 3, 12, 12), torch.zeros(2, 4, 10, 10)
    found = owner.loss(model, (x, target))
    assert found is not None and torch.equal(found, model(x).square().mean())
    found.backward()
    assert model[0].weight.grad.abs().sum() > 0
    assert owner.evaluate(model) is None and owner.batches() is None
    assert owner_of(written(tmp_path, BATCHES)).loss(model, (x, target)) is None


def test_a_cut_carries_the_functions_of_its_original(tmp_path: Path) -> None:
    report_of(tmp_path / "out", written(tmp_path, EVALUATE))
    source = open_source(str(tmp_path / "out"))
    model, _ = source.open()
    assert source.adapter(model)[0].evaluate(model, "", imgsz=0) == {"width": 8.0, "moved": 0.0, "top_1": 0.25}


@pytest.mark.parametrize(
    ("part", "text"),
    [
        ("def evaluate(model):\n    raise KeyError('val')\n", "() of {file}, line 12, fails with KeyError: 'val'"),
        ("def evaluate(model):\n    return torch.ones(2)\n", "() of {file}, line 11, returns a Tensor of shape (2,)"),
        ("def evaluate(model):\n    return {}\n", "returns a dict (empty). Expected a number, or a dict of numbers"),
        ("def evaluate(model):\n    return {'map': None}\n", "a dict (map: a NoneType). Expected a number"),
        ("def evaluate(model):\n    raise SystemExit(3)\n", "line 12, fails with SystemExit: 3"),
        ("@torch.no_grad()\ndef evaluate(model):\n    return model(1)\n", "evaluate() of {file}, line 13, fails with"),
        ("def batches():\n    return torch.rand(4, 3, 12, 12)\n", "line 11, returns a Tensor. Expected an"),
        ("def batches():\n    yield torch.rand(4, 3, 12, 12)\n    1 / 0\n", "line 13, fails with ZeroDivisionError"),
        ("def batches():\n    open('nowhere')\n", "batches() of {file}, line 12, fails with FileNotFoundError"),
        ("def batches():\n    return iter(())\n", "calibration holds no inputs"),
        ("def batches():\n    yield torch.rand(4, 5, 12, 12)\n", "calibration"),
    ],
)  # fmt: skip
def test_errors_name_the_function_the_file_and_the_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], part: str, text: str
) -> None:
    name = written(tmp_path, part)
    assert main(["compress", name, *SMALL, "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert text.format(file=tmp_path / "det.py") in said and "Traceback" not in said
    assert not (tmp_path / "out").exists()


def test_errors_of_a_loss(tmp_path: Path) -> None:
    failing = owner_of(written(tmp_path, "def loss(model, batch):\n    return batch['x']\n"))
    with pytest.raises(UserError, match=r"loss\(\) of .*det.py, line 12, fails with"):
        failing.loss(nn.Identity(), 1)
    vector = owner_of(written(tmp_path / "b", "def loss(model, batch):\n    return batch\n"))
    with pytest.raises(UserError, match=r"returns a Tensor of shape \(3,\). Expected a tensor of one"):
        vector.loss(nn.Identity(), torch.rand(3))


def test_functions_with_other_arguments_are_left_alone_and_named(tmp_path: Path) -> None:
    others = "\ndef evaluate(model, loader):\n    1 / 0\nloss = nn.CrossEntropyLoss()\nbatches = 3\n"
    report = report_of(tmp_path / "out", written(tmp_path, others))
    assert report.get("accuracy") is None
    assert any("evaluate(model, loader) of det.py was not called" in note for note in report["notes"])


def test_a_network_with_named_inputs_is_calibrated(tmp_path: Path) -> None:
    text = """
class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.n, self.b = nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.Conv2d(16, 4, 1)
    def forward(self, image, mask):
        return self.b(self.n(self.a(image)) * mask)
def factory():
    return Two(), {"image": torch.rand(1, 3, 12, 12), "mask": torch.ones(1, 1, 10, 10)}
def batches():
    return [({"image": torch.rand(5, 3, 12, 12), "mask": torch.ones(5, 1, 10, 10)})] * 2
"""
    assert report_of(tmp_path / "out", written(tmp_path, text))["compensation"]["images"] == 10


# How images become inputs


def pictures(folder: Path, size: tuple[int, int] = (90, 60), count: int = 3) -> Path:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (6, 9, 3), dtype=np.uint8))
        coarse.resize(size, Image.Resampling.BICUBIC).save(folder / f"{i}.png")
    return folder


def test_a_crop_keeps_the_centre(tmp_path: Path) -> None:
    pixels = np.zeros((40, 80, 3), np.uint8)
    pixels[:, 20:60] = 255  # the middle square
    (tmp_path / "images").mkdir()
    Image.fromarray(pixels).save(tmp_path / "images" / "a.png")
    shape = (3, 20, 20)
    cropped = load_images(tmp_path / "images", shape, Preprocessing("crop", interpolation="nearest"))[0]
    assert (cropped == 1).all()
    inner = load_images(tmp_path / "images", shape, Preprocessing("stretch", share=0.5, interpolation="nearest"))[0]
    assert (inner == 1).all(), "half of the sides, around the centre"
    assert 0 < load_images(tmp_path / "images", shape)[0].mean() < 1


@pytest.mark.parametrize("wrong", [{"fit": "tile"}, {"share": 0.0}, {"share": 1.5}, {"interpolation": "best"}])
def test_nonsense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="prepare no image"):
        Preprocessing(**wrong)


@pytest.mark.parametrize("size", [(90, 60), (50, 130), (64, 64)])
@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0", "swin_t", "inception_v3"])
def test_images_are_prepared_as_torchvision_does_it(tmp_path: Path, name: str, size: tuple[int, int]) -> None:
    models = torchvision_models()
    source = open_source(f"torchvision:{name}")
    transforms = models.get_model_weights(name).DEFAULT.transforms()
    side = transforms.crop_size[0]
    assert source.inputs[0].shape == (1, 3, side, side)
    how = preprocessing_of(source.build())
    assert how is not None and "IMAGENET1K" in how.by
    folder = pictures(tmp_path / "images", size)
    ours = load_images(folder, (3, side, side), how)[0]
    theirs = torch.stack([transforms(Image.open(path).convert("RGB")) for path in sorted(folder.iterdir())])
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [(90, 60), (50, 130)])
@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_384", "tf_efficientnetv2_s", "mobilenetv3_small_050"])
def test_images_are_prepared_as_timm_does_it(tmp_path: Path, name: str, size: tuple[int, int]) -> None:
    timm = pytest.importorskip("timm")
    source = open_source(f"timm:{name}")
    model, x = source.open()
    config = timm.data.resolve_data_config({}, model=model)
    assert tuple(x.shape[1:]) == config["input_size"]
    how = preprocessing_of(model)
    assert how is not None and how.mean == config["mean"] and how.by.startswith("timm's data configuration of ")
    folder = pictures(tmp_path / "images", size)
    ours = load_images(folder, tuple(x.shape[1:]), how)[0]
    transform = timm.data.create_transform(**config)
    theirs = torch.stack([transform(Image.open(path).convert("RGB")) for path in sorted(folder.iterdir())])
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_a_folder_calibrates_as_the_library_says_and_what_is_asked_for_wins(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    folder = str(pictures(tmp_path / "images"))
    name = ["timm:test_resnet", "--data", folder, "--input", "1x3x32x32"]
    own = report_of(tmp_path / "own", *name)["images"]
    assert own["mean"] == [0.5, 0.5, 0.5] or own["mean"][0] == pytest.approx(0.485)
    assert own["fit"] == "crop" and own["asked"] == [] and "timm" in own["by"]
    asked = report_of(tmp_path / "asked", *name, "--mean", "0.1", "--fit", "letterbox")["images"]
    assert asked["mean"] == [0.1] and asked["fit"] == "letterbox" and asked["asked"] == ["fit", "mean"]
    assert asked["std"] == own["std"], "the others stay the library's"
    page = (tmp_path / "asked" / "report.html").read_text()
    assert "letterbox" in page and "asked for: fit, mean" in page and "data configuration" in page


def test_other_networks_have_the_default(tmp_path: Path) -> None:
    folder = str(pictures(tmp_path / "images"))
    found = report_of(tmp_path / "out", written(tmp_path), "--data", folder, "--scale", "1")["images"]
    assert found["fit"] == "stretch" and found["scale"] == 1 and found["by"] == "" and found["asked"] == ["scale"]
    assert preprocessing_of(nn.Conv2d(3, 8, 3)) is None


def test_in_python_a_folder_is_prepared_by_the_configuration_too(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    model = timm.create_model("test_resnet").eval()
    x, folder = torch.rand(1, 3, 32, 32), pictures(tmp_path / "images")
    found = [
        cc.prune(model, x, keep=0.5, calibration=folder, preprocessing=how)
        for how in (None, preprocessing_of(model), Preprocessing())
    ]
    one, same, other = (result.model.state_dict()["bn1.running_mean"] for result in found)
    assert torch.equal(one, same) and not torch.equal(one, other)


# torchvision's detectors


def detector(name: str, **options: Any) -> nn.Module:
    models = torchvision_models()
    torch.manual_seed(0)
    model: nn.Module = models.get_model(name, weights=None, weights_backbone=None, num_classes=4, **options).eval()
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.bias is not None:
            module.bias.data.normal_(0, 0.5)
    return model


@pytest.mark.parametrize(
    ("name", "size"),
    [("ssdlite320_mobilenet_v3_large", 320), ("retinanet_resnet50_fpn", 96), ("fcos_resnet50_fpn", 96)],
)
def test_a_detector_of_one_stage_is_deployed_up_to_suppression(name: str, size: int) -> None:
    model = detector(name) if size == 320 else detector(name, min_size=64, max_size=64)
    model.score_thresh = 0.05
    x = torch.rand(2, 3, size, size + (0 if size == 320 else 16))
    form = deployed_form(model, (x,), DEFAULT)
    with torch.no_grad():
        raw, suppressed = form.module(x), model(x)
    assert form.words["suppression"] == "left to the caller" and form.words["library"].startswith("torchvision ")
    for place, one in enumerate(suppressed):
        assert len(one["boxes"]), "or nothing is compared"
        for box, label, score in zip(one["boxes"], one["labels"], one["scores"], strict=True):
            near = (raw["boxes"][place] - box).abs().amax(1) < 1e-2
            assert ((raw["scores"][place][:, label] - score).abs()[near] < 1e-5).any()
    chosen = deployed_form(model, (x,), Deploy(outputs=("scores",))).module(x)
    assert list(chosen) == ["scores"] and chosen["scores"].shape == raw["scores"].shape


def test_a_detector_is_written(tmp_path: Path) -> None:
    model = detector("retinanet_resnet50_fpn", min_size=64, max_size=64)
    report = cc.export(model, tmp_path / "model.onnx", torch.rand(1, 3, 64, 64))
    assert report.output_names == ("boxes", "scores")


class Backbone(nn.Module):
    """Two convolutions."""

    out_channels = 32

    def __init__(self) -> None:
        super().__init__()
        layers = nn.Conv2d(3, 16, 3, 4, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Any:
        return self.layers(x)


def test_a_cut_fcos_is_written_with_its_own_resizing(tmp_path: Path) -> None:
    torchvision_models()
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.fcos import FCOS

    anchors = AnchorGenerator(((8,),), ((1.0,),))
    model = FCOS(Backbone(), 4, min_size=96, max_size=192, anchor_generator=anchors).eval()
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.bias is not None:
            module.bias.data.normal_(0, 0.5)
    x = torch.rand(1, 3, 64, 80)
    result = cc.prune(model, x, keep=0.5)
    report = cc.export(result, tmp_path / "model.onnx", x)
    assert result.proof.passed and report.output_names == ("boxes", "scores")


@pytest.mark.parametrize("name", ["fasterrcnn_mobilenet_v3_large_320_fpn", "maskrcnn_resnet50_fpn"])
def test_a_detector_of_two_stages_is_refused_by_name(name: str, tmp_path: Path) -> None:
    model = detector(name)
    with pytest.raises(UserError, match=r"R?CNN has no deployed form: it suppresses boxes between its two stages"):
        cc.export(model, tmp_path / "model.onnx", torch.rand(1, 3, 64, 64))


def test_compress_refuses_it_before_the_cut(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torchvision_models()
    name = "torchvision:fasterrcnn_mobilenet_v3_large_320_fpn"
    assert main(["compress", name, *SMALL, "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert "has no deployed form" in said and "--outputs" in said


def test_a_classifier_is_deployed_as_it_is() -> None:
    models = torchvision_models()
    model, x = models.resnet18(weights=None).eval(), torch.rand(1, 3, 32, 32)
    assert deployed_form(model, (x,), DEFAULT).module is model
    with pytest.raises(UserError, match="nms=True chooses between the heads of Ultralytics' detectors"):
        deployed_form(model, (x,), Deploy(nms=True))
    assert preprocessing_of(model) is None, "several builders make this class"


# Sources of other packages


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes distributions with entry points on sys.path."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def made(package: str, points: str, code: str = "") -> None:
        folder = tmp_path / f"{package}-1.5.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.5\n")
        (folder / "entry_points.txt").write_text(f"[channelcut.sources]\n{points}\n")
        (tmp_path / f"{package}.py").write_text(code)
        monkeypatch.delitem(sys.modules, package, raising=False)

    return made


OPEN = """
import torch
from torch import Tensor, nn
asked = []
def open_model(rest, weights, trust):
    asked.append((rest, weights, trust))
    net = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 4, 1))
    return (net, torch.rand(1, 3, 10, 10)) if rest.endswith("yolo") else net
def fails(rest, weights, trust):
    raise LookupError("no such model")
def nothing(rest, weights, trust):
    return 3
table = {}
"""


def test_a_package_brings_a_prefix(packages: Any, tmp_path: Path) -> None:
    packages("mylib", "my = mylib:open_model\ntorchvision = mylib:fails\ntimm = mylib:fails", OPEN)
    source = open_source("my:small:yolo", "pretrained", trust=True)
    model, x = source.open()
    import mylib  # type: ignore[import-not-found]

    assert mylib.asked == [("small:yolo", "pretrained", True)] and not model.training and x.shape == (1, 3, 10, 10)
    assert open_source("my:other", inputs=source.inputs).build()
    report = report_of(tmp_path / "out", "my:yolo")
    assert report["model"] == "my:yolo" and report["weights"] == "as my makes them"
    again, _ = open_source(str(tmp_path / "out")).open()
    assert again[0].weight.shape[0] == 8
    with pytest.raises(UserError, match="Did you mean mylab:yolo"):
        packages("mylab", "mylab = mylab:open_model", OPEN)
        open_source("mylob:yolo")


def test_built_in_libraries_win(packages: Any) -> None:
    packages("thief", "torchvision = thief:fails\nultralytics = thief:fails", OPEN)
    for name in ("torchvision:nothing_like_it", "ultralytics:nothing.yaml"):
        with pytest.raises(UserError) as caught:
            open_source(name).build()
        assert "no such model" not in str(caught.value)


@pytest.mark.parametrize(
    ("target", "text"),
    [
        ("missing_module:f", "'bad:yolo': the entry point missing_module:f of broken 1.5 cannot be loaded: Module"),
        ("broken:missing", "the entry point broken:missing of broken 1.5 cannot be loaded: AttributeError"),
        ("broken:fails", "broken:fails of broken 1.5 fails with LookupError: no such model ("),
        ("broken:nothing", "broken:nothing of broken 1.5 returns an int. Expected a function (rest, weights, trust)"),
        ("broken:table", "the entry point broken:table of broken 1.5 is a dict. Expected a function"),
    ],
)  # fmt: skip
def test_a_broken_entry_point_is_one_paragraph(
    packages: Any, capsys: pytest.CaptureFixture[str], target: str, text: str, tmp_path: Path
) -> None:
    packages("broken", f"bad = {target}", OPEN)
    assert main(["compress", "bad:yolo", *SMALL, "--out", str(tmp_path / "out")]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert text in said and "Traceback" not in said


def test_two_packages_cannot_bring_one_prefix(packages: Any) -> None:
    packages("first", "same = first:open_model", OPEN)
    packages("second", "same = second:open_model", OPEN)
    with pytest.raises(UserError, match="same: is brought by several packages"):
        open_source("same:yolo")


def test_a_factory_may_return_a_network_of_a_library(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    (tmp_path / "mine.py").write_text(
        "import timm\ndef build():\n    return timm.create_model('test_resnet')\ndef evaluate(model):\n    return 1\n"
    )
    source = open_source(f"{tmp_path / 'mine.py'}:build")
    model = source.build()
    owner = source.adapter(model)[0]
    assert isinstance(owner, UserFile) and owner.preprocessing(model) == preprocessing_of(model) is not None
    assert isinstance(owner.deployed(model, (torch.rand(1, 3, 32, 32),), DEFAULT).module, nn.Module)
    assert owner.evaluate(model) == {"score": 1.0}


def test_tensors_of_one_shape_are_one_calibration(tmp_path: Path) -> None:
    """So that the files are compared on real inputs, and int8 has its images."""
    source = open_source(written(tmp_path, BATCHES))
    model, x = source.open()
    options = CompressOptions(PruneOptions(keep=0.5))
    options, prepared = with_samples(options, source.adapter(model)[0], model, x, Stopwatch())
    assert isinstance(options.prune.calibration, Tensor) and prepared is None
    assert options.prune.calibration.shape == (256, 3, 12, 12) and len(real_inputs(options.prune, x)) == 2
