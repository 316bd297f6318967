"""Weights above protobuf's limit, the limit lowered: two files, written whole, read by everything that reads ONNX."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import channelcut
from channelcut.cli import main
from channelcut.core import files as core_files
from channelcut.core.errors import UserError
from channelcut.engine.protocol import EngineOptions
from channelcut.engine.registry import require
from channelcut.onnx_out import files
from channelcut.onnx_out.files import copy_onnx, file_bytes, is_split, load_onnx, save_onnx, weight_bytes
from channelcut.onnx_out.module import onnx_from_module
from channelcut.onnx_out.parity import run_onnx
from channelcut.precision.convert import convert_precision

torch.set_num_threads(1)
IMAGE = np.random.default_rng(0).random((1, 3, 32, 32), dtype=np.float32)
NET = (
    "import torch\nfrom torch import nn\ndef make():\n    torch.manual_seed(0)\n"
    "    return nn.Sequential(nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 16, 3)).eval()\n"
)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 16, 3)).eval()


@pytest.fixture
def lowered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "EXTERNAL_ABOVE", 4096)


@pytest.fixture
def split(tmp_path: Path, lowered: None) -> Path:
    path = tmp_path / "big" / "model.onnx"
    report = onnx_from_module(network(), (torch.from_numpy(IMAGE),), path)
    assert report.simplifier == "none" and "onnxsim not tried: the weights exceed" in report.refusals[0]
    assert report.max_relative_error < 1e-5
    assert report.size_bytes == file_bytes(path) > path.stat().st_size
    return path


def expected() -> np.ndarray[Any, Any]:
    with torch.no_grad():
        result: np.ndarray[Any, Any] = network()(torch.from_numpy(IMAGE)).numpy()
    return result


def test_two_files_are_written_and_read(split: Path) -> None:
    assert sorted(p.name for p in split.parent.iterdir()) == ["model.onnx", "model.onnx.data"]
    lean = load_onnx(split, weights=False)
    assert weight_bytes(lean) < 4096 < weight_bytes(load_onnx(split))
    assert onnx.load(str(split)).graph.initializer[0].raw_data, "onnx's own reader finds the data"
    (output,) = run_onnx(load_onnx(split), [IMAGE])
    assert np.allclose(output, expected(), atol=1e-5)
    assert channelcut.onnx_metadata(split)["precision"] == "fp32"
    module = channelcut.from_onnx(split)
    assert np.allclose(module(torch.from_numpy(IMAGE)).detach().numpy(), expected(), atol=1e-5)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino", "torch_cuda"])
def test_engines_on_the_cpu(split: Path, tmp_path: Path, backend: str) -> None:
    if backend == "openvino":
        pytest.importorskip("openvino")
    engine = tmp_path / "elsewhere" / "m.engine"
    report = require(backend).build(split, engine)
    assert report.size_mib == pytest.approx(file_bytes(engine) / 2**20)
    for path in split.parent.iterdir():
        path.unlink()
    if backend == "torch_cuda":
        assert np.allclose(channelcut.from_onnx(engine)(torch.from_numpy(IMAGE)).detach(), expected(), atol=1e-5)
        return
    runner: Any = require(backend).load(engine)
    (output,) = runner({next(iter(runner.inputs)): IMAGE}).values()
    assert np.allclose(output, expected(), atol=1e-5)


def test_tensorrt_rtx_builds_the_same_engine(split: Path, tmp_path: Path) -> None:
    rtx = pytest.importorskip("channelcut.engine.tensorrt_rtx")
    pytest.importorskip("tensorrt_rtx")
    save_onnx(load_onnx(split), split)
    one = tmp_path / "one.onnx"
    onnx.save(load_onnx(split), str(one))
    sizes = [rtx.build(p, tmp_path / "e", EngineOptions(capability="sm89")).size_mib for p in (split, one)]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.02)
    (split.parent / "model.onnx.data").unlink()
    with pytest.raises(UserError, match=r"keeps weights in 'model\.onnx\.data', which is not beside it"):
        rtx.build(split, tmp_path / "f", EngineOptions(capability="sm89"))


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_converted_in_two_files_too(split: Path, tmp_path: Path, precision: str, monkeypatch: Any) -> None:
    monkeypatch.setattr(files, "EXTERNAL_ABOVE", 2048)
    images = np.random.default_rng(1).random((8, 3, 32, 32), dtype=np.float32)
    out = tmp_path / "low.onnx"
    report = convert_precision(split, out, precision, images)
    assert is_split(out) and report.size_bytes == file_bytes(out)
    (output,) = run_onnx(load_onnx(out), [images[:1]])
    with torch.no_grad():
        wanted = network()(torch.from_numpy(images[:1])).numpy()
    assert np.linalg.norm(output - wanted) < 0.1 * np.linalg.norm(wanted)


def test_the_whole_path_through_the_commands(tmp_path: Path, lowered: None, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "net.py").write_text(NET)
    out = tmp_path / "out"
    command = ["compress", f"{tmp_path / 'net.py'}:make", "--input", "1x3x32x32", "--keep", "0.75", "--align", "1"]
    assert main([*command, "--out", str(out), "--no-engine", "--json"]) == 0
    assert {"original.onnx.data", "model.onnx.data"} <= {p.name for p in out.iterdir()}
    capsys.readouterr()
    assert main(["verify", str(out), "--images", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["first_broken"] is None
    assert main(["profile", str(out), "--runs", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["layers"]
    assert main(["bench", str(out), "--time-limit", "0.2", "--warm-up", "0.01", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["details"]
    assert found["file_bytes"]["candidate"] == file_bytes(out / "model.onnx")
    assert found["memory"]["candidate"], "the process that measures memory reads both files"


def test_a_small_file_takes_the_place_of_a_split_one_and_its_data_goes(split: Path, monkeypatch: Any) -> None:
    model = load_onnx(split)
    monkeypatch.setattr(files, "EXTERNAL_ABOVE", 2**31)
    save_onnx(model, split)
    assert [p.name for p in split.parent.iterdir()] == ["model.onnx"]
    stranger = split.parent / "other.onnx.data"
    stranger.write_bytes(b"someone else's")
    save_onnx(model, split.parent / "other.onnx")
    assert stranger.read_bytes() == b"someone else's", "only data that the replaced model named may go"


def test_nothing_half_written_is_ever_readable(split: Path, monkeypatch: Any) -> None:
    """At every replacement of a file, what is under the model's name is a whole model or nothing."""
    model, seen = load_onnx(split), []
    other = load_onnx(split)
    for tensor in other.graph.initializer:
        tensor.raw_data = np.full(len(tensor.raw_data) // 4, 7, np.float32).tobytes()
    replace = Path.replace

    def watched(self: Path, target: Any) -> Path:
        result = replace(self, target)
        whole = None
        if split.exists():
            whole = load_onnx(split).graph.initializer[0].raw_data
        seen.append((Path(target).name, whole))
        return result

    monkeypatch.setattr(Path, "replace", watched)
    save_onnx(other, split)
    assert [name for name, _ in seen] == ["model.onnx.data", "model.onnx"]
    assert seen[0][1] is None and seen[1][1] == other.graph.initializer[0].raw_data
    assert weight_bytes(other) == weight_bytes(model), "the model in memory has its weights back"


@pytest.mark.parametrize("at", ["data", "model"])
def test_a_full_disk_leaves_the_old_pair(split: Path, monkeypatch: Any, at: str) -> None:
    model, before = load_onnx(split), {p.name: p.read_bytes() for p in split.parent.iterdir()}
    if at == "data":
        monkeypatch.setattr(files, "_point", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    else:
        monkeypatch.setattr(core_files.os, "fdopen", _failing_second(core_files.os.fdopen))
    with pytest.raises(UserError, match="Nothing half-written was left behind"):
        save_onnx(model, split)
    assert {p.name: p.read_bytes() for p in split.parent.iterdir()} == before
    assert weight_bytes(model) > 4096


def _failing_second(fdopen: Any) -> Any:
    opened = []

    def open_(*arguments: Any) -> Any:
        file = fdopen(*arguments)
        opened.append(file)
        if len(opened) == 1:  # the graph's file is opened first and written last
            file.close()

            class Closed:
                def __enter__(self) -> Any:
                    return self

                def __exit__(self, *_: object) -> None: ...

                def write(self, _data: bytes) -> int:
                    return 0

                def flush(self) -> None:
                    raise OSError(28, "No space left on device")

            return Closed()
        return file

    return open_


def test_damaged_pairs_are_named(split: Path, tmp_path: Path) -> None:
    data = split.parent / "model.onnx.data"
    data.write_bytes(data.read_bytes()[:-10])
    for read in (load_onnx, channelcut.onnx_metadata, lambda p: require("onnxruntime").load(p)):
        with pytest.raises(UserError, match=r"'model\.onnx\.data'.*the copy is incomplete"):
            read(split)
    with pytest.raises(UserError, match="the copy is incomplete"):
        copy_onnx(split, tmp_path / "copy.onnx")
    assert not (tmp_path / "copy.onnx").exists()
