"""The seam to CUDA, caches and the other backends. Stand-ins show control flow only: none of it is a GPU."""

from __future__ import annotations

import ctypes
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from channelcut.cli import main
from channelcut.core.errors import UserError
from channelcut.engine import memory, memory_bindings, onnxruntime, torch_cuda
from channelcut.engine.protocol import EngineOptions
from channelcut.engine.registry import require
from channelcut.engine.runtime_cache import check_validity
from channelcut.engine.tensorrt_common import open_session
from channelcut.engine.timing_cache import merge_into, read_cache, write_cache
from tests.test_engine import SM89, HostMemory, StandIn, convnet

IMAGE = {"image": np.random.default_rng(1).random((1, 3, 16, 16), dtype=np.float32)}


class FakeRuntime:
    """The functions of cuda.bindings.runtime that the seam calls, on host memory. `broken`: one that fails."""

    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)  # noqa: N815
    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)  # noqa: N815

    def __init__(self, broken: str = "") -> None:
        self.broken, self.log, self.kept = broken, [], {}

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> tuple[Any, ...]:
            self.log.append(name)
            if name == "cudaGetErrorString":
                return 0, b"out of memory"
            if name == self.broken:
                return (2, None)
            if name in {"cudaMalloc", "cudaMallocHost"}:
                block = (ctypes.c_uint8 * arguments[0])()
                self.kept[ctypes.addressof(block)] = block
                return 0, ctypes.addressof(block)
            if name == "cudaMemcpyAsync":
                ctypes.memmove(arguments[0], arguments[1], arguments[2])
            answers = {"cudaMemGetInfo": (2**20, 3 * 2**20), "cudaEventElapsedTime": (1.5,), "cudaStreamCreate": (7,)}
            makes = {"cudaStreamEndCapture", "cudaGraphInstantiate", "cudaEventCreate"}
            return (0, *answers.get(name, (9,) if name in makes else ()))

        return call


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> FakeRuntime:
    fake = FakeRuntime()
    monkeypatch.setattr(memory_bindings, "_runtime", lambda: fake)
    return fake


def test_bindings_move_data_record_graphs_and_time(runtime: FakeRuntime) -> None:
    seam: memory.Memory = memory_bindings.BindingsMemory()
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    buffer = seam.allocate(x.shape, x.dtype)
    seam.upload(buffer, x)
    first = seam.download(buffer)
    seam.upload(buffer, 2 * x)
    assert np.array_equal(first, x), "an output of an earlier run must not change"
    assert np.array_equal(seam.download(buffer), 2 * x)
    ran: list[int] = []
    launch = seam.capture(lambda: ran.append(1))
    launch()
    launch()
    assert ran == [1] and runtime.log.count("cudaGraphLaunch") == 2
    assert seam.elapsed_ms(launch) == 1.5 and seam.used_mib() == 2.0 and seam.stream == 7
    with pytest.raises(ZeroDivisionError):
        seam.capture(lambda: 1 // 0)  # type: ignore[arg-type, return-value]
    assert runtime.log[-1] == "cudaStreamEndCapture", "a failed capture is ended"


def test_a_failing_call_says_which_and_why(runtime: FakeRuntime) -> None:
    runtime.broken = "cudaMalloc"
    with pytest.raises(UserError, match=r"cudaMalloc failed: out of memory \(error 2\)"):
        memory_bindings.BindingsMemory().allocate((1,), np.float32)


def test_choice_of_the_cuda_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "cuda_problem", lambda: "no NVIDIA driver is installed")
    with pytest.raises(UserError, match="needs one, and no NVIDIA driver"):
        memory.gpu_memory()
    monkeypatch.setattr(memory, "cuda_problem", lambda: None)
    for name in ("cuda", "cuda.bindings", "cuda.bindings.runtime", "cuda.cudart", "pycuda"):
        monkeypatch.setitem(sys.modules, name, None)
    for package in (None, "bindings", "pycuda"):
        with pytest.raises(UserError, match=r"pip install cuda-bindings .*pip install pycuda"):
            memory.gpu_memory(package)
    with pytest.raises(UserError, match="no CUDA package called 'cupy'"):
        memory.gpu_memory("cupy")


