"""ONNX from a module: exported, simplified, and proven equal to the module before anything is written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
import torch.utils._pytree as pytree
from torch import Tensor, nn

from channelcut.core.copies import private_copy
from channelcut.core.errors import UserError
from channelcut.core.quiet import quietly
from channelcut.onnx_out.comparison import tensor_leaves
from channelcut.onnx_out.dynamic import OpenAxes, open_axes, refuse_decisions
from channelcut.onnx_out.files import save_onnx
from channelcut.onnx_out.inputs import Trial, extremes, random_like
from channelcut.onnx_out.metadata import set_metadata
from channelcut.onnx_out.names import input_names, output_names
from channelcut.onnx_out.parity import ParityCheck
from channelcut.onnx_out.recording import exported, run, unrolled
from channelcut.onnx_out.rewriting import Rewrite, accept_rewrite
from channelcut.onnx_out.simplify import rewrites
from channelcut.onnx_out.subnormal import flush_subnormals
from channelcut.onnx_out.zeros import remove_zeros

# An output must change by this many tolerances between two inputs for its parity to mean something.
_SIGNAL = 100
_STEPS = 3  # exported, simplified and compared, judged and written
_FEW = 3  # outputs that a warning names
_OTHER_BATCH = 3  # the batch that a dynamic export is checked with, besides the example's


@dataclass(frozen=True)
class ExportOptions:
    """How to export. `simplifiers` are tried in order; `tolerance` is relative, see `parity.relative_error`.

    `dynamic_batch` leaves the first axis of every input open, `dynamic_size` height and width of images (N, C, H, W).
    `random_inputs`: how many random inputs the parity is checked on, beside others. `metadata`: further pairs for the
    file, see `metadata.onnx_metadata`; `properties`: pairs under their own names, which other loaders read.
    `input_names`, `output_names`: instead of those of the signature and the result. `unrolled`: record one run, by
    torch's older exporter, because values decide shapes in the forward.
    """

    opset: int = 20
    dynamic_batch: bool = False
    dynamic_size: bool = False
    simplifiers: tuple[str, ...] = ("onnxsim", "onnxslim")
    tolerance: float = 1e-4
    random_inputs: int = 1
    seed: int = 0
    metadata: tuple[tuple[str, str], ...] = ()
    properties: tuple[tuple[str, str], ...] = ()
    input_names: tuple[str, ...] = ()
    output_names: tuple[str, ...] = ()
    unrolled: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.opset, int) or self.opset < 18 or self.tolerance <= 0 or self.random_inputs < 1:
            raise UserError(
                "The export options need opset 18 or later, a tolerance above 0 and at least one random input; got "
                f"opset {self.opset}, tolerance {self.tolerance}, random_inputs {self.random_inputs}."
            )


DEFAULTS = ExportOptions()


@dataclass(frozen=True)
class ExportReport:
    """What was written, and the evidence for it.

    `simplifier`: "onnxsim", "onnxslim" or "none". `max_relative_error`: the worst output over all inputs, ONNX Runtime
    against the module; `tolerance`: what it was allowed to be, more than was asked for where rounding alone makes more.
    `selection_error`, `selection_tolerance`, `reordered`: see `parity.Parity`. `refusals`: why a simplifier's result
    was not taken. `flushed`: how many subnormal weights were written as zero, see `subnormal`. `warnings`: where the
    evidence is weak, and that weights were flushed. `compared_on`: the inputs, in words.
    """

    path: Path
    opset: int
    nodes_before: int
    nodes_after: int
    simplifier: str
    max_relative_error: float
    refusals: tuple[str, ...]
    size_bytes: int
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    tolerance: float = 0.0
    selection_error: float = 0.0
    selection_tolerance: float = 0.0
    reordered: int = 0
    flushed: int = 0
    warnings: tuple[str, ...] = ()
    compared_on: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON data, with the file's name instead of its path."""
        return {**vars(self), "path": self.path.name}


