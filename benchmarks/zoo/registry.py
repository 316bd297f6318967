"""The zoo's table: how to build, load, calibrate and judge each network, and the accuracy it is known to have.

`python -m benchmarks.zoo.registry [names]` measures the accuracy and prints it beside the reference.

Detectors are judged on the 128 images of coco128 val, all by one protocol: every class of a cell or anchor above
score 0.001 is a candidate, suppression within a class at IoU 0.6, the best 300 kept, boxes not clipped to the image.
The reference does not record its own suppression and clipping. This protocol was chosen knowing the reference: of the
settings tried, it is one for all detectors that lies within 0.005 mAP of it at their own resolution. The agreement
therefore confirms weights and decoding, not the protocol. FastestDet is the sensitive one: clipping its boxes to the
image gives 0.208 instead of 0.187, the best class alone per cell about 0.18, and the reference lies between.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from benchmarks.zoo import fastestdet, metrics, nanodet, resnet_cifar, yolov5
from benchmarks.zoo.data import cifar10, coco128, require_assets
from channelcut.core.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from benchmarks.zoo.data import Frame, Sample

MAX_IOU = 0.6
COCO_BATCH = 8
CIFAR_BATCH = 250

Model = Callable[[Tensor], Any]
Preprocess = Callable[["NDArray[np.uint8]"], "tuple[Tensor, Frame]"]


class Evaluate(Protocol):
    """Judge a model, or anything that maps an input batch to the model's raw outputs (an engine, say)."""

    def __call__(
        self, model: Model, limit: int | None = None, *, batch_size: int | None = None, data: Any = None
    ) -> dict[str, float]:
        """Return the measures as fractions of 1, over the first `limit` images where given.

        `data` stands in the place of the held-out split: samples of a detector, images and labels of a classifier.
        """
        ...


@dataclass(frozen=True)
class Entry:
    """One network: `input_shape` is (1, C, H, W); `published` holds the reference accuracy, as fractions of 1.

    `prepare` turns a photograph, (H, W, 3) RGB bytes, into an input of the network, (C, H, W); `detections` reads what
    the outputs detect, as `channelcut.plan` takes it.
    """

    name: str
    build: Callable[[], nn.Module]
    load: Callable[[Path], nn.Module]
    input_shape: tuple[int, int, int, int]
    calibration: Callable[[int], Tensor]
    evaluate: Evaluate
    published: dict[str, float]
    prepare: Callable[[NDArray[np.uint8]], Tensor] | None = None
    detections: Callable[[Any], dict[str, Tensor]] | None = None


def detector(name: str, module: Any, size: int, published: dict[str, float]) -> Entry:
    """Make the entry of a detector module that has build, load, preprocess and decode."""
    preprocess: Preprocess = partial(module.preprocess, size=size)
    return Entry(
        name=name,
        build=module.build,
        load=module.load,
        input_shape=(1, 3, size, size),
        calibration=partial(_coco_calibration, preprocess),
        evaluate=partial(_evaluate_detector, name, preprocess, module.decode),
        published=published,
        prepare=lambda image: preprocess(image)[0],
        detections=getattr(module, "detections", None),
    )


def _classifier(
    name: str, build: Callable[[], nn.Module], load: Callable[[Path], nn.Module], published: dict[str, float]
) -> Entry:
    size = resnet_cifar.INPUT_SIZE
    evaluate = partial(_evaluate_classifier, name)
    return Entry(name, build, load, (1, 3, size, size), _cifar_calibration, evaluate, published)


def _coco_calibration(preprocess: Preprocess, n: int) -> Tensor:
    """Return the first `n` (at most 128) images of coco128 train, preprocessed, (n, 3, S, S) float32."""
    return torch.stack([preprocess(sample.image)[0] for sample in coco128("train", n)])


def _cifar_calibration(n: int) -> Tensor:
    """Return `n` images of CIFAR-10 train, the classes taking turns, normalised, (n, 3, 32, 32) float32."""
    return resnet_cifar.preprocess(cifar10("train", n)[0])


def _evaluate_detector(
    name: str,
    preprocess: Preprocess,
    decode: Callable[[Any], list[tuple[Any, Any, Any]]],
    model: Model,
    limit: int | None = None,
    *,
    batch_size: int | None = None,
    data: Sequence[Sample] | None = None,
) -> dict[str, float]:
    """Return {"map", "ap50"} over coco128 val, or over other samples."""
    truth = list(coco128("val", limit)) if data is None else data[:limit]
    found = detections(name, preprocess, decode, model, truth, batch_size or COCO_BATCH)
    return metrics.average_precision(found, truth)


