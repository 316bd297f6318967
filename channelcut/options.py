"""What is asked of `compress`, by the names of its keywords and flags."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from channelcut.bench.measure import BenchOptions
from channelcut.choosing import AUTO
from channelcut.core.deployed import DEFAULT, Deploy
from channelcut.core.detections import Detections
from channelcut.core.labels import Loss, Targets
from channelcut.cost.protocol import WidthCost
from channelcut.recovery.distil import DEFAULT as RECOVERY
from channelcut.recovery.distil import RecoverOptions
from channelcut.recovery.images import Preprocessing


@dataclass(frozen=True)
class PruneOptions:
    """What is asked of `channelcut.prune`, by the names of its keywords; it says what each of them means."""

    keep: float | Mapping[str, float] | None = None
    macs: float | None = None
    params: float | None = None
    latency: float | None = None
    latency_ms: float | None = None
    cost: WidthCost | None = None
    exclude: tuple[str, ...] = ()
    min_channels: int = 1
    min_keep: float = 0.1
    align: int | str = AUTO
    importance: str | None = None
    calibration: Tensor | Iterable[Tensor] | str | Path | None = None
    preprocessing: Preprocessing | None = None
    loss: Loss | Targets | str | None = None
    detections: Detections | None = None
    rescale: str = "auto"
    restore: str = "compensate"
    passes: int | None = None
    drop_unused: bool = False
    blocks: str | tuple[str, ...] | None = None
    deploy: Deploy = DEFAULT
    tracer: str = "auto"
    grouped: str = "auto"
    prunable_outputs: tuple[str, ...] | None = None
    entries: tuple[str, ...] = ()
    prove: str = "whole"

    @property
    def timed(self) -> bool:
        """Whether the budget limits time."""
        return self.latency is not None or self.latency_ms is not None


@dataclass(frozen=True)
class CompressOptions:
    """What `compress` does.

    prune: the budget, and everything else that decides what goes.
    capabilities: CUDA compute capabilities to build engines for, such as `sm89`; empty builds none.
    backend: `tensorrt_rtx` (ahead of time, no GPU needed) or `tensorrt`.
    precisions: fp16, bf16 or int8, each written beside the fp32 files and built instead of them.
    mixed: choose a precision for each layer with the widths, under a budget of time; the file is `model.mixed.onnx`.
    max_error: the largest output error of each such file; None: see `channelcut.convert_precision`.
    measure: time original and pruned, see `timed_on`.
    profile: time every layer of both on the same, for the report; done too where a budget limits time.
    evaluate: where the calibration is a labelled data set of the model's library, such as Ultralytics' data.yaml:
        measure the accuracy of the original, the cut and all files on its `val` split.
    force: replace an existing output folder, once the new one is complete.
    recover: epochs of a recovery after the cut, see `channelcut.recover`; 0: none. It learns from the calibration, or
        with `loss` of a user's file from what `batches` of that gives. Its checkpoint stands beside the output folder
        until that is written, so that the same run goes on with it.
    rounds: in how many rounds to cut and recover, see `channelcut.prune_in_rounds`.
    recovery: how each recovery is trained.
    sparsify: epochs of a training before the cut that shrinks the channels to go, see `channelcut.sparsify`; 0: none.
        It learns from what the recovery does, and trains as `recovery` says.
    time_on: what runs the network where a budget limits time: layers, cuts and the final files are timed on it; one of
        `latency.clocks.CLOCKS`.
    table: where the times of layers are kept, of a budget of time; None: see `channelcut.measure`.
    target: the device that the network will run on, one of `cost.devices.DEVICES`: its tile is the alignment, and a
        budget of time is planned by its roofline and not measured. Empty: this machine.
    target_precision: what it will compute in there: `fp32`, `fp16` or `int8`.
    images: fields of `Preprocessing` that are asked for; the others are as the model's library says. Of no use where
        `prune` holds a whole `Preprocessing`.
    """

    prune: PruneOptions
    capabilities: tuple[str, ...] = ("sm89",)
    backend: str = "tensorrt_rtx"
    precisions: tuple[str, ...] = ()
    mixed: bool = False
    max_error: float | None = None
    measure: bool = True
    profile: bool = False
    evaluate: bool = True
    bench: BenchOptions = field(default_factory=BenchOptions)
    force: bool = False
    recover: int = 0
    rounds: int = 1
    recovery: RecoverOptions = RECOVERY
    sparsify: int = 0
    images: Mapping[str, Any] = field(default_factory=dict)
    time_on: str = "onnxruntime"
    table: Path | None = None
    target: str = ""
    target_precision: str = "fp16"

    @property
    def timed_on(self) -> str:
        """What the final files are timed on: what runs them where a budget limits time, else ONNX Runtime."""
        return self.time_on if self.prune.timed else "onnxruntime"
