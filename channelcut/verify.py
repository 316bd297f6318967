"""`verify`: every file of a result folder against the form before it, back to the model in torch."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from channelcut.core.errors import UserError
from channelcut.core.files import write_atomically
from channelcut.core.specs import InputSpec, write_specs
from channelcut.cutting.storage import PLAN
from channelcut.onnx_out.inputs import random_array
from channelcut.parity import compare_files
from channelcut.parity.chain import Array
from channelcut.recovery.images import Preprocessing, load_images
from channelcut.sources import open_source, specs_of

PARITY = "parity.json"


@dataclass(frozen=True)
class VerifyOptions:
    """What the files are compared on.

    data: folder of images; None: random image-like inputs.
    images: how many inputs, rounded up to whole batches.
    preprocessing: how images of the folder become inputs.
    score: boxes of at least this score are matched, where the outputs are those of a detector.
    trust: allow a model or weights that are a pickle.
    """

    data: Path | None = None
    images: int = 8
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
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
    specs = specs_of(x) or ()
    if len(specs) != 1:
        raise UserError(
            f"verify compares networks with one input tensor, and that of {folder} takes "
            f"{write_specs(specs) or 'other things'}. Compare its ONNX files with channelcut.prune's model in Python."
        )
    # The ONNX files are in float32.
    module = model.eval().float()
    batches, said = _batches(options, specs[0])
    found = compare_files(folder, module, batches, score=options.score, on_progress=on_progress)
    found["inputs"] = said
    write_atomically(folder / PARITY, (json.dumps(found, indent=1) + "\n").encode())
    return found


def _batches(options: VerifyOptions, spec: InputSpec) -> tuple[list[Array], str]:
    """Inputs of this kind, and what they are in words."""
    shape, batch = spec.shape, spec.shape[0]
    dtype = "float32" if "float" in spec.dtype else spec.dtype
    count = max(1, -(-options.images // batch))
    if options.data is None:
        generator = np.random.default_rng(0)
        drawn = [random_array(shape, dtype, generator) for _ in range(count)]
        return drawn, f"{count * batch} random image-like inputs"
    if len(shape) != 4:
        raise UserError(f"A folder of images fits a network with one image input (N, C, H, W); this one takes {shape}.")
    images, broken = load_images(options.data, (shape[1], shape[2], shape[3]), options.preprocessing, count * batch)
    if len(images) < batch:
        raise UserError(f"{options.data} holds {len(images)} readable images; one batch needs {batch}.")
    whole = len(images) // batch
    more = f", {len(broken)} unreadable ones skipped" if broken else ""
    return [
        images[i * batch : (i + 1) * batch].numpy().astype(dtype) for i in range(whole)
    ], f"{whole * batch} images{more}"
