"""The digits demo: its scenes, its detector, its targets, and a training that learns and resumes."""

from __future__ import annotations

import importlib.util
import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode

pytest.importorskip("sklearn", reason="the digits demo needs scikit-learn: pip install 'channelcut[demo]'")

from channelcut.core.errors import UserError
from channelcut.recovery.images import load_images
from examples import digits_demo, digits_detector, digits_map, digits_scenes, digits_train
from examples.digits_optimizer import orthogonalise


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def scenes():
    return digits_scenes.make_scenes(12, seed=7)


# --- detector


def test_the_detector_file_stands_alone_and_gives_both_scales():
    spec = importlib.util.spec_from_file_location("lonely_detector", digits_detector.__file__)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model = module.build()
    fine, coarse = model(torch.rand(2, 3, 128, 128))
    assert fine.shape == (2, 14, 16, 16)
    assert coarse.shape == (2, 14, 8, 8)
    assert 0.3e6 < sum(p.numel() for p in model.parameters()) < 0.6e6


def test_the_detector_has_the_shapes_that_make_pruning_hard():
    model = digits_detector.build()
    convolutions = [m for m in model.modules() if isinstance(m, torch.nn.Conv2d)]
    assert any(m.groups == m.in_channels > 1 for m in convolutions)
    seen = set()

    class Record(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.add(func.overloadpacket._qualified_op_name.removeprefix("aten::"))
            return func(*args, **(kwargs or {}))

    with Record():
        model(torch.rand(1, 3, 128, 128))
    assert {"split", "cat", "max_pool2d_with_indices", "upsample_nearest2d", "add"} <= seen


# --- scenes


def test_equal_arguments_draw_equal_scenes_in_any_order(scenes):
    again = digits_scenes.make_scene(7, 5)
    np.testing.assert_array_equal(again.image, scenes[5].image)
    np.testing.assert_array_equal(again.boxes, scenes[5].boxes)
    assert not np.array_equal(again.image, digits_scenes.make_scene(8, 5).image)
    assert not np.array_equal(again.image, digits_scenes.make_scene(7, 5, "val").image)


def test_train_and_validation_share_no_scan():
    train, val = (digits_scenes.digit_sources(split) for split in ("train", "val"))
    assert not set(train[2].tolist()) & set(val[2].tolist())
    assert len(train[2]) + len(val[2]) == 1797
    assert set(train[1].tolist()) == set(val[1].tolist()) == set(range(10))


def test_boxes_lie_inside_and_overlap_little(scenes):
    for scene in scenes:
        assert scene.image.shape == (128, 128, 3)
        assert scene.image.dtype == np.uint8
        assert len(scene.boxes) == len(scene.labels) >= 1
        assert scene.boxes.min() >= 0
        assert scene.boxes.max() <= 128
        assert (scene.boxes[:, 2:] - scene.boxes[:, :2]).min() >= 2
        for a, b in itertools.combinations(scene.boxes, 2):
            shared = np.prod(np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None))
            smaller = min(np.prod(a[2:] - a[:2]), np.prod(b[2:] - b[:2]))
            assert shared <= digits_scenes.MAX_OVERLAP * smaller


def test_a_box_is_the_extent_of_its_ink(monkeypatch):
    # Without clutter and noise, ink reaches every side of its box, and no strong ink lies outside all boxes.
    monkeypatch.setattr(digits_scenes, "_ground", lambda rng: np.zeros((128, 128, 3), np.float32))

    class Quiet:
        def __init__(self, key):
            self._rng = generator(key)

        def __getattr__(self, name):
            return getattr(self._rng, name)

        def normal(self, mean, deviation, shape):
            return np.zeros(shape)

    generator = np.random.default_rng
    monkeypatch.setattr(np.random, "default_rng", Quiet)
    for index in range(6):
        scene = digits_scenes.make_scene(3, index)
        lit = scene.image.max(-1) > 255 * 0.75 * digits_scenes.INK_THRESHOLD
        inside = np.zeros_like(lit)
        for x0, y0, x1, y1 in scene.boxes.astype(int):
            inside[y0:y1, x0:x1] = True
            patch = scene.image[y0:y1, x0:x1].max(-1) > 140 * 0.75 * digits_scenes.INK_THRESHOLD - 1
            assert patch[0].any()
            assert patch[-1].any()
            assert patch[:, 0].any()
            assert patch[:, -1].any()
        assert not (lit & ~inside).any()


def test_calibration_images_reach_the_network_as_training_images_do(tmp_path):
    digits_scenes.write_calibration_images(tmp_path / "images", 5, seed=2)
    paths = digits_scenes.write_calibration_images(tmp_path / "images", 3, seed=2)
    assert sorted((tmp_path / "images").iterdir()) == paths  # no stale image, no temporary file
    drawn = digits_scenes.make_scenes(3, 2)
    np.testing.assert_array_equal(np.asarray(Image.open(paths[1])), drawn[1].image)
    loaded, broken = load_images(tmp_path / "images", (3, 128, 128))
    torch.testing.assert_close(loaded, digits_scenes.images_to_input([scene.image for scene in drawn]))
    assert not broken


