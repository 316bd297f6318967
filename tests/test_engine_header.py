"""The header that makes an engine one of Ultralytics': its bytes, who skips it, and what the engine is built from."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest
import torch
from onnx import TensorProto, helper

from channelcut.adapters import adapter_of
from channelcut.building import engine_notes
from channelcut.compress import engines
from channelcut.core.deployed import Deploy, Deployed
from channelcut.engine import tensorrt_runner
from channelcut.engine.header import header, header_from_onnx, parted
from channelcut.engine.protocol import EngineReport
from channelcut.engine.tensorrt_common import engine_bytes
from channelcut.options import CompressOptions, PruneOptions

ENGINE = b"ftrt\x00\x01 an engine"
METADATA = {"task": "detect", "names": {"0": "a", "1": "b"}, "stride": 8, "imgsz": [64, 64], "version": "8.5"}


def file_with(path: Path, **said: Any) -> Path:
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
    )
    model = helper.make_model(graph)
    helper.set_model_props(model, {key: str(value) for key, value in said.items()})
    onnx.save(model, str(path))
    return path


def test_the_header_is_four_bytes_of_length_and_json(tmp_path: Path) -> None:
    said = {**METADATA, "names": {0: "a", 1: "b"}, "channelcut.plan": "sha256"}
    found = header_from_onnx(file_with(tmp_path / "m.onnx", **said))
    assert int.from_bytes(found[:4], "little") == len(found) - 4 and json.loads(found[4:]) == METADATA
    assert header_from_onnx(file_with(tmp_path / "n.onnx", task="detect")) == b""


def test_their_reader_finds_it_and_ours_skips_it(tmp_path: Path) -> None:
    path = tmp_path / "m.engine"
    path.write_bytes(header(METADATA) + ENGINE)
    assert parted(path.read_bytes()) == (METADATA, ENGINE) and engine_bytes(path) == ENGINE
    base = pytest.importorskip("ultralytics.nn.backends.base").BaseBackend
    offset, metadata = base.engine_header(path)
    assert path.read_bytes()[offset:] == ENGINE and metadata == METADATA


@pytest.mark.parametrize(
    "data", [ENGINE, b"\x02\x00", b"\x00\x00\x00\x00{}", b"\x02\x00\x00\x00[]x", b"\x02\x00\x00\x00{!"]
)
def test_what_has_no_header_is_taken_whole(data: bytes) -> None:
    assert parted(data) == ({}, data)


def test_the_runner_gives_the_library_the_engine_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "m.engine").write_bytes(header(METADATA) + ENGINE)
    given: list[bytes] = []
    memory = SimpleNamespace(used_mib=lambda: 0.0)
    monkeypatch.setattr(tensorrt_runner, "cuda_problem", lambda: None)
    monkeypatch.setattr(tensorrt_runner, "gpu_memory", lambda _: memory)
    monkeypatch.setattr(tensorrt_runner, "TensorRTRunner", lambda *_: SimpleNamespace(peak_mib=None))
    runtime = SimpleNamespace(deserialize_cuda_engine=lambda data: given.append(data) or "engine")
    session: Any = SimpleNamespace(api=SimpleNamespace(Runtime=lambda _: runtime), logger=None, alive=[])
    tensorrt_runner.runner_from_engine(session, tmp_path / "m.engine")
    assert given == [ENGINE]


def test_rtx_engines_are_said_to_be_none_of_theirs() -> None:
    of_theirs = Deployed(torch.nn.Identity(), (), words={"library": "Ultralytics 8.4"})
    assert "Ultralytics' YOLO(...)" in engine_notes(of_theirs, "tensorrt_rtx", ("sm89",))[0]
    assert engine_notes(of_theirs, "tensorrt", ("sm89",)) == engine_notes(of_theirs, "tensorrt_rtx", ()) == []
    assert engine_notes(Deployed(torch.nn.Identity(), ()), "tensorrt_rtx", ("sm89",)) == []


@pytest.mark.parametrize("nms", [None, False])
def test_an_engine_is_built_from_the_head_that_they_build_it_from(
    nms: bool | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = pytest.importorskip("ultralytics.nn.tasks")
    from ultralytics_life import TINY

    from channelcut.adapters.ultralytics.deployed import prepared

    model, x = tasks.DetectionModel(TINY, verbose=False).eval(), torch.rand(1, 3, 64, 64)
    built: list[Path] = []

    def build(path: Path, engine: Path, *_: Any) -> EngineReport:
        built.append(path)
        engine.write_bytes(header_from_onnx(path) + ENGINE)
        return EngineReport(engine, "tensorrt", "sm89", 0.0, 0.0, "10")

    def written(form: Deployed, path: Path, *_: Any) -> None:
        formats.append(form.module.model[-1].format)  # type: ignore[index, union-attr]
        file_with(path, **form.metadata)

    formats: list[str] = []
    monkeypatch.setattr("channelcut.building.onnx_from_deployed", written)
    monkeypatch.setattr("channelcut.building.require", lambda _: SimpleNamespace(build=build))
    monkeypatch.setattr("channelcut.compress.plan_fingerprint", lambda _: "sha256")
    options = CompressOptions(PruneOptions(keep=0.5, deploy=Deploy(nms)), backend="tensorrt")
    begun: Any = SimpleNamespace(options=options, owner=adapter_of(model), example=x, images=None)
    watch: Any = SimpleNamespace(stage=lambda _: pytest.MonkeyPatch.context(), progress=lambda *_: None)
    file_with(tmp_path / "model.onnx", **METADATA)
    (found,) = engines(begun, SimpleNamespace(model=model), tmp_path, {}, watch)  # type: ignore[arg-type]
    assert found["path"] == "model.sm89.engine"
    assert [path.name for path in built] == ["model.onnx" if nms is None else "model.tensorrt.onnx"]
    if nms is False:
        metadata, engine = parted((tmp_path / "model.sm89.engine").read_bytes())
        theirs = json.loads(json.dumps(prepared(model, (1, 3, 64, 64), Deploy(nms), file="engine").metadata))
        assert engine == ENGINE and {**metadata, "date": ""} == {**theirs, "date": ""}
        assert formats == ["engine"], "the top-k of that head is over parts first"
