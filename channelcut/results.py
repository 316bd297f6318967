"""What a run leaves: `save` and `load` of a cut with its plan and proof, `export` to ONNX."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from channelcut.adapters import deployed_form
from channelcut.core.deployed import Deploy
from channelcut.core.errors import UserError
from channelcut.core.inputs import check_network, check_path, check_values, positional_inputs
from channelcut.core.plan import Plan
from channelcut.core.record import planned_deploy, record_of
from channelcut.core.result import PruneResult
from channelcut.core.words import kind_of
from channelcut.cutting import restore, store
from channelcut.sources.names import open_source

if TYPE_CHECKING:
    from channelcut.onnx_out.module import ExportReport


def save(
    result: PruneResult | nn.Module, folder: str | Path, *, source: str | None = None, allow_unproven: bool = False
) -> None:
    """Write `plan.json` and `model.safetensors`, enough to rebuild the model with `load`; no pickle.

    Args:
        result: what `prune` returned, or a module that `apply`, `prune` or `load` made, trained since or not.
        folder: is made where it does not exist.
        source: what makes the original, as the command line names it (`torchvision:resnet18`,
            `path/to/file.py:factory`), so that `channelcut` opens the folder by itself.
        allow_unproven: also write a cut that has not been proven.

    Returns:
        Nothing.

    Raises:
        UserError: the module is no cut of channelcut, its cut has not been proven, `source` has no known form, or the
            folder cannot be written to.

    Example:
        >>> import tempfile, torch
        >>> from pathlib import Path
        >>> from torch import nn
        >>> import channelcut as cc
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1)).eval()
        >>> result = cc.prune(model, torch.rand(1, 3, 16, 16), keep=0.5)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     cc.save(result, folder)
        ...     print(sorted(path.name for path in Path(folder).iterdir()))
        ['model.safetensors', 'plan.json']
    """
    check_path(folder, "folder")
    model = result.model if isinstance(result, PruneResult) else result
    check_network(model)
    record = record_of(model)
    if record is None:
        raise UserError(
            f"This {type(model).__name__} is no cut of channelcut, or has got other shapes since (by fuse(), say). "
            "Expected what prune, apply or load returned, with the layers that it had then."
        )
    _refuse_unproven(model, allow_unproven)
    chosen = result.plan if isinstance(result, PruneResult) else record.plan
    store(model, chosen if source is None else _with_source(chosen, source), Path(folder))


def load(build: Callable[[], nn.Module], folder: str | Path) -> nn.Module:
    """Rebuild a saved model on its original class, in one step however many times it had been cut.

    Args:
        build: makes the original architecture; its weights do not matter.
        folder: what `save` wrote.

    Returns:
        The model in evaluation mode, with the record of its plan and proofs.

    Raises:
        UserError: the folder is incomplete or damaged, or `build` makes another architecture.

    Example:
        >>> import tempfile, torch
        >>> from torch import nn
        >>> import channelcut as cc
        >>> build = lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1)).eval()
        >>> x = torch.rand(1, 3, 16, 16)
        >>> result = cc.prune(build(), x, keep=0.5)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     cc.save(result, folder)
        ...     print(torch.equal(cc.load(build, folder)(x), result.model(x)))
        True
    """
    check_path(folder, "folder")
    if isinstance(build, nn.Module) or not callable(build):
        raise UserError(
            f"build is {kind_of(build)}. Expected a function without arguments that makes the original "
            "network: "
            "channelcut.load(lambda: Net(), folder)."
        )
    return restore(lambda: _built(build), Path(folder))


def export(
    result: PruneResult | nn.Module,
    path: str | Path,
    x: Any,
    *,
    opset: int = 20,
    dynamic_batch: bool = False,
    dynamic_size: bool = False,
    deploy: Deploy | None = None,
    allow_unproven: bool = False,
) -> ExportReport:
    """Write the deployed form of a model as ONNX (float32), checked against it with ONNX Runtime.

    Args:
        result: what `prune` returned, or any module; it is not changed.
        path: the file to write.
        x: an example input, see `analyze`; what is passed by name is an input of the file by position.
        opset: of ONNX, 18 or later.
        dynamic_batch: leave the first axis of every input open.
        dynamic_size: leave height and width of images (N, C, H, W) open.
        deploy: which form that is; by default what the cut was planned for, see `plan`.
        allow_unproven: also write a cut that has not been proven.

    Returns:
        What was written, and how far the file is from the module.

    Raises:
        UserError: the cut has not been proven, or the forward cannot be exported.

    Example:
        >>> import tempfile, torch
        >>> from pathlib import Path
        >>> from torch import nn
        >>> import channelcut as cc
        >>> model, x = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1)).eval(), torch.rand(1, 3, 16, 16)
        >>> result = cc.prune(model, x, keep=0.5)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     print(cc.export(result, Path(folder) / "model.onnx", x).max_relative_error < 1e-4)
        True
    """
    from channelcut.onnx_out.deployed import onnx_from_deployed
    from channelcut.onnx_out.module import ExportOptions

    check_path(path, "path")
    model = result.model if isinstance(result, PruneResult) else result
    check_network(model)
    check_values(model)
    _refuse_unproven(model, allow_unproven)
    inputs, options = positional_inputs(model, x), ExportOptions(opset, dynamic_batch, dynamic_size)
    form = deployed_form(model, inputs, deploy or planned_deploy(model), dynamic=dynamic_batch or dynamic_size)
    return onnx_from_deployed(form, Path(path), options)


def _built(build: Callable[[], nn.Module]) -> nn.Module:
    """What the caller's function makes, which must be a network."""
    try:
        model = build()
    except TypeError as error:
        raise UserError(
            f"build() fails with TypeError: {error}. Expected a function without arguments that makes the original "
            "network: channelcut.load(lambda: Net(), folder)."
        ) from error
    check_network(model)
    return model


def _refuse_unproven(model: nn.Module, allowed: bool) -> None:
    record = record_of(model)
    if record is not None and not record.proven and not allowed:
        raise UserError(
            "This cut has not been proven: nothing shows that it computes what the original computes without these "
            "channels. Run channelcut.prove(model, small, plan, x) on it first, or pass allow_unproven=True."
        )


def _with_source(plan: Plan, source: str) -> Plan:
    """The plan with what makes its original, so that the command line opens its folder.

    Raises:
        UserError: the source has no known form.
    """
    if not isinstance(source, str):
        raise UserError(f"source={source!r} names no model. Expected a text such as 'nets.py:build'.")
    open_source(source)
    return replace(plan, options={**plan.options, "model": source})