def test_a_file_in_the_place_of_the_folder_is_a_user_error(tmp_path):
    (tmp_path / "images").write_text("")
    with pytest.raises(UserError, match="is a file"):
        digits_scenes.write_calibration_images(tmp_path / "images", 1, 0)


# --- targets, decoding, score


def test_cells_are_in_the_order_of_the_maps():
    centres, strides = digits_map.cells()
    fine, coarse = torch.zeros(1, 14, 16, 16), torch.zeros(1, 14, 8, 8)
    fine[0, 4, 3, 5] = 1  # row 3, column 5
    coarse[0, 4, 6, 1] = 2
    logits = digits_map.flatten((fine, coarse))[1][0, :, 0]
    assert centres[logits == 1].tolist() == [[5.5 * 8, 3.5 * 8]]
    assert centres[logits == 2].tolist() == [[1.5 * 16, 6.5 * 16]]
    assert strides[logits > 0].tolist() == [8, 16]


def test_decode_inverts_the_target_encoding(scenes):
    targets = digits_train.assign(scenes)
    encoded = digits_map.boxes_to_distances(targets.boxes, *digits_map.cells())
    joined = torch.cat((encoded, torch.zeros(*encoded.shape[:2], 10)), -1).transpose(1, 2)
    maps = (joined[..., :256].reshape(-1, 14, 16, 16), joined[..., 256:].reshape(-1, 14, 8, 8))
    boxes, probabilities = digits_map.decode(maps)
    torch.testing.assert_close(boxes, targets.boxes, atol=1e-3, rtol=0)
    torch.testing.assert_close(probabilities, torch.full_like(probabilities, 0.5))


def test_every_box_is_taught_by_near_cells_of_its_own_label(scenes):
    targets = digits_train.assign(scenes)
    centres, strides = digits_map.cells()
    for row, scene in enumerate(scenes):
        for box, label in zip(torch.from_numpy(scene.boxes), scene.labels.tolist(), strict=True):
            mine = targets.positive[row] & (targets.boxes[row] == box).all(-1)
            assert mine.any()
            assert (targets.labels[row][mine] == label).all()
            offset = (centres[mine] - (box[:2] + box[2:]) / 2).abs().amax(-1)
            assert (offset < digits_train.RADIUS * strides[mine]).all()


def test_a_perfect_answer_scores_one_and_a_wrong_one_less(scenes):
    pytest.importorskip("pycocotools", reason="the score needs pycocotools")
    assert digits_map._coco_boxes(np.array([[1, 2, 4, 6]], np.float32)) == [[1, 2, 3, 4]]
    perfect = [digits_map.Detections(s.boxes, np.ones(len(s.labels), np.float32), s.labels) for s in scenes]
    assert digits_map.score(perfect, scenes) == digits_map.Accuracy(1.0, 1.0)
    relabelled = [replace(found, labels=(found.labels + 1) % 10) for found in perfect]
    assert digits_map.score(relabelled, scenes).map < 0.05
    moved = [replace(found, boxes=found.boxes + 3) for found in perfect]
    assert digits_map.score(moved, scenes).map < 0.8
    nothing = [
        replace(found, boxes=found.boxes[:0], scores=found.scores[:0], labels=found.labels[:0]) for found in perfect
    ]
    assert digits_map.score(nothing, scenes) == digits_map.Accuracy(0.0, 0.0)


def test_suppression_is_greedy_and_per_class():
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [40, 40, 60, 60]])
    probabilities = torch.zeros(3, 10)
    probabilities[:, 3] = torch.tensor([0.8, 0.9, 0.5])
    probabilities[0, 4] = 0.7
    found = digits_map.detections_of(boxes, probabilities)
    assert found.labels.tolist() == [3, 4, 3]
    assert found.scores.tolist() == pytest.approx([0.9, 0.7, 0.5])
    np.testing.assert_array_equal(found.boxes, boxes[[1, 0, 2]].numpy())


# --- training


def test_generalised_iou_of_known_boxes():
    left = torch.tensor([[0.0, 0, 2, 2], [0, 0, 1, 1]])
    right = torch.tensor([[1.0, 0, 3, 2], [2, 0, 3, 1]])
    iou, generalised = digits_train.generalised_iou(left, right)
    torch.testing.assert_close(iou, torch.tensor([1 / 3, 0.0]))
    torch.testing.assert_close(generalised, torch.tensor([1 / 3, -1 / 3]))


@pytest.mark.parametrize("shape", [(6, 40), (40, 6)])
def test_orthogonalise_brings_singular_values_near_one(shape):
    left, _, right = torch.linalg.svd(
        torch.randn(shape, generator=torch.Generator().manual_seed(0)), full_matrices=False
    )
    values = torch.linalg.svdvals(orthogonalise(left * torch.tensor([1, 0.8, 0.4, 0.2, 0.1, 0.05]) @ right))
    assert values.min() > 0.6
    assert values.max() < 1.3


