"""One builder for TensorRT 10, TensorRT 11 and TensorRT-RTX: written against the API that the three share.

`api` is the vendor's module throughout. Networks are strongly typed: precision comes from the ONNX file alone.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from channelcut.core.errors import UserError
from channelcut.core.files import write_atomically
from channelcut.core.interrupts import Interrupts, held_back
from channelcut.engine.header import parted
from channelcut.engine.profiles import add_profile
from channelcut.engine.protocol import BuildProgress, EngineOptions, EngineReport
from channelcut.engine.timing_cache import merge_into, read_cache
from channelcut.onnx_out.files import load_onnx, read_bytes


@dataclass
class Session:
    """A vendor module, its logger with what it has said, and the objects that must outlive a build.

    `times_kernels`: whether the library times kernels while it builds, so that a timing cache helps it.
    """

    api: Any
    product: str
    logger: Any
    times_kernels: bool = True
    alive: list[Any] = field(default_factory=list)

    @property
    def errors(self) -> str:
        """The errors logged so far, in one line."""
        return "; ".join(dict.fromkeys(self.logger.errors))[:600] or "the library gives no reason"


def open_session(api: Any, product: str, *, times_kernels: bool = True) -> Session:
    """Return a session whose logger collects instead of printing."""

    class CollectingLogger(api.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.errors: list[str] = []
            self.warnings: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (api.ILogger.INTERNAL_ERROR, api.ILogger.ERROR):
                self.errors.append(" ".join(message.split()))
            elif severity == api.ILogger.WARNING:
                self.warnings.append(" ".join(message.split()))

    return Session(api, product, CollectingLogger(), times_kernels)


def build_engine(
    session: Session,
    onnx: Path,
    engine: Path,
    options: EngineOptions,
    on_progress: BuildProgress | None,
    configure: Any,
    header: bytes = b"",
) -> EngineReport:
    """Parse, configure, build and write atomically. `configure(config)` names the target and returns it in words.

    `header`: what stands before the engine in its file, see `engine.header`.
    """
    start = time.perf_counter()
    with held_back() as interrupts:  # the library's calls to the logger and the monitor would lose them
        builder = make_builder(session)
        network = _parsed(session, builder, onnx)
        config = builder.create_builder_config()
        target: str = configure(config)
        _set_limits(session, config, options)
        batch = add_profile(session, builder, network, config, options)
        cache = _use_timing_cache(session, config, options)
        monitor = _monitor(session, on_progress, interrupts)
        if monitor is not None and hasattr(config, "progress_monitor"):
            config.progress_monitor = monitor
        serialized = builder.build_serialized_network(network, config)
    if monitor is not None and monitor.problem is not None:
        raise monitor.problem
    if serialized is None:
        raise UserError(
            f"{session.product} cannot build an engine from {str(onnx)!r} for {target}: {session.errors}. Expected a "
            "network that fits the GPU; give more workspace, or export with another opset or a fixed batch."
        )
    data = bytes(serialized)
    write_atomically(engine, header + data)
    if cache is not None and options.timing_cache is not None:
        merge_into(options.timing_cache, config, cache)
    if options.layers is not None:
        _write_layers(session, data, options.layers)
    return EngineReport(
        path=engine,
        backend=session.api.__name__,
        capability=target,
        build_s=time.perf_counter() - start,
        size_mib=len(data) / 2**20,
        version=str(session.api.__version__),
        batch=batch,
        warnings=tuple(dict.fromkeys(session.logger.warnings)),
    )


def make_builder(session: Session) -> Any:
    """Return the vendor's builder; raises `UserError` where the library does not start (no driver, no GPU)."""
    try:
        builder = session.api.Builder(session.logger)
    except (TypeError, RuntimeError) as problem:  # the binding raises TypeError when its factory returns a null pointer
        raise UserError(
            f"{session.product} {session.api.__version__} does not start on this machine: {session.errors}. Expected "
            "an NVIDIA GPU whose driver is new enough for this version; check nvidia-smi."
        ) from problem
    session.alive.append(builder)
    return builder


def _parsed(session: Session, builder: Any, onnx: Path) -> Any:
    """Return the network; raises `UserError` naming every operator and node that the parser refuses."""
    api = session.api
    model = load_onnx(onnx, weights=False)
    flag = getattr(api.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if flag is None else 1 << int(flag))
    parser = api.OnnxParser(network, session.logger)
    session.alive += [network, parser]
    # The path tells where weights lie that are in a file of their own.
    if parser.parse(onnx.read_bytes(), str(onnx)):
        return network
    refused = [_parser_error(parser.get_error(i), model) for i in range(parser.num_errors)]
    operators = sorted({n.op_type for n in model.graph.node if not parser.supports_operator(n.op_type)})
    unknown = f" Operators of this model that it does not know at all: {', '.join(operators)}." if operators else ""
    raise UserError(
        f"{session.product} {api.__version__} cannot parse {str(onnx)!r}: {'; '.join(refused) or session.errors}."
        f"{unknown} Expected operators from its support matrix; replace the named ones in the model's forward, or run "
        "this model with the onnxruntime backend."
    )


