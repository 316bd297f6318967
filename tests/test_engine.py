"""Engines: really built where that needs no GPU; what needs one is refused in words, or run on a stand-in."""

from __future__ import annotations

import ctypes
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from channelcut.core.errors import MissingExtraError, UserError
from channelcut.core.interrupts import held_back
from channelcut.engine import driver, onnxruntime, tensorrt, tensorrt_common, tensorrt_rtx, tensorrt_runner
from channelcut.engine.header import parted
from channelcut.engine.protocol import Backend, EngineOptions, Runner, checked_inputs
from channelcut.engine.registry import backends, require

SM89 = EngineOptions(capability="sm89")


def convnet(path: Path, batch: int | str = 1, op: str = "Relu", domain: str = "", side: int | str = 16) -> Path:
    """Write a convolution and one more operator."""
    weight = np.random.default_rng(0).standard_normal((8, 3, 3, 3)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["image", "w"], ["a"], name="first"),
            helper.make_node(op, ["a"], ["y"], name="second", domain=domain),
        ],
        "convnet",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 3, side, side])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weight, "w")],
    )
    opsets = [helper.make_opsetid("", 20), *([helper.make_opsetid(domain, 1)] if domain else [])]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), str(path))
    return path


@pytest.fixture(scope="module")
def rtx() -> Any:
    return pytest.importorskip("tensorrt_rtx")


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "_driver", lambda: None)


# -- registry and protocol --


def test_registry_names_and_imports_lazily() -> None:
    assert set(backends()) == {"onnxruntime", "openvino", "tensorrt", "tensorrt_rtx", "torch_cuda"}
    assert require("tensorrt-rtx") is tensorrt_rtx and require("ONNXRuntime") is onnxruntime
    with pytest.raises(UserError, match="no backend called 'ncnn'; known: onnxruntime, openvino, tensorrt"):
        require("ncnn")
    every: list[Backend] = [onnxruntime, tensorrt, tensorrt_rtx]
    assert [b.NAME for b in every] == ["onnxruntime", "tensorrt", "tensorrt_rtx"]