class _TensorsOnly(nn.Module):
    """Returns the tensors of the model's result as a flat tuple: numbers and None have no place in ONNX."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: Any) -> tuple[Tensor, ...]:
        return tuple(tensor_leaves(self.model(*inputs)))


def onnx_from_module(
    model: nn.Module,
    example_inputs: tuple[Any, ...],
    path: Path,
    options: ExportOptions = DEFAULTS,
    samples: Sequence[tuple[Any, ...]] = (),
    on_progress: Callable[[int, int], None] | None = None,
) -> ExportReport:
    """Write the model to `path` as ONNX (float32, eval mode) that was checked against it; the model is not changed.

    `example_inputs`: the positional arguments of one forward, tensors or nests of tensors of shape (N, ...). `samples`:
    more of them to check on, real ones where there are any. Every tensor of the result becomes an output; see
    `names.output_names`. The simplified graph is written only if it computes what the module computes, else the graph
    as exported: relative error at most `options.tolerance`, or what rounding alone makes, on the example, the samples,
    random inputs, and on black, half black, even and far too large ones. `on_progress(done, total)` counts the steps.
    Raises `UserError` when the forward cannot be exported or nothing passes.
    """
    example_inputs = tuple(example_inputs)
    names_in = _given(options.input_names, input_names(model, example_inputs), "inputs")
    module = _TensorsOnly(private_copy(model).float()).eval()
    inputs = tuple(_float32(example_inputs))
    with torch.no_grad(), quietly():
        names_out = output_names(run(module.model, inputs), taken=names_in, model=model)
        if not names_out:
            raise UserError("The model's forward returns no tensor, so there is nothing to export.")
        names_out = _given(options.output_names, names_out, "outputs")
        axes = open_axes(module, inputs, batch=options.dynamic_batch, size=options.dynamic_size)
        recorded, probes, made_at = _recorded(module, inputs, (names_in, names_out), axes, options)
        report = on_progress or (lambda _done, _total: None)
        report(1, _STEPS)
        check = ParityCheck(module, _trials(inputs, axes, options, samples), options.tolerance)
        flushed = {"none": flush_subnormals(recorded)}
        accepted = accept_rewrite(recorded, _flushing(rewrites(options.simplifiers), flushed), check)
        report(2, _STEPS)
        weak = refuse_decisions(probes, lambda probe: _difference(module, accepted.model, probe, options), made_at)
        weak += _weak_evidence(check, accepted.model, options) + _allowances(accepted.parity.allowed)
    zeros = flushed["none"] + (flushed[accepted.name] if accepted.name != "none" else 0)
    weak += _flushed(zeros)
    set_metadata(accepted.model, {"precision": "fp32", **dict(options.metadata)}, dict(options.properties))
    size_bytes = save_onnx(accepted.model, Path(path))
    report(_STEPS, _STEPS)
    return ExportReport(
        path=Path(path),
        opset=_opset(accepted.model),
        nodes_before=len(recorded.graph.node),
        nodes_after=len(accepted.model.graph.node),
        simplifier=accepted.name,
        max_relative_error=accepted.parity.max_relative_error,
        tolerance=accepted.parity.limit,
        refusals=accepted.refusals,
        size_bytes=size_bytes,
        input_names=tuple(names_in),
        output_names=tuple(names_out),
        selection_error=accepted.parity.selection_error,
        selection_tolerance=accepted.parity.selection_limit,
        reordered=accepted.parity.reordered,
        flushed=zeros,
        warnings=weak,
        compared_on=check.tried(),
    )


def parity_check(
    module: nn.Module,
    inputs: tuple[Any, ...],
    samples: Sequence[tuple[Any, ...]] = (),
    options: ExportOptions = DEFAULTS,
) -> ParityCheck:
    """What an ONNX model of the module, with fixed sizes, is accepted or refused by; see `onnx_from_module`."""
    flat = _TensorsOnly(private_copy(module).float()).eval()
    return ParityCheck(
        flat, _trials(tuple(_float32(inputs)), OpenAxes(batch=False, size=False), options, samples), options.tolerance
    )


def _given(asked: Sequence[str], found: list[str], what: str) -> list[str]:
    """The names that were asked for, else those that were found."""
    if asked and len(asked) != len(found):
        raise UserError(f"The names {', '.join(asked)} are for {len(asked)} {what}; the model has {len(found)}.")
    return list(asked) or found


def _recorded(
    module: nn.Module,
    inputs: tuple[Any, ...],
    names: tuple[list[str], list[str]],
    axes: OpenAxes,
    options: ExportOptions,
) -> tuple[onnx.ModelProto, list[tuple[str, tuple[Any, ...]]], str]:
    """See `recording.exported`; a forward that has to be unrolled can leave no size open. Without zero branches."""
    if not options.unrolled:
        found = exported(module, inputs, names, axes, options.opset)
        remove_zeros(found[0])
        return found
    if axes:
        raise UserError(
            f"Suppression in the file and {axes.words} left open exclude each other: the loop over the images is "
            "written out. Give the batch and size that will run, or leave suppression to the caller."
        )
    model = unrolled(module, inputs, names, options.opset)
    remove_zeros(model)
    return model, [], ""


def _flushed(zeros: int) -> tuple[str, ...]:
    if not zeros:
        return ()
    return (
        f"{zeros:,} weights are subnormal (below 1.2e-38) and were written as zero: processors take many times as long "
        "over such numbers, so that a time would tell of them",
    )


def _flushing(found: Sequence[tuple[str, Rewrite]], flushed: dict[str, int]) -> list[tuple[str, Rewrite]]:
    """The rewrites, each followed by another flush, because folding may leave new subnormals; counts into `flushed`."""

    def both(name: str, rewrite: Rewrite) -> Rewrite:
        def run(model: onnx.ModelProto) -> onnx.ModelProto:
            made = rewrite(model)
            flushed[name] = flush_subnormals(made)
            return made

        return run

    return [(name, both(name, rewrite)) for name, rewrite in found]


def _float32(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    def convert(leaf: Any) -> Any:
        return leaf.detach().float() if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf

    converted: tuple[Any, ...] = pytree.tree_map(convert, inputs)
    return converted


def _trials(
    inputs: tuple[Any, ...], axes: OpenAxes, options: ExportOptions, samples: Sequence[tuple[Any, ...]]
) -> list[Trial]:
    """Return the example, random inputs in its range with another batch and size where these are open, and the rest."""
    generator = np.random.default_rng(options.seed)
    batch = _OTHER_BATCH if axes.batch else None
    drawn: list[tuple[str, Any, int | None]] = [("random values", axes.second(inputs), batch)] * options.random_inputs
    if axes:
        drawn.append(("random values of the example's shape", inputs, None))
    found = [Trial("the example", inputs)]
    for name, like, count in drawn:
        values = pytree.tree_map(lambda t, n=count: random_like(t, generator, n), like)
        found.append(Trial(name, values))
    found += [Trial(f"sample {number}", tuple(_float32(tuple(sample)))) for number, sample in enumerate(samples, 1)]
    return found + extremes(inputs)


def _difference(
    module: nn.Module, model: onnx.ModelProto, inputs: tuple[Any, ...], options: ExportOptions
) -> str | None:
    """Why the model differs from the module on these inputs; None if it does not."""
    module(*inputs)  # what does not run must say so here, not as the ONNX model's failure
    return ParityCheck(module, [Trial("it", inputs)], options.tolerance)(model).refused or None


def _weak_evidence(check: ParityCheck, model: onnx.ModelProto, options: ExportOptions) -> tuple[str, ...]:
    """Return a warning that names the outputs that hardly depend on the input, if there are any."""
    faint = {n: s for n, s in check.signals(model).items() if s < _SIGNAL * options.tolerance}
    if not faint:
        return ()
    return (
        f"the outputs {', '.join(faint)} hardly change with the input (by {max(faint.values()):.0e} of their size), as "
        "those of an untrained model: that they agree with the module's says little about the layers behind them",
    )


def _allowances(allowed: Sequence[str]) -> tuple[str, ...]:
    """Return a warning that names what was accepted above the tolerance, if anything was."""
    if not allowed:
        return ()
    more = f", and {len(allowed) - _FEW} more" if len(allowed) > _FEW else ""
    return (
        f"rounding is large against some outputs: {'; '.join(allowed[:_FEW])}{more}. The ONNX model was accepted there "
        "because two right programs differ as much",
    )


def _opset(model: onnx.ModelProto) -> int:
    return next(int(o.version) for o in model.opset_import if o.domain in {"", "ai.onnx"})
