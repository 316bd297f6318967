"""Open axes of an export: which are open, at which sizes it is traced and checked, and where a forward closes one.

A forward often keeps what it computed for one size and recomputes it when the size changes (anchors, say). Traced at
the size that it has just run at, it would write the kept values into the file as constants; so it is traced at another
size. What the trace then assumes about sizes ("guards") is tried at sizes where it does not hold.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import onnx
import torch
import torch.nn.functional as F
import torch.utils._pytree as pytree
from torch import Tensor, nn

from channelcut.core.errors import UserError
from channelcut.onnx_out.comparison import tensor_leaves
from channelcut.tracing.source import innermost_line, is_user_file, short

_STEPS = (32, 64, 128)  # by how much sides grow: what detectors' strides divide
_NAMES = {0: "batch", 2: "height", 3: "width"}
_LOGGER = "torch.fx.experimental.symbolic_shapes"
_SYMBOL = re.compile(r"^create_symbol (?P<name>\w+) = -?\d+ for (?P<source>L\S+)")
_GUARD = re.compile(r"^eval (?:\(forcing_spec\) )?(?P<text>.*) \[guard added\]")
_STANDARD_LIBRARY = str(Path(logging.__file__).parent.parent)
_MOST_PROBES = 6
_IMAGE_AXES = 4


@dataclass(frozen=True)
class OpenAxes:
    """Which axes are open: `batch` is axis 0 of every input, `size` axes 2 and 3 of those with four axes.

    `step`: by how many pixels a side may grow so that the forward still runs.
    """

    batch: bool
    size: bool
    step: int = _STEPS[0]

    def __bool__(self) -> bool:
        return self.batch or self.size

    @property
    def words(self) -> str:
        """Such as: a dynamic batch and size."""
        return "a dynamic " + " and ".join(["batch"] * self.batch + ["size"] * self.size)

    def shapes(self, inputs: tuple[Any, ...]) -> Any:
        """Return torch.export's `dynamic_shapes` for these inputs."""

        def axes(tensor: Tensor) -> dict[int, Any]:
            chosen = [0] * self.batch + [2, 3] * (self.size and tensor.dim() == _IMAGE_AXES)
            return dict.fromkeys(chosen, torch.export.Dim.DYNAMIC)

        return pytree.tree_map(axes, inputs)

    def resized(self, inputs: tuple[Any, ...], rows: int, columns: int, batch: int = 0) -> tuple[Any, ...]:
        """Return the inputs with open sides longer by that many pixels, and `batch` items where that is open."""

        def change(tensor: Tensor) -> Tensor:
            if self.size and tensor.dim() == _IMAGE_AXES:
                height, width = tensor.shape[2] + rows, tensor.shape[3] + columns
                tensor = F.interpolate(tensor.float(), (height, width)).to(tensor.dtype)
            if self.batch and batch:
                tensor = tensor[torch.arange(batch) % tensor.shape[0]]
            return tensor

        changed: tuple[Any, ...] = pytree.tree_map(change, inputs)
        return changed

    def traced(self, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return the inputs to trace with: every open extent another than the example's, and none of them 1."""
        batch = max((t.shape[0] for t in tensor_leaves(inputs)), default=1) + 1
        return self.resized(inputs, self.step, 2 * self.step, batch)

    def second(self, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return the example at a size that is neither its own nor the traced one, to check on."""
        return self.resized(inputs, 2 * self.step, self.step)


def open_axes(module: nn.Module, inputs: tuple[Any, ...], *, batch: bool, size: bool) -> OpenAxes:
    """Return the open axes, with the smallest of a few steps at which the forward runs.

    Raises `UserError` for inputs that have no such axes, and a forward that runs at the example's size only.
    """
    tensors = tensor_leaves(inputs)
    if batch and any(tensor.dim() == 0 for tensor in tensors):
        raise UserError("An input without axes has no batch; export with a fixed batch.")
    if size and not any(tensor.dim() == _IMAGE_AXES for tensor in tensors):
        raise UserError(
            f"A dynamic size is one of images (N, C, H, W); the inputs have shapes "
            f"{[tuple(t.shape) for t in tensors]}. Export with the sizes that you deploy."
        )
    if not size:
        return OpenAxes(batch, size)
    problem: Exception | None = None
    for step in _STEPS:
        axes = OpenAxes(batch, size, step)
        try:
            with torch.no_grad():
                module(*axes.resized(inputs, step, 2 * step))
                module(*inputs)
        except (RuntimeError, TypeError, ValueError, LookupError, AttributeError, AssertionError) as error:
            problem = problem or error
        else:
            return axes
    shape = tuple(next(t for t in tensors if t.dim() == _IMAGE_AXES).shape)
    raise UserError(
        f"The model cannot have a dynamic size: its forward runs on {shape}, but not with the sides longer by "
        f"{' or '.join(map(str, _STEPS))}{_where(problem)}: {type(problem).__name__}: {_line(problem)}. Expected a "
        "forward that computes what depends on the size from its input; export with the size that you deploy."
    ) from problem


def name_axes(model: onnx.ModelProto, axes: OpenAxes) -> None:
    """Call the open extents batch, height and width, in the inputs and in what is computed from them."""
    names: dict[str, str] = {}
    for value in model.graph.input:
        for axis, extent in enumerate(value.type.tensor_type.shape.dim):
            if extent.dim_param and axis in _NAMES:
                name = _NAMES[axis]
                taken = name in names.values()
                names.setdefault(extent.dim_param, f"{value.name}_{name}" if taken else name)
    if not names or not axes:
        return
    pattern = re.compile(r"\b(" + "|".join(map(re.escape, names)) + r")\b")
    for value in [*model.graph.input, *model.graph.output, *model.graph.value_info]:
        for extent in value.type.tensor_type.shape.dim:
            if extent.dim_param:
                extent.dim_param = pattern.sub(lambda found: names[found[0]], extent.dim_param)


@dataclass
class Decisions(logging.Handler):
    """What a trace decided by sizes: the text of each guard as torch logs it, with the place in the model's source."""

    module: nn.Module
    places: list[tuple[str, str]] = field(default_factory=list)
    symbols: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        logging.Handler.__init__(self)

    __hash__ = logging.Handler.__hash__

    def emit(self, record: logging.LogRecord) -> None:
        """Note a symbol, or a guard with the innermost frame that is the model's."""
        text = record.getMessage()
        if (made := _SYMBOL.match(text)) is not None:
            self.symbols[made["name"]] = _readable(made["source"])
        elif (found := _GUARD.match(text)) is not None:
            self.places.append((found["text"], _model_frame(self.module)))

    def closing(self) -> str:
        """What fixed an open extent, where, in words; empty when no place is known."""
        for text, place in self.places:
            fixed = re.fullmatch(r"Eq\((.*), (\d+)\)", text)
            if fixed is not None and place:
                what = re.sub(r"\b\w+\b", lambda symbol: self.symbols.get(symbol[0], symbol[0]), fixed[1])
                return f"the line {place} works only if {what} is {fixed[2]}"
        return ""

    def made_at(self) -> str:
        """The places of all comparisons of sizes that the model's own source makes, without repeats."""
        return ", ".join(list(dict.fromkeys(place for _, place in self.places if place))[:3])


@contextmanager
def watching(module: nn.Module) -> Iterator[Decisions]:
    """Collect what torch.export decides by sizes in the block."""
    logger, handler = logging.getLogger(_LOGGER), Decisions(module)
    handlers, level, propagate = list(logger.handlers), logger.level, logger.propagate
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(logging.INFO)
    try:
        yield handler
    finally:
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)


def guard_probes(program: Any, inputs: tuple[Any, ...], axes: OpenAxes) -> list[tuple[str, tuple[Any, ...]]]:
    """Return, for what the trace assumes about sizes, inputs at which it does not hold: (the assumption, inputs).

    Sizes up to twice the example's are tried, multiples of the step and odd ones, the smallest first; at most six
    inputs, each for as many assumptions as it breaks. What no such size breaks is not probed. Of a torch that does not
    tell its assumptions, the smallest sizes.
    """
    said = getattr(program, "_guards_code", None)
    guards: list[str] = list(said or ())
    image = next((t for t in tensor_leaves(inputs) if t.dim() == _IMAGE_AXES), None)
    if image is None or not axes.size:
        return []
    height, width = image.shape[2:]
    sides = [[*range(axes.step, 2 * e + 1, axes.step), e + 1, e + axes.step // 2] for e in (height, width)]
    sizes = sorted(((h, w) for h in sides[0] for w in sides[1]), key=lambda size: (size[0] * size[1], size))
    if said is None:
        few = sizes[:_MOST_PROBES]
        return [("a size like the traced one", axes.resized(inputs, h - height, w - width)) for h, w in few]
    shapes = pytree.tree_map(lambda tensor: tensor.to("meta"), inputs)
    probes: list[tuple[str, tuple[Any, ...]]] = []
    for h, w in sizes:
        if not guards or len(probes) == _MOST_PROBES:
            break
        changed = axes.resized(shapes, h - height, w - width)
        broken = [guard for guard in guards if not _holds(guard, changed)]
        if broken:
            probes.append((broken[0], axes.resized(inputs, h - height, w - width)))
            guards = [guard for guard in guards if guard not in broken]
    return probes


def refuse_decisions(
    probes: Sequence[tuple[str, tuple[Any, ...]]], compare: Callable[[tuple[Any, ...]], str | None], made_at: str
) -> tuple[str, ...]:
    """Compare at every probe; returns warnings about sizes at which the file does not run though the module does.

    `compare`: why the file differs from the module on these inputs, None if it does not; raises `UserError` where it
    does not run. Sizes at which the module itself does not run are passed over. Raises `UserError` where file and
    module differ: the forward takes another way at that size, which a file cannot.
    """
    warnings = []
    for guard, inputs in probes:
        image = next(t for t in tensor_leaves(inputs) if t.dim() == _IMAGE_AXES)
        size = f"{image.shape[2]}×{image.shape[3]}"
        try:
            reason = compare(inputs)
        except UserError as problem:
            warnings.append(
                f"at {size} the module runs and the ONNX model does not: {' '.join(str(problem).split())[:200]}"
            )
            continue
        except (RuntimeError, TypeError, ValueError, LookupError, AttributeError, AssertionError):
            continue
        if reason is not None:
            raise UserError(
                f"The model decides by the size of its input and cannot have a dynamic one: the trace assumes "
                f"{_readable(guard)}, and at {size}, where that does not hold, {reason}. Sizes are compared at "
                f"{made_at or 'no place that torch names'}. Export with the size that you deploy."
            )
    return tuple(dict.fromkeys(warnings))


def _holds(guard: str, inputs: tuple[Any, ...]) -> bool:
    """Whether torch's own text of an assumption is true of these inputs; what it cannot evaluate counts as broken."""
    try:
        return bool(eval(guard, {"torch": torch}, {"L": {"inputs": inputs}}))  # torch wrote the text
    except Exception:  # noqa: BLE001
        return False


def _readable(guard: str) -> str:
    """The text with batch, height and width for what torch writes of the inputs."""
    for axis, name in _NAMES.items():
        guard = re.sub(rf"L\['inputs'\](\[[^\]]+\])+\.size\(\)\[{axis}\]", name, guard)
    return guard


def _model_frame(module: nn.Module) -> str:
    """The innermost running frame of the model's own source, with the module it belongs to."""
    names = {id(part): name for name, part in module.named_modules()}
    frame: FrameType | None = sys._getframe(1)
    place = ""
    while frame is not None:
        if place or _is_the_models(frame.f_code.co_filename):
            place = place or short(frame.f_code.co_filename, frame.f_lineno)
            owner = names.get(id(frame.f_locals.get("self")))
            if owner:
                inside = owner.removeprefix("model").removeprefix(".")
                return f"{place} in {inside}" if inside else place
        frame = frame.f_back
    # Without a module of this model on the stack, the innermost frame is whoever called the exporter.
    return ""


def _is_the_models(filename: str) -> bool:
    library = filename.startswith(_STANDARD_LIBRARY) and "site-packages" not in filename
    return is_user_file(filename) and not library


def _where(problem: BaseException | None) -> str:
    place = innermost_line(problem.__traceback__) if problem is not None else ""
    return f" (at {place})" if place else ""


def _line(problem: BaseException | None) -> str:
    return " ".join(str(problem).split())[:300]