def _parser_error(error: Any, model: Any) -> str:
    place = int(error.node())
    node = model.graph.node[place] if 0 <= place < len(model.graph.node) else None
    operator = error.node_operator() if hasattr(error, "node_operator") else getattr(node, "op_type", "")
    name = error.node_name() if hasattr(error, "node_name") else getattr(node, "name", "")
    reason = " ".join(str(error.desc()).split())
    # The descriptions are C++ assertions: "false" says nothing that the code does not say better.
    code = str(error.code()).rpartition(".")[2]
    why = code if reason in {"false", ""} else f"{code}: {reason}"
    return f"operator {operator!r} at node {place} ({name!r}): {why}" if operator else why


def _set_limits(session: Session, config: Any, options: EngineOptions) -> None:
    api = session.api
    if options.workspace_mib is not None:
        config.set_memory_pool_limit(api.MemoryPoolType.WORKSPACE, options.workspace_mib * 2**20)
    if options.optimization_level is not None:
        config.builder_optimization_level = options.optimization_level
    if options.version_compatible:
        config.set_flag(api.BuilderFlag.VERSION_COMPATIBLE)
    if options.hardware_compatible is not None:
        config.hardware_compatibility_level = getattr(
            api.HardwareCompatibilityLevel, options.hardware_compatible.upper()
        )
    if options.layers is not None:
        config.profiling_verbosity = api.ProfilingVerbosity.DETAILED


def _write_layers(session: Session, data: bytes, path: Path) -> None:
    """Ask the engine what its layers are; that means loading it, so where it cannot be loaded it is a warning."""
    engine = session.api.Runtime(session.logger).deserialize_cuda_engine(data)
    if engine is None:
        session.logger.warnings.append(
            f"no layer information was written: the engine cannot be loaded on this machine ({session.errors})"
        )
        return
    text = engine.create_engine_inspector().get_engine_information(session.api.LayerInformationFormat.JSON)
    write_atomically(path, json.dumps(json.loads(text), indent=1).encode())


def _use_timing_cache(session: Session, config: Any, options: EngineOptions) -> Any:
    if options.timing_cache is None:
        return None
    if not session.times_kernels:
        session.logger.warnings.append(f"{session.product} times nothing at build time: the timing cache was not used")
        return None
    known = read_cache(options.timing_cache)
    cache = config.create_timing_cache(known)
    # A cache of another device or version is not an error: the build then measures afresh.
    if not config.set_timing_cache(cache, ignore_mismatch=False):
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, ignore_mismatch=False)
    return cache


def _monitor(session: Session, on_progress: BuildProgress | None, interrupts: Interrupts) -> Any:
    """Return a progress monitor that calls `on_progress`, and ends the build after Ctrl-C.

    None without a callback, or in versions of the library that have none.
    """
    base = getattr(session.api, "IProgressMonitor", None)
    if on_progress is None or base is None:
        return None
    callback = on_progress

    class Monitor(base):  # type: ignore[misc, valid-type]
        def __init__(self) -> None:
            super().__init__()
            self.problem: BaseException | None = None
            self.totals: dict[str, int] = {}

        def phase_start(self, phase_name: str, _parent: str | None, num_steps: int) -> None:
            self.totals[phase_name] = num_steps
            self.report(phase_name, 0)

        def phase_finish(self, phase_name: str) -> None:
            self.report(phase_name, self.totals.get(phase_name, 0))

        def step_complete(self, phase_name: str, step: int) -> bool:
            self.report(phase_name, step + 1)
            return self.problem is None and not interrupts.heard

        def report(self, phase: str, done: int) -> None:
            total = self.totals.get(phase, done)
            try:
                if self.problem is None:
                    callback(phase, min(done, total), total)
            except BaseException as problem:  # noqa: BLE001  # must not cross C++: it is raised again after the build
                self.problem = problem

    monitor = Monitor()
    session.alive.append(monitor)
    return monitor


def engine_bytes(engine: Path) -> bytes:
    """Return the engine in the file, without a header; raises `UserError` when it is missing or empty."""
    return parted(read_bytes(engine, "engine file"))[1]