def test_real_bindings_without_a_driver_say_so() -> None:
    pytest.importorskip("cuda.bindings.runtime")
    from channelcut.engine.driver import cuda_problem

    if cuda_problem() is None:
        pytest.skip("this machine has a GPU")
    with pytest.raises(UserError, match=r"cudaSetDevice failed: .*driver"):
        memory_bindings.BindingsMemory()


class GraphMemory(HostMemory):
    def capture(self, work: Any) -> Any:
        self.log.append("capture")
        return lambda: (self.log.append("launch"), work())[0]


def test_runner_stages_and_graph() -> None:
    rtx = pytest.importorskip("tensorrt_rtx")
    from channelcut.engine.tensorrt_runner import TensorRTRunner

    host, engine = GraphMemory(), StandIn(rtx)
    runner = TensorRTRunner(open_session(rtx, "TensorRT"), engine, host, EngineOptions(graph=True))
    x = np.ones((2, 3), np.float32)
    assert np.array_equal(runner({"x": x})["y"], 2 * x) and host.log.count("launch") == 1
    stages = runner.stages({"x": x})
    host.log.clear()
    stages.upload()
    assert host.log == ["upload", "synchronize"]
    host.log.clear()
    stages.compute()
    assert host.log == ["launch", "synchronize"]
    host.log.clear()
    stages.download()
    assert host.log == ["download"]


@pytest.mark.parametrize("content", [b"x", b"not an engine" * 400])
def test_corrupt_engine_without_a_gpu(tmp_path: Path, content: bytes) -> None:
    rtx = pytest.importorskip("tensorrt_rtx")
    (tmp_path / "e").write_bytes(content)
    with pytest.raises(UserError, match=r"it is no engine, or is damaged\. Build the engine again"):
        require("tensorrt_rtx").load(tmp_path / "e")
    require("tensorrt_rtx").build(convnet(tmp_path / "m.onnx"), tmp_path / "good", SM89)
    check_validity(open_session(rtx, "TensorRT-RTX"), tmp_path / "good", (tmp_path / "good").read_bytes())


def test_engine_of_another_device_or_version() -> None:
    rtx = pytest.importorskip("tensorrt_rtx")
    runtime = SimpleNamespace(get_engine_validity=lambda data: (2, 3))
    api = SimpleNamespace(
        Runtime=lambda logger: runtime,
        EngineInvalidityDiagnostics=rtx.EngineInvalidityDiagnostics,
        __version__="1",
    )
    session: Any = SimpleNamespace(api=api, product="P", logger=None)
    with pytest.raises(UserError, match=r"another version of the library; it was built for GPUs of another compute"):
        check_validity(session, Path("e"), bytes(100))


# -- the timing cache: TensorRT-RTX times nothing, so a stand-in cache of lines --

CACHE = """
import sys, time
from pathlib import Path
from channelcut.engine.timing_cache import merge_into, read_cache, write_cache
class Cache:
    def __init__(self, data): self.lines = set(data.split())
    def combine(self, other, ignore): self.lines |= other.lines; time.sleep(0.05)
    def serialize(self): return b"\\n".join(sorted(self.lines))
class Config:
    def create_timing_cache(self, data): return Cache(data)
"""


def test_concurrent_builds_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "timing.cache"
    code = CACHE + "merge_into(Path(sys.argv[1]), Config(), Cache(sys.argv[2].encode()))"
    jobs = [subprocess.Popen([sys.executable, "-c", code, str(path), f"kernel{i}"]) for i in range(5)]
    assert [job.wait(60) for job in jobs] == [0] * 5
    assert read_cache(path).split() == [b"kernel%d" % i for i in range(5)]


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
def test_killed_build_leaves_the_cache(tmp_path: Path) -> None:
    path = tmp_path / "timing.cache"
    write_cache(path, b"old")
    slow = "Cache.combine = lambda *_: (print('in', flush=True), time.sleep(60))\n"
    code = CACHE + slow + "merge_into(Path(sys.argv[1]), Config(), Cache(b'new'))"
    job = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE)
    assert job.stdout is not None and job.stdout.readline() == b"in\n"
    os.kill(job.pid, signal.SIGKILL)
    job.communicate()
    assert read_cache(path) == b"old"
    space: dict[str, Any] = {}
    exec(CACHE, space)  # noqa: S102  # the stand-in's classes, here
    merge_into(path, space["Config"](), space["Cache"](b"next"))
    assert read_cache(path) == b"next\nold", "the lock died with its holder"


