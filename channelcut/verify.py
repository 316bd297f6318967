"""`verify`: every file of a result folder against the form before it, back to the model in torch."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from channelcut.adapters import adapter_of, deployed_form, images_of
from channelcut.core.checked import write_json
from channelcut.core.deployed import Deployed
from channelcut.core.errors import UserError
from channelcut.core.inputs import positional_inputs
from channelcut.core.record import planned_deploy, record_of
from channelcut.core.specs import InputSpec, write_specs
from channelcut.cutting.storage import PLAN
from channelcut.onnx_out.inputs import random_array
from channelcut.parity import Matching, compare_files
from channelcut.parity.chain import Batch
from channelcut.samples import preprocessing_for
from channelcut.sources import open_source, specs_of

PARITY = "parity.json"


@dataclass(frozen=True)
class VerifyOptions:
    """What the files are compared on.

    data: folder of images, or a data set of the network's library, such as Ultralytics' data.yaml; None: the data set
        that the plan names, where it is still there, else random image-like inputs.
    images: how many inputs, rounded up to whole batches.
    preprocessing: fields of `Preprocessing` that are asked for; the others are as the model's library says.
    score: boxes of at least this score are matched, where the outputs are those of a detector.
    trust: allow a model or weights that are a pickle.
    """

    data: Path | None = None
    images: int = 8
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    score: float = 0.25
    trust: bool = False


def verify(
    folder: Path, options: VerifyOptions, on_progress: Callable[[int, int], None] | None = None
) -> dict[str, Any]:
    """Compare the files of a result of `compress`, and write what was found to `parity.json` in its folder.

    Args:
        folder: a result folder.
        options: what the files are compared on.
        on_progress: called as on_progress(done, total).

    Returns:
        The content of `parity.json`: a row per file, the first one that breaks (or None), and what it was tried on.

    Raises:
        UserError: the folder is no result, or the images do not fit its network.
    """
    folder = Path(folder)
    if not (folder / PLAN).is_file():
        raise UserError(f"{folder} is no result of `channelcut compress`: it has no {PLAN}.")
    source = open_source(str(folder), trust=options.trust)
    model, x = source.open()
    specs = specs_of(positional_inputs(model, x))
    if specs is None:
        raise UserError(
            f"verify compares networks whose inputs are tensors, and that of {folder} takes other things beside them."
        )
    form = deployed_form(model.eval().float(), positional_inputs(model, x), planned_deploy(model))
    options = _with_data(options, model)
    batches, said = _batches(options, model, specs)
    matching = Matching(options.score, _classes(form), real=options.data is not None)
    found = compare_files(folder, form, batches, matching=matching, on_progress=on_progress)
    found["inputs"] = said
    write_json(folder / PARITY, found)
    return found


def _classes(form: Deployed) -> int | None:
    """How many classes the deployed form tells, where its metadata say so."""
    names = form.metadata.get("names")
    return len(ast.literal_eval(names)) if names else None


def _with_data(options: VerifyOptions, model: nn.Module) -> VerifyOptions:
    """The options with the data set that `compress` was given, where none is asked for and it is still there."""
    record = record_of(model)
    data = str(record.plan.options.get("data", "")) if record else ""
    return replace(options, data=Path(data)) if options.data is None and data and Path(data).exists() else options


def _batches(options: VerifyOptions, model: nn.Module, specs: Sequence[InputSpec]) -> tuple[list[Batch], str]:
    """Inputs of these kinds, and what they are in words."""
    shape, batch = specs[0].shape, specs[0].shape[0]
    kinds = [(spec.shape, "float32" if "float" in spec.dtype else spec.dtype) for spec in specs]
    count = max(1, -(-options.images // batch))
    if options.data is None:
        generator = np.random.default_rng(0)
        drawn = [tuple(random_array(s, dtype, generator) for s, dtype in kinds) for _ in range(count)]
        return list(drawn), f"{count * batch} random image-like inputs"
    if len(shape) != 4 or len(specs) != 1:
        raise UserError(
            "A folder of images fits a network with one image input (N, C, H, W); this one takes "
            f"{write_specs(specs)}. Leave --data out for random inputs."
        )
    how = preprocessing_for(adapter_of(model), model, options.data, options.preprocessing)
    images, broken = images_of(model, options.data, shape[1:], how, count * batch)
    if len(images) < batch:
        raise UserError(f"{options.data} holds {len(images)} readable images; one batch needs {batch}.")
    whole = len(images) // batch
    more = f", {len(broken)} unreadable ones skipped" if broken else ""
    return [
        images[i * batch : (i + 1) * batch].numpy().astype(kinds[0][1]) for i in range(whole)
    ], f"{whole * batch} images{more}"
