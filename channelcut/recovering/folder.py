"""A result folder, recovered into another one: the original is built anew, as the plan names it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from channelcut.adapters import Adapter
from channelcut.adapters.user_file import detections_beside
from channelcut.api import analyze
from channelcut.core.copies import private_copy
from channelcut.core.errors import UserError
from channelcut.core.progress import Progress
from channelcut.core.proof import Proof
from channelcut.core.record import record_of
from channelcut.core.result import PruneResult, Recovery
from channelcut.core.specs import read_specs
from channelcut.cutting import load_plan, restore, store
from channelcut.cutting.storage import check_fresh, fresh_folder
from channelcut.recovering.steps import Training, check_taught, checkpoint_folder, recovered
from channelcut.recovery.distil import RecoverOptions
from channelcut.recovery.distil.processes import is_first
from channelcut.samples import preprocessing_for
from channelcut.sources import Source, open_source
from channelcut.sources.outputs import uncounted_outputs


@dataclass(frozen=True)
class Folders:
    """A result and where its recovery goes.

    folder: the result.
    out: the folder to write.
    force: replace one that is there.
    weights: of the original, as `open_source` takes them.
    trust: allow a model or weights that are a pickle.
    """

    folder: Path
    out: Path
    force: bool = False
    weights: str | None = None
    trust: bool = False


def recover_folder(
    folders: Folders,
    data: Path | None,
    images: Mapping[str, Any],
    epochs: int,
    options: RecoverOptions,
    progress: Progress | None = None,
) -> Recovery:
    """Recover a result folder, and write plan and weights as `compress` does; files that followed from it are not.

    Args:
        folders: from where to where.
        data: see `channelcut.recover`; None: what `batches` beside the factory gives, with its `loss`.
        images: fields of `Preprocessing` that are asked for.
        epochs: see `channelcut.recover`.
        options: how it trains.
        progress: see `channelcut.recover`.

    Raises:
        UserError: see `channelcut.recover`; or the folder does not say what its original is.
    """
    check_fresh(folders.out, force=folders.force)
    source = _original(folders)
    model, x = source.open()
    owner, _ = source.adapter(model)
    check_taught(data, owner)
    if options.task:
        owner.check_labels(model, data)
    how = preprocessing_for(owner, model, data, images) if data is not None else None
    asked = Training(
        data, epochs, None, checkpoint_folder(folders.out), options.prepared(how), progress, owner,
        detections=detections_beside(owner),
    )  # fmt: skip
    found = recovered(model, result_in(folders.folder, model, x), asked)
    if is_first():
        _write(found, owner, folders)
    assert found.recovery is not None
    return found.recovery


def _original(folders: Folders) -> Source:
    options = load_plan(folders.folder).options
    if "model" not in options:
        raise UserError(
            f"{folders.folder} does not record which model it was cut from. Save it with its name, channelcut.save("
            'result, folder, source="nets.py:build"), or recover it in Python: channelcut.recover(model, result, ...).'
        )
    recorded = read_specs(str(options["input"])) if options.get("input") else ()
    weights = folders.weights or ("pretrained" if options.get("weights") == "pretrained" else None)
    return open_source(str(options["model"]), weights, trust=folders.trust, inputs=recorded)


def result_in(folder: Path, model: nn.Module, x: Any) -> PruneResult:
    """What is in a folder, as `prune` had returned it, but for what restoring said of itself.

    Args:
        folder: with plan and weights.
        model: the original.
        x: an example input.

    Raises:
        UserError: the folder is incomplete or damaged, is of another network, or its cut was never proven.
    """
    small = restore(lambda: private_copy(model), folder)
    record = record_of(small)
    assert record is not None
    if not record.proven:
        raise UserError(
            f"The cut in {folder} has not been proven. Run channelcut.prove on it first, and save it again."
        )
    plan = record.plan
    free, known = plan.options.get("prunable_outputs"), uncounted_outputs(model)
    groups = analyze(
        model,
        x,
        probe=False,
        prunable_outputs=None if known and list(known.outputs) == free else free,  # patterns for any of its networks
        entries=plan.options.get("entries"),
    )
    return PruneResult(small, plan, Proof.from_dict(record.rounds[-1]["proof"]), groups, plan)


def _write(found: PruneResult, owner: Adapter, folders: Folders) -> None:
    with fresh_folder(folders.out, force=folders.force) as folder:
        store(found.model, found.plan, folder)
        owner.store(found.model, folder)
    shutil.rmtree(checkpoint_folder(folders.out), ignore_errors=True)
