"""ONNX export: equal to the module, never by luck, and the module untouched."""

from __future__ import annotations

import copy
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from channelcut.core.errors import UserError
from channelcut.core.files import write_atomically
from channelcut.onnx_out import simplify
from channelcut.onnx_out.comparison import max_relative_error, relative_error
from channelcut.onnx_out.files import load_onnx
from channelcut.onnx_out.inputs import Trial, extremes, image_like, random_array, random_like
from channelcut.onnx_out.module import ExportOptions, onnx_from_module
from channelcut.onnx_out.names import input_names, output_names
from channelcut.onnx_out.parity import ParityCheck, run_onnx
from channelcut.onnx_out.rewriting import accept_rewrite
from channelcut.onnx_out.selection import Forced, with_index_outputs

torch.set_num_threads(1)


class Small(nn.Module):
    """Convolution, batch norm, a shape computation that simplifiers fold, several nested outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Conv2d(8, 5, 1)
        self.calls = 0

    def forward(self, image: Tensor, flag: bool = True) -> dict[str, Any]:
        features = torch.relu(self.norm(self.conv(image)))
        rows = self.head(features)
        return {
            "rows": rows.flatten(2).reshape(rows.shape[0], 5, -1),
            "maps": (features, None, 3),
            "argmax": rows.argmax(1),
        }


class EndToEnd(nn.Module):
    """How YOLO26 ends: the best anchors, then the best of their classes, then the rows gathered for them.

    The scores are squeezed into a band as narrow as float32 rounding, as those of an untrained detector are.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 7, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        rows = self.conv(image).flatten(2).transpose(1, 2)
        boxes, scores = rows[..., :4] * 100, torch.sigmoid(rows[..., 4:] * 1e-6 - 9)
        anchors = scores.amax(2).topk(20, dim=1).indices.unsqueeze(2)
        boxes, scores = (t.gather(1, anchors.expand(-1, -1, t.shape[2])) for t in (boxes, scores))
        best, index = scores.flatten(1).topk(20, dim=1)
        boxes = boxes.gather(1, (index // 3).unsqueeze(2).expand(-1, -1, 4))
        return torch.cat([boxes, best.unsqueeze(2), (index % 3).unsqueeze(2).float()], 2)


def small(kind: type[nn.Module] = Small) -> nn.Module:
    torch.manual_seed(0)
    return kind().eval()


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path, Any]:
    model, path = small(), tmp_path_factory.mktemp("export") / "small.onnx"
    return model, path, onnx_from_module(model, (torch.rand(1, 3, 12, 16),), path)


def test_export_is_simplified_named_and_equal(exported: tuple[nn.Module, Path, Any]) -> None:
    model, path, report = exported
    assert report.simplifier == "onnxsim" and report.refusals == ()
    assert 0 < report.nodes_after <= report.nodes_before and report.opset == 20
    assert report.max_relative_error <= 1e-5
    assert report.size_bytes == path.stat().st_size
    assert report.input_names == ("image",) and report.output_names == ("rows", "maps.0", "argmax")
    loaded = load_onnx(path)
    assert [o.name for o in loaded.graph.output] == ["rows", "maps.0", "argmax"] and report.warnings == ()
    image = torch.rand(1, 3, 12, 16)
    wanted = model(image)
    reference = [wanted["rows"], wanted["maps"][0], wanted["argmax"]]
    assert max_relative_error(reference, run_onnx(loaded, [image.numpy()])) < 1e-5


def test_export_leaves_the_module_alone(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    class Caching(Small):
        def forward(self, image: Tensor, flag: bool = True) -> dict[str, Any]:
            sys.stdout.write("tracing")
            self.calls += 1
            self.cache = image.sum()
            return super().forward(image, flag)

    model = small(Caching).train()
    model.half()
    before = copy.deepcopy(model.state_dict())
    report = onnx_from_module(model, (torch.rand(1, 3, 8, 8).half(),), tmp_path / "m.onnx")
    assert report.max_relative_error <= 1e-5, "a half-precision module is exported, and compared, in float32"
    assert model.training and model.calls == 0 and not hasattr(model, "cache")
    assert all(p.dtype == torch.float16 for p in model.parameters())
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert capfd.readouterr() == ("", ""), "the exporters' prints reached the user"


def test_dynamic_batch(tmp_path: Path) -> None:
    model, path = small(), tmp_path / "dynamic.onnx"
    report = onnx_from_module(model, (torch.rand(1, 3, 8, 8),), path, ExportOptions(dynamic_batch=True))
    assert report.max_relative_error <= 1e-5
    image = torch.rand(5, 3, 8, 8)
    rows, features, _ = run_onnx(load_onnx(path), [image.numpy()])
    wanted = model(image)
    assert max_relative_error([wanted["rows"], wanted["maps"][0]], [rows, features]) < 1e-5


def test_forward_that_cannot_be_exported_or_run(tmp_path: Path) -> None:
    class Branching(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            return image if image.sum() > 0 else -image

    class Fixed(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            return image.reshape(1, -1) if image.shape[0] == 1 else image.reshape(2, -1)

    with pytest.raises(UserError, match="Fixed cannot be exported to ONNX with a dynamic batch"):
        onnx_from_module(Fixed(), (torch.rand(1, 3),), tmp_path / "b.onnx", ExportOptions(dynamic_batch=True))
    with pytest.raises(UserError, match=r"Branching cannot be exported to ONNX.*without branches on tensor values"):
        onnx_from_module(Branching(), (torch.rand(1, 3),), tmp_path / "b.onnx")
    with pytest.raises(UserError, match=r"does not run on the example inputs of shapes \[\(1, 4, 8, 8\)\]"):
        onnx_from_module(small(), (torch.rand(1, 4, 8, 8),), tmp_path / "b.onnx")
    with pytest.raises(UserError, match="opset 18 or later"):
        ExportOptions(opset=11)
    with pytest.raises(UserError, match=r"Input 1 \('flag'\) of the model holds a bool"):
        onnx_from_module(small(), (torch.rand(1, 3, 8, 8), True), tmp_path / "b.onnx")
    assert not list(tmp_path.iterdir())


def test_random_forward_is_refused_and_nothing_written(tmp_path: Path) -> None:
    class Stateful(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.steps = 0

        def forward(self, image: Tensor) -> Tensor:
            self.steps += 1
            return image * self.steps

    with pytest.raises(UserError, match="does not compute what the module computes: output 'output_0' differs by"):
        onnx_from_module(Stateful(), (torch.rand(1, 3, 8, 8),), tmp_path / "s.onnx")
    assert not list(tmp_path.iterdir())


def scaled_weight(factor: float, channel: int | None = None) -> Any:
    """Return a rewrite that scales one convolution's weight (or one of its output channels)."""

    def rewrite(model: onnx.ModelProto) -> onnx.ModelProto:
        initializer = next(i for i in model.graph.initializer if len(i.dims) == 4)
        array = numpy_helper.to_array(initializer).copy()
        array[slice(None) if channel is None else channel] *= factor
        initializer.CopyFrom(numpy_helper.from_array(array, initializer.name))
        return model

    return rewrite


def renamed_output(model: onnx.ModelProto) -> onnx.ModelProto:
    name = model.graph.output[0].name
    for node in model.graph.node:
        node.output[:] = ["other" if o == name else o for o in node.output]
        node.input[:] = ["other" if i == name else i for i in node.input]
    model.graph.output[0].name = "other"
    return model


def broken(model: onnx.ModelProto) -> onnx.ModelProto:
    model.graph.node[0].input[0] = "nowhere"
    return model


def failing(model: onnx.ModelProto) -> onnx.ModelProto:
    raise KeyError("split")


@pytest.mark.parametrize(
    ("rewrite", "reason"),
    [
        (scaled_weight(1.01), r"planted rejected: output '\w+(\.0)?' differs by .* relative, more than 1e-04"),
        (scaled_weight(-1.0, 0), r"planted rejected: output .* differs by"),
        (renamed_output, r"planted rejected: it changed the outputs from \['rows'"),
        (broken, r"planted rejected: ONNX Runtime .* cannot load"),
        (failing, r"planted failed: KeyError: 'split'"),
    ],
)
def test_planted_wrong_rewrite_is_rejected(exported: tuple[nn.Module, Path, Any], rewrite: Any, reason: str) -> None:
    model, original = exported[0], load_onnx(exported[1])
    untouched = original.SerializeToString()

    class Flat(nn.Module):
        def forward(self, image: Tensor) -> tuple[Any, ...]:
            return tuple(model(image).values())

    check = ParityCheck(Flat(), [Trial("the example", (torch.rand(1, 3, 12, 16),))])
    accepted = accept_rewrite(original, [("planted", rewrite)], check)
    assert accepted.name == "none" and accepted.model is original and len(accepted.refusals) == 1
    assert original.SerializeToString() == untouched, "a rewrite must be given a copy"
    assert re.search(reason, accepted.refusals[0]), accepted.refusals[0]
    right = accept_rewrite(original, [("planted", rewrite), ("identity", lambda m: m)], check)
    assert right.name == "identity" and len(right.refusals) == 1


def test_wrong_simplifier_falls_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(simplify.SIMPLIFIERS, "onnxsim", scaled_weight(1.01))
    model, inputs = small(), (torch.rand(1, 3, 8, 8),)
    report = onnx_from_module(model, inputs, tmp_path / "m.onnx")
    assert report.simplifier == "onnxslim" and report.refusals[0].startswith("onnxsim rejected: output")
    monkeypatch.setitem(simplify.SIMPLIFIERS, "onnxslim", failing)
    report = onnx_from_module(model, inputs, tmp_path / "m.onnx")
    assert report.simplifier == "none" and len(report.refusals) == 2 and report.nodes_after == report.nodes_before
    assert report.max_relative_error <= 1e-5
    with pytest.raises(UserError, match="no ONNX simplifier called 'magic'; known: onnxsim, onnxslim"):
        onnx_from_module(model, inputs, tmp_path / "m.onnx", ExportOptions(simplifiers=("magic",)))


@pytest.fixture(scope="module")
def end_to_end(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path, Any]:
    model, path = small(EndToEnd), tmp_path_factory.mktemp("topk") / "topk.onnx"
    return model, path, onnx_from_module(model, (torch.rand(2, 3, 16, 16),), path)


def test_near_ties_are_reordered_and_still_equal(end_to_end: tuple[nn.Module, Path, Any]) -> None:
    model, path, report = end_to_end
    assert report.reordered > 0, "the scores should tie in float32, or this test shows nothing"
    assert report.max_relative_error <= 1e-5
    assert report.selection_error <= 1e-3, "the scores are 1e-4, and a sigmoid is exact to 1e-7"
    image = torch.rand(2, 3, 16, 16)
    plain = max_relative_error([model(image)], run_onnx(load_onnx(path), [image.numpy()]))
    assert plain > 1e-2, "compared row by row without the common selection they differ"


def test_outputs_without_signal_are_reported(end_to_end: tuple[nn.Module, Path, Any], tmp_path: Path) -> None:
    """A model that ignores its input agrees with anything; ties that merely reshuffle are no signal either."""
    assert end_to_end[2].warnings == (), "the boxes follow the input"

    class Untrained(EndToEnd):
        def forward(self, image: Tensor) -> dict[str, Tensor]:
            scores = torch.sigmoid(self.conv(image).sum(1).flatten(1) * 1e-7 - 9)
            grid = torch.arange(256.0).expand(image.shape[0], -1)
            return {"faint": grid.gather(1, scores.topk(20, dim=1).indices), "loud": image + 1}

    report = onnx_from_module(small(Untrained), (torch.rand(1, 3, 16, 16),), tmp_path / "u.onnx")
    assert len(report.warnings) == 1 and "the outputs faint hardly change with the input" in report.warnings[0]


def edit_selection(kind: str) -> Any:
    """Return a rewrite that breaks a network with a top-k: before it, in it or after it."""

    def rewrite(model: onnx.ModelProto) -> onnx.ModelProto:
        graph = model.graph
        topk = next(n for n in graph.node if n.op_type == "TopK")
        if kind == "smallest":
            kept = [a for a in topk.attribute if a.name != "largest"]
            del topk.attribute[:]
            topk.attribute.extend([*kept, onnx.helper.make_attribute("largest", 0)])
        elif kind == "constant":
            graph.initializer.append(numpy_helper.from_array(np.zeros((), np.int64), "zero"))
            place = list(graph.node).index(topk) + 1
            graph.node.insert(place, onnx.helper.make_node("Mul", [topk.output[1], "zero"], ["same_index"]))
            for node in graph.node[place + 1 :]:
                node.input[:] = ["same_index" if i == topk.output[1] else i for i in node.input]
        else:
            return scaled_weight(1.001)(model)
        return model

    return rewrite


@pytest.mark.parametrize(("kind", "spread"), [("smallest", 1.0), ("constant", 1e-7), ("weights", 1e-7)])
def test_planted_errors_around_a_top_k_are_found(tmp_path: Path, kind: str, spread: float) -> None:
    class Spread(EndToEnd):
        def forward(self, image: Tensor) -> Tensor:
            rows = self.conv(image).flatten(2).transpose(1, 2)
            scores = torch.sigmoid(rows.square().sum(2) * spread)
            best, index = scores.topk(20, dim=1)
            return rows.gather(1, index.unsqueeze(2).expand(-1, -1, 6)) + best.unsqueeze(2)

    model, inputs, path = small(Spread), (torch.rand(1, 3, 16, 16),), tmp_path / "t.onnx"
    onnx_from_module(model, inputs, path)
    accepted = accept_rewrite(
        load_onnx(path), [("planted", edit_selection(kind))], ParityCheck(model, [Trial("it", inputs)])
    )
    assert accepted.name == "none" and "planted rejected" in accepted.refusals[0], accepted.refusals


def test_forced_selection_is_judged() -> None:
    scores = torch.tensor([[0.9, 0.5, 0.7, 0.7 - 1e-7]])
    near, far = 1e-7 / 0.9, 0.2 / 0.9
    impossible = (np.inf, 0)
    cases = {(0, 2): (0.0, 0), (0, 3): (near, 1), (2, 0): (far, 2), (0, 1): (far, 1)}
    cases |= {(0, 0): impossible, (0, 9): impossible}
    for chosen, (error, reordered) in cases.items():
        with Forced([np.array([chosen])]) as forced:
            values, indices = scores.topk(2)
        assert forced.complete and error * 0.5 <= forced.error <= error * 1.5, (chosen, forced.error)
        if np.isfinite(error):
            assert indices.tolist() == [list(chosen)] and values.tolist() == scores[0, list(chosen)][None].tolist()
            assert forced.reordered == reordered
    with Forced([]) as forced:
        scores.topk(2)
    assert not forced.complete
    with Forced([np.zeros((1, 3), np.int64)]) as forced:
        assert scores.topk(2).indices.tolist() == [[0, 2]]
    assert not forced.complete


def test_index_outputs_are_exposed_once(end_to_end: tuple[nn.Module, Path, Any]) -> None:
    again, count = with_index_outputs(with_index_outputs(load_onnx(end_to_end[1]))[0])
    assert count == 2
    outputs = run_onnx(again, [np.random.default_rng(0).random((2, 3, 16, 16), dtype=np.float32)])
    assert len(outputs) == 5 and all(np.array_equal(outputs[i], outputs[i + 2]) for i in (1, 2))


def test_relative_error() -> None:
    b = torch.tensor([1.0, -4.0, 2.0])
    assert relative_error(b, np.array([1.0, -4.4, 2.0])) == pytest.approx(0.1, rel=1e-6)
    assert relative_error(b, b.numpy()) == 0
    assert relative_error(b, np.zeros((1, 3))) == np.inf
    assert relative_error(torch.tensor([1, 2]), np.array([1, 2])) == 0
    assert relative_error(torch.tensor([1, 2]), np.array([1, 3])) == np.inf
    assert relative_error(torch.tensor([True]), np.array([False])) == np.inf
    assert relative_error(b, np.array([1.0, np.nan, 2.0])) == np.inf
    assert relative_error(torch.tensor([np.nan, np.inf, 2.0]), np.array([np.nan, np.inf, 2.0])) == 0
    assert relative_error(torch.tensor([np.inf, 2.0]), np.array([-np.inf, 2.0])) == np.inf
    assert relative_error(torch.zeros(3), np.full(3, 1e-9)) == pytest.approx(1e-3)
    assert max_relative_error([b, b], [b.numpy()]) == np.inf


def test_small_slices_of_a_detection_are_not_hidden_by_pixels() -> None:
    reference = torch.rand(1, 6, 50)
    reference[:, :4] *= 640
    candidate = reference.numpy().copy()
    candidate[:, 4] += 0.02
    assert abs(candidate - reference.numpy()).max() / 640 < 1e-4, "over the whole tensor this passes"
    assert relative_error(reference, candidate) > 1e-3


def test_inputs_are_realistic() -> None:
    generator = np.random.default_rng(0)
    image = image_like((1, 3, 64, 64), generator, -2, 3)
    assert image.dtype == np.float32 and image.min() == -2 and image.max() == 3 and image.std() > 0.3
    step = abs(np.diff(image, axis=-1)).mean()
    apart = abs(image[..., 32:] - image[..., :32]).mean()
    assert step < apart * 0.8, "neighbouring pixels should be more alike than distant ones"
    like = random_like(torch.zeros(2, 3, 8, 8), generator, batch=3)
    assert like.shape == (3, 3, 8, 8) and like.max() == 1, "an example of zeros must not give zeros"
    assert set(random_like(torch.tensor([2, 7, 5]), generator).tolist()) <= set(range(2, 8))
    assert all(random_array((4, 4), kind, generator).dtype == kind for kind in (np.uint8, np.float16))


def test_names() -> None:
    x = torch.zeros(1)
    assert output_names(x) == ["output_0"]
    nested = output_names([x, {"boxes": x, "feats": [x, x]}])
    assert nested == ["output_0", "output_1.boxes", "output_1.feats.0", "output_1.feats.1"]
    assert output_names({"image": x, "a b": x}, taken=["image"]) == ["image_1", "a_b"]

    class Nested(nn.Module):
        def forward(self, pair: tuple[Tensor, Tensor], *rest: Tensor) -> Tensor:
            return pair[0]

    assert input_names(Nested(), ((x, x), x)) == ["pair.0", "pair.1", "input_1"]


def test_files(tmp_path: Path) -> None:
    (tmp_path / "empty.onnx").touch()
    (tmp_path / "bad.onnx").write_bytes(b"garbage" * 20)
    for name, message in (
        ("missing", r"Cannot read the ONNX file .*missing\.onnx"),
        ("empty", r"is empty \(0 bytes\)"),
        ("bad", r"is not an ONNX model, or is damaged .* export the model again"),
    ):
        with pytest.raises(UserError, match=message):
            load_onnx(tmp_path / f"{name}.onnx")
    target = tmp_path / "new" / "file"
    write_atomically(target, b"one")
    write_atomically(target, b"two")
    assert target.read_bytes() == b"two" and [p.name for p in target.parent.iterdir()] == ["file"]
    with pytest.raises(UserError, match="Cannot write"):
        write_atomically(target / "below" / "file", b"")
    target.unlink()
    target.mkdir()
    with pytest.raises(UserError, match="Cannot write 'file'"):
        write_atomically(target, b"cannot replace a folder")
    assert [p.name for p in target.parent.iterdir()] == ["file"], "a temporary file was left behind"


class Amplifier(nn.Module):
    """Adds and subtracts a large number, so that float32 rounding is above the tolerance."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x).sigmoid().add(4e3).sub(4e3)


def test_rounding_that_the_network_amplifies_is_no_difference_and_more_is(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module, inputs = Amplifier().eval(), (torch.rand(1, 3, 32, 32),)
    report = onnx_from_module(module, inputs, tmp_path / "m.onnx")
    assert report.max_relative_error > 1e-4 and "rounding is large against some outputs" in report.warnings[0]
    check = ParityCheck(module, [Trial("the example", inputs), *extremes(inputs)])
    found = check(load_onnx(tmp_path / "m.onnx"))
    assert not found.refused and "output_0 at" in found.allowed[0]
    assert "more than 4 times what rounding" in check(scaled_weight(1.02)(load_onnx(tmp_path / "m.onnx"))).refused