def detections(
    name: str,
    preprocess: Preprocess,
    decode: Callable[[Any], list[tuple[Any, Any, Any]]],
    model: Model,
    samples: Sequence[Sample],
    batch_size: int,
) -> list[metrics.Detections]:
    """What a detector finds in each image, suppressed."""
    found: list[metrics.Detections] = []
    with _inference(model) as run, _progress(name, len(samples)) as advance:
        for chosen in _slices(len(samples), batch_size):
            fitted = [preprocess(sample.image) for sample in samples[chosen]]
            candidates = decode(run(torch.stack([pixels for pixels, _ in fitted])))
            for (_, frame), (boxes, scores, classes) in zip(fitted, candidates, strict=True):
                kept = metrics.nms(boxes, scores, classes, MAX_IOU)
                found.append(metrics.Detections(frame.to_image(boxes[kept]), scores[kept], classes[kept]))
            advance(len(fitted))
    return found


def _evaluate_classifier(
    name: str,
    model: Model,
    limit: int | None = None,
    *,
    batch_size: int | None = None,
    data: tuple[Tensor, Tensor] | None = None,
) -> dict[str, float]:
    """Return {"top1"} over CIFAR-10 test, or over other images."""
    images, labels = cifar10("test", limit) if data is None else data
    logits: list[Tensor] = []
    with _inference(model) as run, _progress(name, len(labels)) as advance:
        for chosen in _slices(len(labels), batch_size or CIFAR_BATCH):
            logits.append(torch.as_tensor(run(resnet_cifar.preprocess(images[chosen]))).float().cpu())
            advance(len(logits[-1]))
    return metrics.top1(torch.cat(logits), labels)


def _slices(total: int, size: int) -> Iterator[slice]:
    return (slice(start, min(start + size, total)) for start in range(0, total, size))


@contextmanager
def _inference(model: Model) -> Iterator[Model]:
    """Run a module in evaluation mode, on its own device and type, without gradients; restore its mode afterwards."""
    parameter = next(model.parameters(), None) if isinstance(model, nn.Module) else None
    modes = [(m, m.training) for m in model.modules()] if isinstance(model, nn.Module) else []

    def run(batch: Tensor) -> Any:
        return model(batch if parameter is None else batch.to(parameter.device, parameter.dtype))

    for module, _ in modes:
        module.training = False
    try:
        with torch.no_grad():
            yield run
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def _progress(name: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show a bar on the terminal's error stream, and nothing where that is not a terminal."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(name, total=total)
        yield lambda count: bar.advance(task, count)


def _table(*entries: Entry) -> dict[str, Entry]:
    return {entry.name: entry for entry in entries}


ENTRIES: dict[str, Entry] = _table(
    detector("fastestdet", fastestdet, 352, {"map": 0.191, "ap50": 0.355}),
    detector("nanodet_m", nanodet, 320, {"map": 0.282, "ap50": 0.429}),
    detector("yolov5n", yolov5, 416, {"map": 0.314, "ap50": 0.471}),
    _classifier("resnet20", resnet_cifar.build_resnet20, resnet_cifar.load_resnet20, {"top1": 0.9173}),
    _classifier("resnet56", resnet_cifar.build_resnet56, resnet_cifar.load_resnet56, {"top1": 0.9339}),
)

# The same weights at another resolution; apart, so that a run over the zoo does not prune one network twice.
# The reference at 640 is NOT reproduced: the stored images have 416 pixels on the longest side, and enlarging them
# gives 0.299 / 0.456. The reference may come from the full-size photographs, which are not among the assets.
VARIANTS: dict[str, Entry] = _table(detector("yolov5n_640", yolov5, 640, {"map": 0.334, "ap50": 0.494}))


def main(arguments: Sequence[str] | None = None) -> int:
    """Print measured against reference accuracy of the named entries (default: all); return the exit status."""
    from rich.console import Console
    from rich.table import Table

    known = ENTRIES | VARIANTS
    parser = argparse.ArgumentParser(prog="python -m benchmarks.zoo.registry", description=main.__doc__)
    parser.add_argument("names", nargs="*", metavar="name", help=f"any of {', '.join(known)}")
    parser.add_argument("--limit", type=int, help="use only the first images; the reference is for all")
    options = parser.parse_args(arguments)
    table = Table("network", "input", "measure", "measured", "reference", "difference")
    try:
        assets = require_assets()
        for name in options.names or known:
            if name not in known:
                raise UserError(f"The zoo has no network {name!r}. Choose from: {', '.join(known)}.")
            entry = known[name]
            measured = entry.evaluate(entry.load(assets), options.limit)
            for measure, value in measured.items():
                reference = entry.published[measure]
                shape = "×".join(map(str, entry.input_shape))
                table.add_row(name, shape, measure, f"{value:.4f}", f"{reference:.4f}", f"{value - reference:+.4f}")
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