def test_importing_the_backends_imports_no_vendor_library() -> None:
    script = (
        "import sys, channelcut.engine.tensorrt, channelcut.engine.tensorrt_rtx, channelcut.engine.onnxruntime\n"
        "print([m for m in sys.modules if m.split('.')[0] in ('tensorrt', 'tensorrt_rtx', 'pycuda', 'onnxruntime')])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_options_are_checked() -> None:
    assert EngineOptions(capability=" SM89, sm120,sm89").capabilities == ("sm89", "sm120")
    assert EngineOptions().capabilities == ()
    for options, message in (
        ({"batch": (2, 1, 4)}, "batch range"),
        ({"optimization_level": 9}, "optimisation level"),
        ({"workspace_mib": 0}, "workspace"),
        ({"threads": 0}, "threads"),
    ):
        with pytest.raises(UserError, match=message):
            EngineOptions(**options)  # type: ignore[arg-type]


def test_inputs_are_checked() -> None:
    expected = {"x": ((None, 3), np.float32)}
    assert checked_inputs({"x": np.ones((5, 3), np.float32)}, expected)["x"].shape == (5, 3)
    with pytest.raises(UserError, match=r"inputs are \['x'\]; got \['y'\]"):
        checked_inputs({"y": np.ones(1)}, expected)
    with pytest.raises(UserError, match=r"shape \(5, 4\) and type float32; the engine expects \?×3 and float32"):
        checked_inputs({"x": np.ones((5, 4), np.float32)}, expected)
    with pytest.raises(UserError, match="type float64"):
        checked_inputs({"x": np.ones((5, 3))}, expected)


# -- ONNX Runtime --


def test_onnxruntime_builds_and_runs(tmp_path: Path) -> None:
    source, engine = convnet(tmp_path / "m.onnx", batch="n"), tmp_path / "m.engine"
    steps: list[tuple[str, int, int]] = []
    report = onnxruntime.build(source, engine, on_progress=lambda *step: steps.append(step))
    assert report.backend == "onnxruntime" and report.capability == "cpu" and report.path == engine
    assert report.size_mib == engine.stat().st_size / 2**20 and report.build_s > 0 and report.version
    assert steps == [("optimising", 0, 1), ("optimising", 1, 1)]
    runner: Runner = onnxruntime.load(engine)
    image = np.random.default_rng(1).random((2, 3, 16, 16), dtype=np.float32)
    wanted = onnxruntime.load(source)({"image": image})["y"]
    assert wanted.shape == (2, 8, 14, 14) and np.allclose(runner({"image": image})["y"], wanted, atol=1e-5)
    assert runner.prepared({"image": image})() is None
    with pytest.raises(UserError, match="the engine expects"):
        runner({"image": image[:, :2]})


def test_onnxruntime_errors(tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"garbage" * 30)
    with pytest.raises(UserError, match="is not an ONNX model, or is damaged"):
        onnxruntime.build(tmp_path / "bad.onnx", tmp_path / "e")
    with pytest.raises(UserError, match="runs on the CPU and cannot build for 'sm89'"):
        onnxruntime.build(convnet(tmp_path / "m.onnx"), tmp_path / "e", SM89)
    with pytest.raises(UserError, match=r"ONNX Runtime .* cannot load .*Foo"):
        onnxruntime.build(convnet(tmp_path / "f.onnx", op="Foo", domain="acme"), tmp_path / "e")
    assert not (tmp_path / "e").exists()


# -- TensorRT-RTX, really built, without a GPU --


def test_rtx_engine_for_one_and_two_capabilities(tmp_path: Path, rtx: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    source = convnet(tmp_path / "m.onnx")
    steps: list[tuple[str, int, int]] = []
    report = tensorrt_rtx.engine_from_onnx(source, tmp_path / "one", SM89, lambda *step: steps.append(step))
    assert report.backend == "tensorrt_rtx" and report.capability == "sm89" and report.batch is None
    assert report.version == rtx.__version__ and report.build_s > 0
    assert report.size_mib == (tmp_path / "one").stat().st_size / 2**20 > 0.001
    assert steps and all(0 <= done <= total for _, done, total in steps)
    assert any(done == total > 0 for _, done, total in steps)
    targets: list[Any] = []
    builder = tensorrt_rtx.build_engine

    def spying(*args: Any) -> Any:
        def configure(config: Any) -> str:
            words = str(args[-1](config))
            targets.extend(config.get_compute_capability(i).name for i in range(config.num_compute_capabilities))
            return words

        return builder(*args[:-1], configure)

    monkeypatch.setattr(tensorrt_rtx, "build_engine", spying)
    both = tensorrt_rtx.build(source, tmp_path / "two", EngineOptions(capability="sm89,sm120"))
    assert both.capability == "sm89,sm120" and targets == ["SM89", "SM120"]
    assert (tmp_path / "one").read_bytes() != (tmp_path / "two").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.onnx", "one", "two"], "a temporary file was left"


def test_rtx_options_reach_the_library(tmp_path: Path, rtx: Any) -> None:
    cache = tmp_path / "cache"
    options = EngineOptions("sm86", workspace_mib=64, optimization_level=2, batch=(1, 2, 4), timing_cache=cache)
    report = tensorrt_rtx.build(convnet(tmp_path / "m.onnx", batch="n"), tmp_path / "e", options)
    assert report.batch == (1, 2, 4)
    assert not cache.exists() and any("timing cache was not used" in w for w in report.warnings)
    with pytest.raises(UserError, match=r"'image' of the ONNX model is open along axes \[2, 3\]; only the batch"):
        tensorrt_rtx.build(convnet(tmp_path / "hw.onnx", side="s"), tmp_path / "e2", options)


def test_rtx_unknown_capability_is_refused_with_the_list(tmp_path: Path, rtx: Any) -> None:
    supported = tensorrt_rtx.supported_capabilities()
    assert "sm89" in supported and not {"none", "current"} & set(supported)
    source = convnet(tmp_path / "m.onnx")
    for name in ("sm90", "current", "none", "bogus"):
        with pytest.raises(UserError, match=f"cannot build for '{name}'; it offers {', '.join(supported)}"):
            tensorrt_rtx.build(source, tmp_path / "e", EngineOptions(capability=name))
    assert not (tmp_path / "e").exists()


def test_rtx_without_capability_and_without_gpu(tmp_path: Path, rtx: Any, no_gpu: None) -> None:
    with pytest.raises(UserError, match=r"No compute capability is named.*no NVIDIA driver.*one of sm75"):
        tensorrt_rtx.build(convnet(tmp_path / "m.onnx"), tmp_path / "e")


def test_rtx_parser_names_the_operator(tmp_path: Path, rtx: Any) -> None:
    with pytest.raises(UserError, match=r"operator 'Det' at node 1 \('second'\): UNSUPPORTED_NODE") as caught:
        tensorrt_rtx.build(convnet(tmp_path / "d.onnx", op="Det"), tmp_path / "e", SM89)
    assert "TensorRT-RTX" in str(caught.value) and "d.onnx" in str(caught.value)
    with pytest.raises(UserError, match=r"operator 'Foo' at node 1 .*does not know at all: Foo"):
        tensorrt_rtx.build(convnet(tmp_path / "f.onnx", op="Foo", domain="acme"), tmp_path / "e", SM89)
    (tmp_path / "bad.onnx").write_bytes(b"garbage" * 30)
    with pytest.raises(UserError, match="is not an ONNX model, or is damaged"):
        tensorrt_rtx.build(tmp_path / "bad.onnx", tmp_path / "e", SM89)
    assert not (tmp_path / "e").exists()


def test_a_callback_that_raises_stops_the_build(tmp_path: Path, rtx: Any) -> None:
    def interrupt(*step: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tensorrt_rtx.build(convnet(tmp_path / "m.onnx"), tmp_path / "e", SM89, interrupt)
    assert not (tmp_path / "e").exists()


@pytest.fixture
def python_hears_ctrl_c() -> Iterator[None]:
    """As in a terminal; where tests run side by side, Ctrl-C is ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("python_hears_ctrl_c")
def test_ctrl_c_inside_the_library_is_not_lost(tmp_path: Path, rtx: Any) -> None:
    def press(*step: Any) -> None:
        signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        tensorrt_rtx.build(convnet(tmp_path / "m.onnx"), tmp_path / "e", SM89, press)
    assert signal.getsignal(signal.SIGINT) is before
    assert not (tmp_path / "e").exists()


@pytest.mark.usefixtures("python_hears_ctrl_c")
def test_interrupts_are_held_back_until_the_end() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), held_back() as interrupts:
        signal.raise_signal(signal.SIGINT)
        done.append(interrupts.heard)
        raise UserError("the library was told to stop")
    assert done == [True]
    with held_back() as interrupts:
        pass
    assert not interrupts.heard


def test_another_thread_and_another_handler_stay_as_they_are() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with held_back() as interrupts:
            signal.raise_signal(signal.SIGINT)
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        assert not interrupts.heard
    finally:
        signal.signal(signal.SIGINT, before)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(lambda: held_back().__enter__().heard).result() is False


def test_rtx_load_without_gpu(tmp_path: Path, rtx: Any, no_gpu: None) -> None:
    tensorrt_rtx.build(convnet(tmp_path / "m.onnx"), tmp_path / "e", SM89)
    with pytest.raises(UserError, match="needs an NVIDIA GPU, and no NVIDIA driver is installed"):
        tensorrt_rtx.load(tmp_path / "e")
    with pytest.raises(UserError, match="Cannot read the engine file"):
        tensorrt_rtx.load(tmp_path / "missing")


# -- TensorRT: its absence, and the shared code with the other library standing in --


def test_missing_libraries_say_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    source = convnet(tmp_path / "m.onnx")
    for name, backend, extra in (("tensorrt", tensorrt, "tensorrt"), ("tensorrt_rtx", tensorrt_rtx, "rtx")):
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(MissingExtraError, match=rf"pip install 'channelcut\[{extra}\]'"):
            backend.build(source, tmp_path / "e", SM89)


def test_tensorrt_needs_driver_gpu_and_version(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, rtx: Any, no_gpu: None
) -> None:
    source = convnet(tmp_path / "m.onnx")
    monkeypatch.setitem(sys.modules, "tensorrt", SimpleNamespace(__version__="8.6.1"))
    with pytest.raises(UserError, match=r"TensorRT 8.6.1 is too old"):
        tensorrt.build(source, tmp_path / "e")
    monkeypatch.setitem(sys.modules, "tensorrt", SimpleNamespace(__version__="10.9"))
    with pytest.raises(UserError, match=r"times its kernels on the GPU while it builds, and no NVIDIA driver"):
        tensorrt.build(source, tmp_path / "e")
    monkeypatch.setattr(tensorrt, "cuda_problem", lambda: None)
    monkeypatch.setattr(tensorrt, "current_capability", lambda: "sm90")
    with pytest.raises(UserError, match=r"GPU of this machine \(sm90\), not for sm89"):
        tensorrt.build(source, tmp_path / "e", SM89)


def test_driver_states(monkeypatch: pytest.MonkeyPatch) -> None:
    def fake(init: int, count: int) -> Any:
        def get_count(pointer: Any) -> int:
            pointer._obj.value = count
            return 0

        def attribute(pointer: Any, which: int, device: Any) -> int:
            pointer._obj.value = {75: 8, 76: 9}[which]
            return 0

        return SimpleNamespace(
            cuInit=lambda flags: init,
            cuDeviceGetCount=get_count,
            cuDeviceGet=lambda pointer, ordinal: 0,
            cuDeviceGetAttribute=attribute,
        )

    for init, count, problem in ((100, 0, "finds no GPU"), (999, 0, "cuInit returned 999"), (0, 0, "CUDA_VISIBLE")):
        monkeypatch.setattr(driver, "_driver", lambda init=init, count=count: fake(init, count))
        assert problem in (driver.cuda_problem() or "") and driver.current_capability() is None
    monkeypatch.setattr(driver, "_driver", lambda: fake(0, 1))
    assert driver.cuda_problem() is None and driver.current_capability() == "sm89"


def test_tensorrt_shares_the_builder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, rtx: Any) -> None:
    """The whole path of the `tensorrt` backend, with RTX's module standing in for a machine that has a GPU."""
    monkeypatch.setattr(tensorrt, "_api", lambda: rtx)
    monkeypatch.setattr(tensorrt, "cuda_problem", lambda: None)
    monkeypatch.setattr(tensorrt, "current_capability", lambda: "sm89")
    builder = tensorrt_common.build_engine

    def for_sm89(session: Any, *args: Any) -> Any:
        *rest, configure, header = args

        def named(config: Any) -> str:
            config.num_compute_capabilities = 1
            config.set_compute_capability(rtx.ComputeCapability.SM89, 0)
            return str(configure(config))

        return builder(session, *rest, named, header)

    monkeypatch.setattr(tensorrt, "build_engine", for_sm89)
    model = onnx.load(convnet(tmp_path / "m.onnx", batch="n"))
    helper.set_model_props(model, {"task": "detect", "names": "{0: 'a'}", "stride": "8"})
    onnx.save(model, tmp_path / "m.onnx")
    report = tensorrt.build(tmp_path / "m.onnx", tmp_path / "e", EngineOptions(batch=(1, 1, 2)))
    assert parted((tmp_path / "e").read_bytes())[0] == {"task": "detect", "names": {"0": "a"}, "stride": 8}
    assert report.capability == "sm89" and report.batch == (1, 1, 2) and (tmp_path / "e").stat().st_size > 1000


def test_library_that_does_not_start(tmp_path: Path, rtx: Any) -> None:
    session = tensorrt_common.open_session(rtx, "TensorRT")

    def refuse(logger: Any) -> Any:
        logger.log(rtx.ILogger.ERROR, "CUDA initialization failure\n with error 35")
        raise TypeError("factory function returned nullptr")

    session.api = SimpleNamespace(Builder=refuse, __version__="10.9")
    with pytest.raises(UserError, match=r"TensorRT 10.9 does not start .* CUDA initialization failure with error 35"):
        tensorrt_common.make_builder(session)


# -- the runner, on a stand-in for the device --


class HostMemory:
    """Host arrays in place of device buffers: their addresses are real, so the stand-in engine can use them."""

    stream = 7

    def __init__(self) -> None:
        self.allocated, self.log = 0, []

    def allocate(self, shape: Sequence[int], dtype: Any) -> Any:
        self.allocated += 1
        return np.zeros(shape, dtype)

    def address(self, buffer: Any) -> int:
        return int(buffer.ctypes.data)

    def upload(self, buffer: Any, array: Any) -> None:
        self.log.append("upload")
        buffer[...] = array

    def download(self, buffer: Any) -> Any:
        self.log.append("download")
        return buffer.copy()

    def synchronize(self) -> None:
        self.log.append("synchronize")


class StandIn:
    """An engine and its context: y = 2 x for x of shape (1 to 4, 3), y's extent `open_output` where asked."""

    num_io_tensors = 2

    def __init__(self, api: Any, *, open_output: bool = False, works: bool = True) -> None:
        self.api, self.open_output, self.works = api, open_output, works
        self.batch, self.addresses, self.streams = 0, {}, []

    def create_execution_context(self) -> Any:
        return self

    def get_tensor_name(self, index: int) -> str:
        return ("x", "y")[index]

    def get_tensor_mode(self, name: str) -> Any:
        return self.api.TensorIOMode.INPUT if name == "x" else self.api.TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> Any:
        return self.api.float32

    def get_tensor_shape(self, name: str) -> Any:
        return (-1 if self.open_output else self.batch, 3) if self.batch else (-1, 3)

    def set_input_shape(self, name: str, shape: Any) -> bool:
        self.batch = shape[0]
        return bool(1 <= shape[0] <= 4)

    def set_tensor_address(self, name: str, address: int) -> None:
        self.addresses[name] = address

    def execute_async_v3(self, stream: int) -> bool:
        self.streams.append(stream)
        kind = ctypes.c_float * (self.batch * 3)
        source, target = (kind.from_address(self.addresses[n]) for n in ("x", "y"))
        target[:] = [2 * v for v in source]
        return self.works


def test_runner_moves_shapes_addresses_and_data(rtx: Any) -> None:
    session, engine, host = tensorrt_common.open_session(rtx, "TensorRT"), StandIn(rtx), HostMemory()
    runner = tensorrt_runner.TensorRTRunner(session, engine, host)
    assert runner.inputs == {"x": ((None, 3), np.float32)} and runner.outputs == ["y"]
    for batch in (2, 2, 4):
        x = np.random.default_rng(batch).random((batch, 3), dtype=np.float32)
        assert np.array_equal(runner({"x": x})["y"], 2 * x)
    assert host.allocated == 4, "buffers are kept while the shape stays"
    assert host.log == ["upload", "synchronize", "synchronize", "download"] * 3, "nothing is read before it is there"
    run = runner.prepared({"x": np.ones((1, 3), np.float32)})
    run()
    run()
    assert engine.streams == [7] * 5
    with pytest.raises(UserError, match=r"shape \(5, 3\) is outside the engine's profile"):
        runner({"x": np.ones((5, 3), np.float32)})


def test_runner_errors(rtx: Any) -> None:
    session, x = tensorrt_common.open_session(rtx, "TensorRT"), {"x": np.ones((1, 3), np.float32)}
    with pytest.raises(UserError, match="'y' has a shape that depends on the input's values"):
        tensorrt_runner.TensorRTRunner(session, StandIn(rtx, open_output=True), HostMemory())(x)
    with pytest.raises(UserError, match="TensorRT failed to run the engine"):
        tensorrt_runner.TensorRTRunner(session, StandIn(rtx, works=False), HostMemory())(x)