# -- the other backends --


def test_torch_runner_on_the_cpu_agrees_with_onnxruntime(tmp_path: Path) -> None:
    source = convnet(tmp_path / "m.onnx")
    expected = onnxruntime.load(source)(IMAGE)["y"]
    for precision, tolerance in (("fp32", 1e-5), ("fp16", 0.05)):
        runner = torch_cuda.runner_from_onnx(source, EngineOptions(precision=precision, graph=True), "cpu")
        assert np.allclose(runner(IMAGE)["y"], expected, atol=tolerance)
        stages = runner.stages(IMAGE)
        for stage in (stages.upload, stages.compute, stages.download):
            stage()
        assert runner.peak_mib is None


def test_torch_cuda_needs_a_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch_cuda, "cuda_problem", lambda: "no NVIDIA driver is installed")
    with pytest.raises(UserError, match="torch-cuda needs an NVIDIA GPU, and no NVIDIA driver"):
        require("torch-cuda").load(convnet(tmp_path / "m.onnx"))


def test_onnxruntime_providers_and_stages(tmp_path: Path) -> None:
    source = convnet(tmp_path / "m.onnx")
    with pytest.raises(UserError, match=r"no CUDAExecutionProvider .*pip install onnxruntime-gpu"):
        onnxruntime.load(source, EngineOptions(provider="cuda"))
    stages = onnxruntime.load(source).stages(IMAGE)
    for stage in (stages.upload, stages.compute, stages.download):
        stage()


def test_openvino_agrees_with_onnxruntime(tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="pip install 'channelcut[openvino]'")
    source, backend = convnet(tmp_path / "m.onnx"), require("openvino")
    report = backend.build(source, tmp_path / "e")
    assert report.size_mib > 0
    for path in (source, tmp_path / "e"):
        got = backend.load(path)(IMAGE)
        assert np.allclose(got["y"], onnxruntime.load(source)(IMAGE)["y"], atol=1e-4)
    (tmp_path / "bad").write_bytes(b"<?xml nonsense")
    with pytest.raises(UserError, match="cannot read"):
        backend.load(tmp_path / "bad")


def test_build_command_open_resolution(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tensorrt_rtx")
    source = convnet(tmp_path / "m.onnx", batch="n", side="s")
    flags = ["build", str(source), "--out", str(tmp_path / "e"), "--capability", "sm89", "--json"]
    assert main(flags) == 2 and "--size" in capsys.readouterr().err
    assert main([*flags, "--size", "16x16,32x32,64x64", "--batch", "1,2,4"]) == 0
    assert json.loads(capsys.readouterr().out)["batch"] == [1, 2, 4]
    assert main([*flags, "--force", "--batch", "4,1"]) == 2 and "--batch: '4,1'" in capsys.readouterr().err


def test_env_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["env", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["backends"]["onnxruntime"] and "gpu_problem" in found and "torch" in found["libraries"]


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--backend", "tensorrt_rtx"], r"channelcut\[rtx\].*--no-engine"),
        (["--backend", "tensorrt"], r"channelcut\[tensorrt\].*--no-engine"),
    ],
)
def test_compress_refuses_engines_that_it_cannot_build_before_it_starts(
    flags: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for package in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, package, None)
    (tmp_path / "net.py").write_text("import torch\n\n\ndef make():\n    return torch.nn.Conv2d(3, 8, 3).eval()\n")
    asked = ["compress", f"{tmp_path}/net.py:make", "--input", "1x3x16x16", "--keep", "0.5", "--out", f"{tmp_path}/out"]
    assert main([*asked, *flags]) == 2
    told = capsys.readouterr().err
    assert re.search(says, " ".join(told.split()))
    assert "load" not in told
    assert not (tmp_path / "out").exists()


def test_a_capability_that_no_library_offers_is_refused_before_the_cut(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tensorrt_rtx")
    asked = ["compress", "torchvision:resnet18", "--keep", "0.5", "--capability", "sm10", "--out", f"{tmp_path}/out"]
    assert main(asked) == 2
    assert "load" not in capsys.readouterr().err
