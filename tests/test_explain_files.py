"""What an ONNX file says of itself: where it came from, by which plan, in which precision."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from torch import nn

import channelcut
from channelcut.cli import main
from channelcut.sources import Source, open_source
from channelcut.sources.provenance import provenance, weights_digest

NET = (
    "from torch import nn\ndef make():\n    return nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3))\n"
)


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("explain")
    (folder / "net.py").write_text(NET)
    command = ["compress", f"{folder / 'net.py'}:make", "--input", "1x3x16x16", "--keep", "0.5", "--precision", "fp16"]
    assert main([*command, "--out", str(folder / "out"), "--no-engine", "--no-bench", "--quiet"]) == 0
    return folder / "out"


def test_a_result_names_its_source_plan_and_precision(result: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checksum = hashlib.sha256(NET.encode()).hexdigest()[:16]
    plan = hashlib.sha256((result / "plan.json").read_bytes()).hexdigest()[:16]
    assert main(["explain", str(result)]) == 0
    text = capsys.readouterr().out
    assert f"made from: net.py:make sha256:{checksum}" in text and str(result.parent) not in text
    assert text.count(f"plan fingerprint: {plan} (that of plan.json)") == 2, "model.onnx and model.fp16.onnx"
    assert "precision: fp16" in text and "input input: float32 1×3×16×16" in text
    assert "nodes kept in float32: 0" in text
    assert main(["explain", str(result), "--json"]) == 0
    files = {f["file"]: f for f in json.loads(capsys.readouterr().out)["files"]}
    assert "plan" not in files["original.onnx"]["metadata"] and files["model.onnx"]["plan_matches"]
    assert {f["metadata"]["source_weights"] for f in files.values()} == {
        channelcut.onnx_metadata(result / "model.onnx")["source_weights"]
    }


def test_one_file_and_a_file_of_another_tool(result: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", str(result / "model.fp16.onnx")]) == 0
    assert "output error against float32" in capsys.readouterr().out
    import onnx

    model = onnx.load(str(result / "model.onnx"))
    del model.metadata_props[:]
    onnx.save(model, str(tmp_path / "bare.onnx"))
    assert main(["explain", str(tmp_path / "bare.onnx")]) == 0
    assert "has written nothing about itself" in capsys.readouterr().out
    assert main(["explain", str(result / "model.onnx"), "0.weight"]) == 2
    assert "knows nothing of groups" in capsys.readouterr().err
    assert main(["explain", str(tmp_path)]) == 2
    assert "no plan.json" in capsys.readouterr().err
    assert main(["explain", str(tmp_path / "none.onnx")]) == 2


def test_a_file_of_another_plan_is_found(result: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("plan.json", "model.onnx"):
        (tmp_path / name).write_bytes((result / name).read_bytes())
    (tmp_path / "plan.json").write_text((tmp_path / "plan.json").read_text() + "\n")
    assert main(["explain", str(tmp_path)]) == 1
    assert "NOT that of plan.json" in capsys.readouterr().out


def test_export_of_a_result_names_plan_and_original(result: Path, tmp_path: Path) -> None:
    assert main(["export", str(result), "--out", str(tmp_path / "again.onnx"), "--quiet"]) == 0
    said, before = channelcut.onnx_metadata(tmp_path / "again.onnx"), channelcut.onnx_metadata(result / "model.onnx")
    assert (said["plan"], said["source"]) == (before["plan"], before["source"])


def test_provenance_of_every_kind_of_source(tmp_path: Path) -> None:
    torch.manual_seed(0)
    weights = tmp_path / "w.safetensors"
    weights.write_bytes(b"weights")
    checksum = hashlib.sha256(b"weights").hexdigest()[:16]
    make = lambda: nn.Linear(1, 1)  # noqa: E731
    assert provenance(Source("package.module:make", make))["source"] == "package.module:make"
    assert provenance(Source("a.b:make", make, (), "w.safetensors", weights))["source"] == (
        f"a.b:make, weights w.safetensors sha256:{checksum}"
    )
    said = provenance(Source("timm:resnet18", make))["source"]
    assert said.startswith("timm:resnet18 (timm ") and "sha256" not in said
    onnx = tmp_path / "some" / "model.onnx"
    onnx.parent.mkdir()
    onnx.write_bytes(b"weights")
    assert provenance(Source(str(onnx), make))["source"] == f"model.onnx sha256:{checksum}"
    assert open_source("torch.nn:Identity", None).weights_file is None
    one, other = nn.Linear(2, 2), nn.Linear(2, 2)
    assert weights_digest(one) != weights_digest(other)
    other.load_state_dict(one.state_dict())
    assert weights_digest(one) == weights_digest(other)
    assert weights_digest(one.bfloat16()) != weights_digest(other)
