"""The zoo loads its weights strictly, computes what the reference computes, and measures accuracy rightly."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.zoo import data, fastestdet, metrics
from benchmarks.zoo.registry import ENTRIES, VARIANTS, main
from channelcut.core.errors import UserError

ASSETS = data.assets_root()
needs_assets = pytest.mark.skipif(ASSETS is None, reason="no assets folder: set CHANNELCUT_ASSETS")
ZOO = Path(data.__file__).parent


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def assets() -> Path:
    assert ASSETS is not None
    return ASSETS


def test_each_file_builds_alone_without_the_repository_on_the_path(tmp_path):
    code = (
        "import runpy, sys\n"
        "assert not any(p.endswith(sys.argv[1]) for p in sys.path)\n"
        "for path in sys.argv[2:]: print(type(runpy.run_path(path)['build']()).__name__)\n"
    )
    files = [str(ZOO / f"{name}.py") for name in ("fastestdet", "nanodet", "yolov5", "resnet_cifar")]
    command = [sys.executable, "-I", "-c", code, str(ZOO.parents[1]), *files]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["FastestDet", "NanoDet", "YoloV5n", "ResNetCifar"], done.stderr


@pytest.mark.parametrize("name", ENTRIES)
def test_network_can_be_exported_with_the_declared_input(name):
    entry = ENTRIES[name]
    model = entry.build().eval()
    example = torch.randn(entry.input_shape)
    exported = torch.export.export(model, (example,), strict=False).module()
    with torch.no_grad():
        torch.testing.assert_close(exported(example), model(example))


@pytest.mark.assets
@needs_assets
@pytest.mark.parametrize("name", ENTRIES)
def test_weights_load_strictly_and_change_the_network(name):
    entry = ENTRIES[name]
    loaded, fresh = entry.load(assets()), entry.build()
    assert not loaded.training
    assert loaded.state_dict().keys() == fresh.state_dict().keys()
    for key, value in loaded.named_parameters():
        assert value.dtype == torch.float32 and torch.isfinite(value).all()
        assert not torch.equal(value, fresh.get_parameter(key)), f"{key} kept its initial value"


@pytest.mark.assets
@needs_assets
def test_fastestdet_agrees_with_its_onnx():
    ort = pytest.importorskip("onnxruntime")
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(
        str(assets() / "weights" / "fastestdet.onnx"), options, providers=["CPUExecutionProvider"]
    )
    sample = next(data.coco128("val", 1))
    x = fastestdet.preprocess(sample.image)[0][None]
    (expected,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    with torch.no_grad():
        got = fastestdet.load(assets())(x).numpy()
    assert expected.std() > 0.01
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-4)


@pytest.mark.assets
@needs_assets
def test_fastestdet_reaches_its_reference_accuracy():
    pytest.importorskip("pycocotools")
    entry = ENTRIES["fastestdet"]
    measured = entry.evaluate(entry.load(assets()))
    assert measured["map"] == pytest.approx(entry.published["map"], abs=0.005)


@pytest.mark.assets
@needs_assets
@pytest.mark.parametrize(("name", "at_least"), [("nanodet_m", 0.25), ("yolov5n", 0.25)])
def test_detectors_find_objects_in_a_few_images(name, at_least):
    pytest.importorskip("pycocotools")
    entry = ENTRIES[name]
    assert entry.evaluate(entry.load(assets()), limit=16)["map"] > at_least


@pytest.mark.assets
@needs_assets
def test_resnet20_classifies_a_balanced_subset():
    entry = ENTRIES["resnet20"]
    assert entry.evaluate(entry.load(assets()), limit=1000)["top1"] > 0.90


@pytest.mark.assets
@needs_assets
@pytest.mark.parametrize("name", ENTRIES)
def test_calibration_has_the_input_shape_and_is_centred(name):
    entry = ENTRIES[name]
    batch = entry.calibration(3)
    assert batch.shape == (3, *entry.input_shape[1:]) and batch.dtype == torch.float32
    assert batch.std() > 0.1 and batch.abs().max() < 3.5


@pytest.mark.assets
@needs_assets
def test_too_many_images_are_refused_with_the_number_there_is():
    with pytest.raises(UserError, match=r"129 images were asked of .* which holds 128"):
        ENTRIES["fastestdet"].calibration(129)


@pytest.mark.assets
@needs_assets
def test_evaluation_leaves_the_mode_of_the_model_alone():
    entry = ENTRIES["resnet20"]
    model = entry.load(assets())
    model.layer1.train()
    before = {name: module.training for name, module in model.named_modules()}
    entry.evaluate(model, limit=10)
    assert {name: module.training for name, module in model.named_modules()} == before


@pytest.mark.assets
@needs_assets
def test_cifar_classes_take_turns():
    images, labels = data.cifar10("test", 25)
    assert images.shape == (25, 3, 32, 32) and images.dtype == torch.uint8
    assert labels.tolist() == [i % 10 for i in range(25)]
    (sprite,) = (assets() / "cifar10" / "test").glob("3_*.webp")
    third = data.read_image(sprite)[:32, 64:96]  # tile 2 of class 3
    np.testing.assert_array_equal(images[23].permute(1, 2, 0).numpy(), third)


def test_missing_assets_are_a_user_error(monkeypatch, tmp_path):
    monkeypatch.setenv("CHANNELCUT_ASSETS", str(tmp_path / "absent"))
    assert data.assets_root() is None
    with pytest.raises(UserError, match="CHANNELCUT_ASSETS"):
        data.require_assets()
    assert main(["resnet20"]) == 2
    with pytest.raises(UserError, match=r"weights/fastestdet\.pth"):
        fastestdet.load(tmp_path)


@pytest.mark.assets
@needs_assets
def test_unknown_name_is_a_user_error(capsys):
    assert main(["resnet2O"]) == 2
    assert "Choose from: fastestdet" in capsys.readouterr().err


def test_variants_do_not_shadow_entries():
    assert not ENTRIES.keys() & VARIANTS.keys()


@pytest.mark.parametrize("fit", ["stretch", "corner", "centre"])
def test_frame_inverts_the_fit(fit):
    image = np.zeros((60, 100, 3), np.uint8)
    image[30:45, 20:80] = 200
    fitted, frame = data.fit_image(image, 200, fit, pad=0)
    rows, columns = np.nonzero(fitted[0].numpy() > 100)
    seen = np.array([[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]], dtype=np.float64)
    np.testing.assert_allclose(frame.to_image(seen), [[20, 30, 80, 45]], atol=1.0)


def test_padding_lies_where_the_fit_says():
    image = np.full((50, 100, 3), 7, np.uint8)
    corner, _ = data.fit_image(image, 100, "corner", pad=114)
    centre, _ = data.fit_image(image, 100, "centre", pad=114)
    assert (corner[:, :50] == 7).all() and (corner[:, 50:] == 114).all()
    assert (centre[:, 25:75] == 7).all() and (centre[:, :25] == 114).all() and (centre[:, 75:] == 114).all()


def test_nms_suppresses_within_a_class_only():
    boxes = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [1, 0, 11, 10], [50, 50, 60, 60]], dtype=np.float64)
    scores, classes = np.array([0.6, 0.9, 0.5, 0.7]), np.array([0, 0, 1, 0])
    assert metrics.nms(boxes, scores, classes, 0.5).tolist() == [1, 3, 2]
    assert metrics.nms(boxes, scores, classes, 0.9).tolist() == [1, 3, 0, 2]
    assert metrics.nms(boxes, scores, classes, 0.5, max_count=1).tolist() == [1]


def test_nms_spares_a_box_whose_suppressor_fell_itself():
    boxes = np.array([[0, 0, 10, 10], [4, 0, 14, 10], [8, 0, 18, 10]], dtype=np.float64)
    scores, classes = np.array([0.9, 0.8, 0.7]), np.zeros(3, dtype=int)
    assert metrics.nms(boxes, scores, classes, 0.3).tolist() == [0, 2]


def test_average_precision_of_perfect_and_half_right_detections():
    pytest.importorskip("pycocotools")
    blank = np.zeros((100, 100, 3), np.uint8)
    boxes = np.array([[10.0, 10, 50, 50], [60, 60, 90, 90]])
    truth = [data.Sample("a", blank, boxes, np.array([0, 1]))]
    right = metrics.Detections(boxes, np.array([0.9, 0.8]), np.array([0, 1]))
    half = metrics.Detections(boxes, np.array([0.9, 0.8]), np.array([0, 0]))
    assert metrics.average_precision([right], truth) == pytest.approx({"map": 1.0, "ap50": 1.0})
    assert metrics.average_precision([half], truth) == pytest.approx({"map": 0.5, "ap50": 0.5})
    none = metrics.Detections(np.zeros((0, 4)), np.zeros(0), np.zeros(0, int))
    assert metrics.average_precision([none], truth) == {"map": 0.0, "ap50": 0.0}
    with pytest.raises(ValueError, match="2 images of detections"):
        metrics.average_precision([right, right], truth)


def test_precision_of_images_drawn_anew_is_that_of_these_images() -> None:
    rng = np.random.default_rng(0)
    truth, found = [], []
    for number in range(6):
        corner = rng.random((4, 2)) * 50
        boxes, classes = np.concatenate((corner, corner + 20 + rng.random((4, 2)) * 20), 1), rng.integers(0, 3, 4)
        truth.append(data.Sample(str(number), np.zeros((100, 100, 3), np.uint8), boxes, classes))
        found.append(metrics.Detections(boxes + rng.normal(0, 2, boxes.shape), rng.random(4), classes))
    whole = metrics.evaluated(found, truth)
    for drawn in ([5, 0, 0, 3, 3, 3], list(range(6))):
        direct = metrics.average_precision([found[i] for i in drawn], [truth[i] for i in drawn])["map"]
        assert metrics.redrawn(whole, drawn) == pytest.approx(direct)
    assert metrics.redrawn(None, [0]) == 0.0


def apart(seen: Sequence[Path], judged: Sequence[Path]) -> None:
    """No file, no name and no content is in both."""
    assert seen and judged
    assert not {path.resolve() for path in seen} & {path.resolve() for path in judged}
    if seen[0].suffix != ".webp":  # sprites of both splits are called alike
        assert not {path.name for path in seen} & {path.name for path in judged}
    content = {hashlib.sha256(path.read_bytes()).hexdigest() for path in seen}
    assert not content & {hashlib.sha256(path.read_bytes()).hexdigest() for path in judged}


@needs_assets
@pytest.mark.parametrize(
    ("script", "network"),
    [
        *[(script, name) for script in ("accuracy", "recovery") for name in ("resnet56", "yolo26n", "nanodet_m")],
        ("scores", "yolo26n"),
        ("scores", "nanodet_m"),
        ("own_detector", None),
    ],
)
def test_nothing_is_chosen_by_what_judges(script: str, network: str | None) -> None:
    """The images that a network is scored, restored and taught by, and those of its test split, are other files."""
    module = pytest.importorskip(f"benchmarks.{script}")
    asked = () if network is None else (network,)
    apart(module.seen_files(*asked), module.test_files(*asked))


@needs_assets
@pytest.mark.parametrize("network", ["resnet56", "yolo26n", "nanodet_m"])
def test_criteria_are_chosen_by_what_no_final_figure_uses(network: str) -> None:
    accuracy, scores = (pytest.importorskip(f"benchmarks.{script}") for script in ("accuracy", "scores"))
    apart([*scores.seen_files(network), *scores.test_files(network)], accuracy.test_files(network))
