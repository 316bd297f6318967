"""Bad input gets one clear paragraph, exit status 2 and no traceback; nothing is lost and nothing is half-written."""

from __future__ import annotations

import errno
import os
import pickle
import signal
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from networks import build, example
from torch import Tensor, nn

import channelcut as cc
from channelcut import cli
from channelcut.cli import main
from channelcut.sources import open_source
from channelcut.tracing import trace

HERE = Path(__file__).parent
MODEL = f"{HERE / 'networks.py'}:residual"
SMALL = ["--input", "2x3x16x16", "--quiet", "--no-bench", "--no-engine", "--align", "1"]


def fails(capsys: pytest.CaptureFixture[str], *argv: str | Path) -> str:
    """The one paragraph that a command leaves on standard error when it exits with status 2."""
    assert main([str(a) for a in argv]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Traceback" not in captured.err
    paragraphs = [line for line in captured.err.splitlines() if line.startswith("channelcut: ")]
    assert len(paragraphs) == 1
    return paragraphs[0]


class Raises(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        raise KeyError("no such feature")


def test_a_forward_that_raises() -> None:
    with pytest.raises(
        cc.UserError, match=r"own forward fails on the example inputs \(2x3x16x16 float32\): KeyError: 'no such"
    ) as e:
        cc.prune(Raises(), example(), keep=0.5)
    assert "test_errors.py:" in str(e.value)


@pytest.mark.parametrize(
    ("inputs", "text"),
    [
        (torch.rand(2, 4, 16, 16), r"2x4x16x16 float32.*expected input.*3 channels"),
        (torch.randint(0, 9, (2, 3, 16, 16)), r"2x3x16x16 int64"),
        ("image.png", r"The example input x is a str. Expected a tensor, a tuple"),
    ],
)
def test_inputs_of_the_wrong_shape_or_type(inputs: object, text: str) -> None:
    with pytest.raises(cc.UserError, match=text):
        cc.prune(build("Chain"), inputs, keep=0.5)


def test_weights_that_are_not_finite() -> None:
    model = build("Chain")
    with torch.no_grad():
        model.b[0].weight[3, 2, 1, 1] = float("nan")
    with pytest.raises(cc.UserError, match=r"weights are not finite: b\.0\.weight holds NaN.*checkpoint from before"):
        cc.prune(model, example(), keep=0.5)


def test_a_model_with_no_removable_channel() -> None:
    with pytest.raises(cc.UserError, match=r"No channel of this model can be removed: .*: aten\.convolution"):
        cc.prune(nn.Conv2d(3, 4, 1), example(), keep=0.5)


def test_a_budget_that_cannot_be_met(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    text = fails(capsys, "compress", MODEL, *SMALL, "--params", "0.001", "--out", tmp_path / "out")
    assert "The nearest possible budget is params=0." in text
    assert list(tmp_path.iterdir()) == []


class Untraceable(nn.Module):
    """A branch on a value for torch.export, a refusal to be watched for the recorder."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        if torch._C._len_torch_dispatch_stack():
            raise RuntimeError("not while a dispatch mode is on")
        return y * 2 if y.sum() > 1e6 else y


def test_an_untraceable_model_names_op_and_line() -> None:
    with pytest.raises(
        cc.TraceError, match=r"no front end can follow it. recording its ops: RuntimeError: not.*torch\.export: Runtime"
    ):
        trace(Untraceable(), (example(),))


@pytest.mark.parametrize("bad", [{"std": (0.0,)}, {"mean": (1.0, 2.0)}, {"scale": float("nan")}, {"std": 0.0}])
def test_preprocessing_that_cannot_work(bad: dict[str, object]) -> None:
    with pytest.raises(cc.UserError, match="cannot prepare an image"):
        cc.Preprocessing(**bad)  # type: ignore[arg-type]


def test_calibration_that_does_not_fit_or_is_not_finite() -> None:
    with pytest.raises(cc.UserError, match=r"calibration inputs \(1x5x16x16\) do not run through"):
        cc.prune(build("Chain"), example(), keep=0.5, calibration=torch.rand(8, 5, 16, 16))
    asked = {"keep": 0.5, "importance": "l2", "calibration": torch.full((8, 3, 16, 16), float("nan"))}
    with pytest.raises(cc.UserError, match="calibration inputs hold NaN or infinity"):
        cc.prune(build("Chain"), example(), **asked)
    with pytest.raises(cc.UserError, match="is not finite: the calibration inputs hold NaN"):
        cc.prune(build("Chain"), example(), **asked, restore="recalibrate")


def test_a_wrapped_model() -> None:
    with pytest.raises(cc.UserError, match=r"wrapped in DataParallel. Pass the network itself: model.module"):
        cc.prune(nn.DataParallel(build("Chain")), example(), keep=0.5)


def test_a_forward_that_draws_random_numbers() -> None:
    class Noisy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x) * float(np.random.rand(1)[0]))

    with pytest.raises(cc.ProofError, match="draws random numbers"):
        cc.prune(Noisy(), example(), keep=0.5, probe=False)  # which would find it and pin


def test_a_folder_without_images(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "notes.txt").write_text("no image")
    text = fails(
        capsys, "compress", MODEL, *SMALL, "--keep", "0.5", "--data", tmp_path / "data", "--out", tmp_path / "out"
    )
    assert "No image was found in" in text
    assert "it holds none" in text
    (tmp_path / "data" / "a.png").write_bytes(b"not a png")
    text = fails(
        capsys, "compress", MODEL, *SMALL, "--keep", "0.5", "--data", tmp_path / "data", "--out", tmp_path / "out"
    )
    assert "1 files look like images, but none can be read" in text
    assert sorted(p.name for p in tmp_path.iterdir()) == ["data"]


def test_broken_images_are_skipped_without_running_pip(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ultralytics replaces PIL.Image.open by one that installs a package when it meets an unknown format."""

    def opened(*args: object, **kwargs: object) -> object:
        raise ModuleNotFoundError("No module named 'pi_heif'")

    (tmp_path / "a.png").write_bytes(b"not a png")
    monkeypatch.setattr("PIL.Image.open", lambda *_: pytest.fail("a file of no known format was handed on"))
    assert "1 files look like images, but none can be read" in fails(
        capsys, "compress", MODEL, *SMALL, "--keep", "0.5", "--data", tmp_path, "--out", tmp_path / "out"
    )
    (tmp_path / "a.png").write_bytes(b"\x89PNG, cut off")
    monkeypatch.setattr("PIL.Image.open", opened)
    assert "none can be read" in fails(
        capsys, "compress", MODEL, *SMALL, "--keep", "0.5", "--data", tmp_path, "--out", tmp_path / "out"
    )


def test_a_truncated_weights_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for name in ("weights.pt", "weights.safetensors"):
        path = tmp_path / name
        if name.endswith(".pt"):
            torch.save(build("Residual").state_dict(), path)
        else:
            cc.save(cc.prune(build("Residual"), example(), keep=1.0), tmp_path / "r")
            path.write_bytes((tmp_path / "r" / "model.safetensors").read_bytes())
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        text = fails(capsys, "analyze", MODEL, "--input", "2x3x16x16", "--weights", path)
        assert "it is truncated or no weights file" in text


def test_weights_of_another_model(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    torch.save(build("Chain").state_dict(), tmp_path / "w.pt")
    text = fails(capsys, "analyze", MODEL, "--input", "2x3x16x16", "--weights", tmp_path / "w.pt")
    assert "does not fit the model" in text


class Payload:
    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return os.mkdir, ("pwned",)


def test_a_pickle_from_somebody_else(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"model": Payload()}, tmp_path / "w.pt")
    text = fails(capsys, "analyze", MODEL, "--input", "2x3x16x16", "--weights", tmp_path / "w.pt")
    assert "runs whatever code its author put in. If you trust" in text
    assert "--trust" in text
    assert not (tmp_path / "pwned").exists()
    with pytest.raises(cc.UserError):
        open_source(MODEL, tmp_path / "w.pt", trust=True).build()
    assert (tmp_path / "pwned").exists()  # and so the refusal above was not for another reason


def test_an_existing_output_folder(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    run = ["compress", MODEL, *SMALL, "--keep", "0.5", "--out", str(out)]
    assert main(run) == 0
    before = (out / "plan.json").stat().st_mtime_ns
    assert "exists. Nothing was changed" in fails(capsys, *run)
    assert (out / "plan.json").stat().st_mtime_ns == before
    assert main([*run, "--force"]) == 0
    assert (out / "plan.json").stat().st_mtime_ns > before


def test_force_never_replaces_a_folder_of_something_else(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "one.jpg").write_bytes(b"x")
    text = fails(capsys, "compress", MODEL, *SMALL, "--keep", "0.5", "--out", tmp_path / "photos", "--force")
    assert "is no result of channelcut" in text
    assert (tmp_path / "photos" / "one.jpg").exists()


def test_a_full_disk(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.fdopen

    class Full:
        def __init__(self, handle: int) -> None:
            self.file = real(handle, "wb")

        def __enter__(self) -> Full:
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def write(self, data: bytes) -> None:
            self.file.write(data[:100])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("channelcut.core.files.os.fdopen", lambda handle, _: Full(handle))
    text = fails(capsys, "compress", MODEL, *SMALL, "--keep", "0.5", "--out", tmp_path / "out")
    assert "No space left on device" in text
    assert "Nothing half-written was left behind" in text
    assert list(tmp_path.iterdir()) == []


def hear() -> None:
    """A child of a job in the background would ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_ctrl_c_in_the_middle_leaves_nothing(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "channelcut.cli",
        "compress",
        MODEL,
        "--input",
        "2x3x16x16",
        "--keep",
        "0.5",
        "--align",
        "1",
    ]
    process = subprocess.Popen(
        [*command, "--out", str(tmp_path / "out")],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=hear,  # noqa: PLW1509  it only sets a signal
    )
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob(".out.*.part/model.onnx")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert process.poll() is None, "the run ended before it could be interrupted"
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert process.stderr is not None
    assert "interrupted; nothing half-written was left behind" in process.stderr.read()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["analyze", "resnet50"], "'resnet50' names no model."),
        (["analyze", "nowhere.py:build"], "There is no file nowhere.py"),
        (["analyze", "no.such.module:build"], "No module named 'no'"),
        (["analyze", f"{HERE / 'networks.py'}:nothing", "--input", "1x3x16x16"], "there is no function 'nothing'"),
        (
            ["analyze", f"{HERE / 'networks.py'}:example", "--input", "1x3x16x16"],
            "returns a Tensor. Expected a torch.nn.Module",
        ),
        (["analyze", MODEL], "The input shape of"),
        (["analyze", MODEL, "--input", "3by640"], "is no shape. Expected extents joined by x"),
        (["report", str(HERE)], "it has no report.json"),
        (["analyze", str(HERE)], "is a folder without plan.json"),
        (["bench", "a.onnx", "b.onnx"], "a.onnx"),
        (["build", "missing.onnx", "--out", "x.engine", "--capability", "sm89"], "missing.onnx"),
    ],
)
def test_wrong_names(capsys: pytest.CaptureFixture[str], argv: list[str], text: str) -> None:
    assert text in fails(capsys, *argv)


def test_damaged_results(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    result = cc.prune(build("Residual"), example(), keep=0.5)
    cc.save(result, tmp_path)
    with pytest.raises(cc.UserError, match="belongs to another architecture"):
        cc.load(lambda: build("Chain"), tmp_path)
    plan = (tmp_path / "plan.json").read_text()
    (tmp_path / "plan.json").write_text(plan[:-40])
    with pytest.raises(cc.UserError, match=r"plan\.json is damaged"):
        cc.load(lambda: build("Residual"), tmp_path)
    (tmp_path / "plan.json").write_text(plan)
    weights = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(weights[:-10])
    with pytest.raises(cc.UserError, match="damaged, cut short or replaced"):
        cc.load(lambda: build("Residual"), tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(cc.UserError, match=r"model\.safetensors cannot be read"):
        cc.load(lambda: build("Residual"), tmp_path)


def test_a_result_is_no_pickle(tmp_path: Path) -> None:
    cc.save(cc.prune(build("Chain"), example(), keep=0.5), tmp_path)
    for path in tmp_path.iterdir():
        with pytest.raises((pickle.UnpicklingError, KeyError, EOFError, ValueError, IndexError, AttributeError)):
            pickle.loads(path.read_bytes())


class Unseen(nn.Module):
    """What its long way computes never arrives."""

    def __init__(self) -> None:
        super().__init__()
        self.long, self.wide, self.short = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1), nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.short(x) + 0 * self.wide(self.long(x))


def test_outputs_that_do_not_depend_on_what_would_go() -> None:
    with pytest.raises(cc.UserError, match=r"do not depend on any channel .*\(long.weight\).* factor that is zero"):
        cc.prune(Unseen(), torch.rand(2, 3, 16, 16), keep=0.5)


@pytest.mark.parametrize("file", ["plan.json", "model.safetensors"])
def test_what_loads_is_what_was_saved(file: str, tmp_path: Path) -> None:
    """A changed digit or a flipped bit is refused; it does not load other weights."""
    cc.save(cc.prune(build("Chain"), example(), keep=0.5), tmp_path)
    content = bytearray((tmp_path / file).read_bytes())
    for place in range(len(content) - 9, 0, -len(content) // 20):
        damaged = content.copy()
        damaged[place] ^= 1
        (tmp_path / file).write_bytes(damaged)
        if file == "plan.json" and not chr(content[place]).strip():
            continue  # between two entries, where it says nothing
        with pytest.raises(cc.UserError):
            cc.load(lambda: build("Chain"), tmp_path)


@pytest.mark.parametrize(("asked", "on"), [({"recover": 3}, True), ({"epochs": 3}, True), ({"recover": 0}, False)])
def test_an_interrupted_training_is_said_to_go_on(
    asked: dict[str, int], on: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(_: Namespace) -> int:
        raise KeyboardInterrupt

    class Parser:
        def parse_args(self, _: object) -> Namespace:
            return Namespace(run=interrupted, **asked)

    monkeypatch.setattr(cli, "parser", Parser)
    assert cli.main([]) == 130
    assert ("the same command goes on with what was trained" in capsys.readouterr().err) == on
