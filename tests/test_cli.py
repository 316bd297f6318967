"""The command line as a user meets it, and the saved result that it leaves."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image

import channelcut as cc
from channelcut.cli import main
from channelcut.compress import compress
from channelcut.options import CompressOptions, PruneOptions
from channelcut.sources import Source

HERE = Path(__file__).parent
MODEL = f"{HERE / 'networks.py'}:residual"


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    generator = np.random.default_rng(0)
    (folder / "images").mkdir()
    for i in range(20):
        Image.fromarray(generator.integers(0, 255, (24, 32, 3), dtype=np.uint8)).save(folder / "images" / f"{i}.png")
    argv = [
        "compress",
        MODEL,
        "--input",
        "1x3x16x16",
        "--macs",
        "0.6",
        "--align",
        "4",
        "--data",
        str(folder / "images"),
    ]
    assert main([*argv, "--capability", "sm86,sm89", "--out", str(folder / "out"), "--quiet"]) == 0
    return folder / "out"


def test_everything_is_left(result: Path) -> None:
    expected = [
        "model.onnx",
        "model.safetensors",
        "model.sm86.engine",
        "model.sm89.engine",
        "original.onnx",
        "plan.json",
    ]
    assert sorted(p.name for p in result.iterdir()) == [*expected, "report.html", "report.json"]
    assert [p.name for p in result.parent.iterdir() if p.name.startswith(".")] == []


def test_the_report_holds_the_run(result: Path) -> None:
    report = json.loads((result / "report.json").read_text())
    assert report["cost"]["after"]["macs"] <= 0.6 * report["cost"]["before"]["macs"]
    assert report["proof"]["passed"]
    assert report["compensation"]["images"] == 20
    assert report["onnx"]["pruned"]["max_relative_error"] <= 1e-4
    assert {"sample 1", "sample 2"} <= set(report["onnx"]["pruned"]["compared_on"]), "real images"
    assert [e["capability"] for e in report["engines"]] == ["sm86", "sm89"]
    assert len(report["measurement"]["baseline"]["samples_ms"]) > 5
    assert report["layers"][0] == {"name": "stem.0", "before": [16, 3], "after": [report["layers"][0]["after"][0], 3]}
    text = json.dumps(report)
    assert str(result.parent) not in text


def test_the_saved_model_is_the_exported_one(result: Path) -> None:
    import networks

    model = cc.load(networks.residual, result)
    x = torch.rand(1, 3, 16, 16)
    session = onnxruntime.InferenceSession(result / "model.onnx")
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    with torch.no_grad():
        assert np.allclose(found, model(x).numpy(), rtol=1e-4, atol=1e-5)


def test_a_result_folder_is_a_model(result: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["analyze", str(result), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["totals"]["removable_channels"] < 40
    assert main(["export", str(result), "--out", str(tmp_path / "m.onnx"), "--dynamic-batch"]) == 0
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
    assert session.run(None, {session.get_inputs()[0].name: np.zeros((5, 3, 16, 16), np.float32)})[0].shape == (5, 4)
    assert main(["export", str(result), "--out", str(tmp_path / "m.onnx")]) == 2
    assert (
        main(
            ["build", str(result / "model.onnx"), "--capability", "sm89", "--out", str(tmp_path / "e.engine"), "--json"]
        )
        == 0
    )
    assert (tmp_path / "e.engine").stat().st_size > 1000


def test_explain(result: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", str(result), "a.0.weight"]) == 0
    text = capsys.readouterr().out
    assert "a.0.weight, axis 0: 24 output channels" in text
    assert "24 of them may go: group 1 (a.0.weight), 24 channels, of which" in text
    assert "removed together with channels of a.1.bias" in text
    assert "3 must stay" not in text
    assert main(["explain", str(result), "stem.0.weight"]) == 0
    assert "3 must stay: they are no channels of a layer (the network's input" in capsys.readouterr().out
    assert main(["explain", str(result), "head"]) == 0
    assert "4 must stay: network output, at aten.addmm in head" in capsys.readouterr().out
    assert main(["explain", str(result), "a"]) == 0  # a module with layers inside
    assert "a.0.weight, axis 0: 24 output channels" in capsys.readouterr().out
    assert main(["explain", str(result), "heat"]) == 2
    assert "Did you mean head" in capsys.readouterr().err


def test_bench_and_report_again(result: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", str(result), "--json", "--time-limit", "3"]) == 0
    assert json.loads(capsys.readouterr().out)["ratio"] > 0
    (result / "report.html").unlink()
    assert main(["report", str(result)]) == 0
    assert "report.html" in capsys.readouterr().out
    assert (result / "report.html").exists()


def test_analyze_prints_groups_and_pins(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["analyze", MODEL, "--input", "1x3x16x16"]) == 0
    text = capsys.readouterr().out
    assert (
        "2 groups with 40 removable channels. With every group at its least width (--align 8, --min-keep 0.1," in text
    )
    assert "network output" in text


def test_help_needs_no_torch_and_answers_at_once() -> None:
    code = "import sys; sys.modules['torch'] = None; from channelcut.cli import main; main(['compress', '--help'])"
    start = time.perf_counter()
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert "--macs" in run.stdout
    assert time.perf_counter() - start < 10


def test_import_needs_no_extra() -> None:
    extras = ("tensorrt", "tensorrt_rtx", "pycuda", "ultralytics", "timm", "torchvision", "transformers", "cuda")
    code = f"import sys; sys.modules.update(dict.fromkeys({extras})); import channelcut as cc; cc.prune; cc.analyze"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_missing_extra_names_the_pip_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    assert main(["analyze", "timm:resnet18"]) == 2
    assert "pip install 'channelcut[zoo]'" in capsys.readouterr().err


def test_fine_tuned_weights_of_a_result_are_exported(result: Path, tmp_path: Path) -> None:
    import networks

    tuned = cc.load(networks.residual, result)
    with torch.no_grad():
        tuned.head.bias += 1.0
    torch.save(tuned.state_dict(), tmp_path / "tuned.pt")
    outputs = []
    for name, more in (("plain", []), ("tuned", ["--weights", str(tmp_path / "tuned.pt")])):
        assert main(["export", str(result), "--out", str(tmp_path / f"{name}.onnx"), "--quiet", *more]) == 0
        session = onnxruntime.InferenceSession(tmp_path / f"{name}.onnx")
        outputs.append(session.run(None, {session.get_inputs()[0].name: np.zeros((1, 3, 16, 16), np.float32)})[0])
    assert np.allclose(outputs[1] - outputs[0], 1.0, atol=1e-5)


def test_the_library_draws_from_a_generator_of_its_own(tmp_path: Path) -> None:
    import networks

    net = networks.residual()
    torch.manual_seed(7)
    state = torch.random.get_rng_state()
    options = CompressOptions(PruneOptions(keep=0.5), capabilities=(), measure=False)
    compress(Source("networks:residual", lambda: (net, networks.example())), tmp_path / "out", options)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_the_package_is_a_command() -> None:
    for arguments, status in ((["--version"], 0), (["compress"], 2)):
        done = subprocess.run(
            [sys.executable, "-m", "channelcut", *arguments], check=False, capture_output=True, text=True
        )
        assert done.returncode == status
        assert "Traceback" not in done.stderr
        assert "channelcut" in (done.stdout if not status else done.stderr)