def test_every_step_draws_its_own_scenes():
    options = digits_train.TrainOptions(steps=3, batch=2, seed=4)
    drawn = [images for images, _ in digits_train._batches(1, options)]
    assert len(drawn) == 2
    for step, images in enumerate(drawn, 1):
        expected = digits_scenes.make_scenes(2, 4, first=2 * step)
        torch.testing.assert_close(images, digits_scenes.images_to_input([scene.image for scene in expected]))
    assert not torch.equal(*drawn)


def test_a_few_steps_on_one_batch_reduce_its_loss(scenes):
    torch.manual_seed(0)
    model = digits_detector.build()
    optimizers = digits_train.optimizers_for(model, 4e-3, 0.02)
    images = digits_scenes.images_to_input([scene.image for scene in scenes[:4]])
    targets = digits_train.assign(scenes[:4])
    losses = [digits_train._step(model, optimizers, images, targets, 0.5) for _ in range(20)]
    assert losses[-1] < 0.65 * losses[0]


def test_training_moves_boxes_towards_digits_it_never_saw(scenes):
    # The total loss is no measure here: its class target, the IoU, rises with the boxes.
    def overlap(model):
        with torch.no_grad():
            boxes, _ = digits_map.decode(model(digits_scenes.images_to_input([scene.image for scene in scenes])))
        targets = digits_train.assign(scenes)
        found, wanted = boxes[targets.positive], targets.boxes[targets.positive]
        return float(digits_train.generalised_iou(found, wanted)[0].mean())

    torch.manual_seed(0)
    model = digits_detector.build()
    before = overlap(model)
    losses = digits_train.train(model, digits_train.TrainOptions(steps=20, batch=4, warmup=5), quiet=True)
    assert len(losses) == 20
    assert model.training
    assert overlap(model) > before + 0.1


def test_an_interrupted_training_ends_as_an_uninterrupted_one(tmp_path, monkeypatch):
    options = digits_train.TrainOptions(steps=4, batch=2)
    monkeypatch.setattr(digits_train, "SAVE_EVERY", 2)

    def fresh():
        torch.manual_seed(0)
        return digits_detector.build()

    whole = fresh()
    digits_train.train(whole, options, quiet=True)
    real, calls = digits_train._step, []

    def failing(*arguments):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(digits_train, "_step", failing)
    state = tmp_path / "digits.state"
    with pytest.raises(KeyboardInterrupt):
        digits_train.train(fresh(), options, state, quiet=True)
    monkeypatch.setattr(digits_train, "_step", real)
    resumed = digits_detector.build()
    assert len(digits_train.train(resumed, options, state, quiet=True)) == 2
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], tensor, msg=name)


def test_a_damaged_state_is_a_user_error_that_names_the_way_out(tmp_path):
    state = tmp_path / "digits.state"
    state.write_bytes(b"not a checkpoint")
    with pytest.raises(UserError, match="--fresh"):
        digits_train.train(digits_detector.build(), digits_train.TrainOptions(steps=1), state, quiet=True)


# --- demo


def test_trained_weights_are_reused_until_fresh(tmp_path, monkeypatch, capsys):
    settings = digits_demo.Settings(tmp_path, digits_train.TrainOptions(steps=1, batch=2))
    console = digits_demo.Console()
    first = digits_demo.trained(settings, False, console).state_dict()
    trainings = []
    monkeypatch.setattr(digits_demo, "train", lambda *_: trainings.append(1))
    again = digits_demo.trained(settings, False, console).state_dict()
    assert not trainings
    assert all(torch.equal(first[name], again[name]) for name in first)
    other = replace(settings, options=digits_train.TrainOptions(steps=2, batch=2))
    digits_demo.trained(other, False, console)
    digits_demo.trained(other, True, console)
    assert len(trainings) == 2
    assert not list(tmp_path.glob("*.state"))


def test_findings_quote_the_report(tmp_path):
    (tmp_path / "model.sm89.engine").write_bytes(bytes(2**20))
    measured = {"ratio": 0.61, "ratio_low": 0.6, "ratio_high": 0.62, "warnings": ["noisy"]}
    lines = digits_demo.findings({"measurement": measured, "notes": ["look here"]}, tmp_path)
    assert "0.610 (95 % interval 0.600 to 0.620)" in lines[0]
    assert "noisy" in lines[1]
    assert "model.sm89.engine (1.00 MiB)" in lines[2]
    assert lines[3] == "Note: look here"
    assert "none built" in digits_demo.findings({"measurement": None}, tmp_path / "absent")[0]


def test_the_quick_demo_runs_to_its_report(tmp_path, capsys):
    pytest.importorskip("pycocotools", reason="the score needs pycocotools")
    assert digits_demo.main(["--quick", "--out", str(tmp_path / "demo")]) == 0
    last = capsys.readouterr().out.rstrip().splitlines()[-1]
    assert Path(last) == tmp_path / "demo" / "result" / "report.html"
    assert Path(last).is_file()
    assert json.loads(Path(last).with_suffix(".json").read_text())["compensation"]
