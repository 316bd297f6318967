"""Numbers that remember where they come from.

A forward turns widths into Python numbers (`b, c, h, w = x.shape`, `self.c`) and numbers into sizes (`view(b, c //
2, 2)`). While a forward is recorded, extents and integer attributes are `int`s that carry their origin through
arithmetic, and every op that is called with one is noted: so a hard-coded width can be refreshed where it is kept,
and a size that is taken from another tensor is known to follow it.
"""

from __future__ import annotations

import enum
import math
import operator
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from channelcut.core.graph import Origin, Ref, Site, WidthUse

_BINARY = ("add", "sub", "mul", "floordiv", "truediv", "mod", "pow", "lshift", "rshift")
_UNARY = ("neg", "pos", "abs")
_RESHAPES = frozenset({"view", "reshape", "unflatten"})
_SIZES = frozenset({"view", "reshape", "expand", "broadcast_to"})
_PIECES = frozenset({"split", "split_with_sizes", "tensor_split", "unsafe_split"})
_DROPOUT = frozenset({"dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout"})
_DEPTH = 3  # of plain objects and containers below a module's attribute


class Width(int):
    """An integer with an origin."""

    origin: Origin

    def __new__(cls, value: int, origin: Origin) -> Width:
        """Make the number; it is an `int` in every other way."""
        number = int.__new__(cls, value)
        number.origin = origin
        return number

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy or a pickle is a plain number."""
        return int, (int(self),)


class Fraction(float):
    """A float with an origin, such as `c ** -0.5`."""

    origin: Origin

    def __new__(cls, value: float, origin: Origin) -> Fraction:
        """Make the number; it is a `float` in every other way."""
        number = float.__new__(cls, value)
        number.origin = origin
        return number

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy or a pickle is a plain number."""
        return float, (float(self),)


def _tagged(value: Any, origin: Origin) -> Any:
    if type(value) is int:
        return Width(value, origin)
    return Fraction(value, origin) if type(value) is float else value


def _plain(value: Any) -> Any:
    if isinstance(value, Width):
        return int(value)
    return float(value) if isinstance(value, Fraction) else value


def _operand(value: Any) -> Any:
    return value.origin if isinstance(value, (Width, Fraction)) else value


def _binary(name: str, *, swapped: bool) -> Callable[[Any, Any], Any]:
    compute = getattr(operator, name)

    def method(self: Any, other: Any) -> Any:
        if not isinstance(other, (int, float)):
            return NotImplemented
        left, right = (other, self) if swapped else (self, other)
        return _tagged(compute(_plain(left), _plain(right)), Origin(name, (_operand(left), _operand(right))))

    return method


def _unary(name: str) -> Callable[[Any], Any]:
    compute = getattr(operator, name)
    return lambda self: _tagged(compute(_plain(self)), Origin(name, (self.origin,)))


for _name in _BINARY:
    for _kind in (Width, Fraction):
        if not (_kind is Fraction and _name in ("lshift", "rshift")):
            setattr(_kind, f"__{_name}__", _binary(_name, swapped=False))
            setattr(_kind, f"__r{_name}__", _binary(_name, swapped=True))
for _name in _UNARY:
    for _kind in (Width, Fraction):
        setattr(_kind, f"__{_name}__", _unary(_name))


def tag_attributes(model: nn.Module) -> dict[tuple[str, str], int]:
    """Replace the integers above 1 that modules of `model` (a copy) keep by numbers that remember their attribute.

    Items of tuples, lists and dicts and fields of plain objects are named with dots (`widths.1`, `config.dim`). The
    layers of torch itself are left out: what they keep follows from the shapes of their tensors. Returns what was
    tagged, by module path and attribute.
    """
    found: dict[tuple[str, str], int] = {}
    for path, module in model.named_modules():
        if type(module).__module__.startswith("torch."):
            continue
        for name, value in list(vars(module).items()):
            if not name.startswith("_") and name != "training":
                new = _tag(value, path, name, found)
                if new is not value:
                    vars(module)[name] = new
    return found


def _tag(value: Any, path: str, name: str, found: dict[tuple[str, str], int]) -> Any:
    """The value with its integers tagged; lists, dicts and objects are changed in place, because they are copies."""
    if type(value) is int and value > 1:
        found[path, name] = value
        return Width(value, Origin("attribute", (path, name, value)))
    if name.count(".") == _DEPTH or isinstance(value, (nn.Module, torch.Tensor, type)):
        return value
    if type(value) is tuple:
        items = [_tag(item, path, f"{name}.{i}", found) for i, item in enumerate(value)]
        return value if all(a is b for a, b in zip(items, value, strict=True)) else tuple(items)
    if isinstance(value, types.FunctionType):
        cells = {k: _tag(v, path, f"{name}.{k}", found) for k, v in _closure(value).items() if type(v) is int}
        return _with_closure(value, cells) if cells else value
    for key, item in _entries(value):
        new = _tag(item, path, f"{name}.{key}", found)
        if new is not item:
            _set_entry(value, key, new)
    return value


def _closure(function: types.FunctionType) -> dict[str, Any]:
    """The variables of the enclosing scope that a function uses, where they are set."""
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    return {name: cell.cell_contents for name, cell in cells if cell != types.CellType()}


def _with_closure(function: types.FunctionType, values: Mapping[str, Any]) -> types.FunctionType:
    """A function with other values in its closure; a copy of a model shares its functions, so they are made anew."""
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    closure = tuple(types.CellType(values[name]) if name in values else cell for name, cell in cells)
    made = types.FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__, closure
    )
    made.__kwdefaults__ = function.__kwdefaults__
    made.__dict__.update(function.__dict__)
    return made


def _entries(value: Any) -> list[tuple[Any, Any]]:
    """What may be tagged inside a container or a plain object; only of kinds that a copy of the model has copied."""
    if type(value) is list:
        return list(enumerate(value))
    if type(value) is dict:
        return [(k, v) for k, v in value.items() if isinstance(k, (str, int)) and "." not in str(k)]
    kind = type(value)
    plain: Any = object.__reduce_ex__
    copied = kind.__reduce_ex__ is plain and not hasattr(kind, "__deepcopy__")
    if not copied or isinstance(value, enum.Enum) or kind.__module__ in ("builtins", "types"):
        return []
    return [(k, v) for k, v in getattr(value, "__dict__", {}).items() if not k.startswith("_")]


def set_attribute(module: nn.Module, name: str, value: Any) -> None:
    """Set an attribute of a module by its dotted name, as `tag_attributes` names them.

    Raises:
        AttributeError: there is no such attribute.
    """
    head, *rest = name.split(".")
    if not hasattr(module, head):
        raise AttributeError(name)
    setattr(module, head, _replaced(getattr(module, head), rest, value))


def get_attribute(module: nn.Module, name: str) -> Any:
    """Read an attribute of a module by its dotted name."""
    value: Any = module
    for step in name.split("."):
        if isinstance(value, (list, tuple)):
            value = value[int(step)]
        elif isinstance(value, dict):
            value = value[step] if step in value else value[int(step)]
        elif isinstance(value, types.FunctionType):
            value = _closure(value)[step]
        else:
            value = getattr(value, step)
    return value


def _replaced(owner: Any, steps: list[str], value: Any) -> Any:
    """`owner` with the entry at `steps` replaced; tuples are made anew, all else is changed in place."""
    if not steps:
        return value
    step, rest = steps[0], steps[1:]
    if isinstance(owner, tuple):
        return tuple(_replaced(v, rest, value) if i == int(step) else v for i, v in enumerate(owner))
    if isinstance(owner, types.FunctionType):
        return _with_closure(owner, {step: _replaced(_closure(owner)[step], rest, value)})
    key: Any = step
    if isinstance(owner, list) or (isinstance(owner, dict) and step not in owner):
        key = int(step)
    inner = owner[key] if isinstance(owner, (list, dict)) else getattr(owner, key)
    _set_entry(owner, key, _replaced(inner, rest, value))
    return owner


def _set_entry(owner: Any, key: Any, value: Any) -> None:
    if isinstance(owner, (list, dict)):
        owner[key] = value
    else:
        object.__setattr__(owner, key, value)  # a frozen dataclass on a copy is refreshed as well


@contextmanager
def square_roots() -> Iterator[None]:
    """Let `math.sqrt` keep the origin of a number: attention divides by the root of a width."""
    plain = math.sqrt

    def root(value: Any) -> Any:
        if isinstance(value, (Width, Fraction)):
            return Fraction(plain(value), Origin("pow", (value.origin, 0.5)))
        return plain(value)

    math.sqrt = root
    try:
        yield
    finally:
        math.sqrt = plain


class WidthMode(TorchFunctionMode):
    """Hands out shapes whose extents remember their tensor, and notes every op that is called with such a number.

    `reference(tensor)` is the recorder's `Ref` of a tensor that it knows, `site()` the place that runs now, and
    `steps(since)` the nodes recorded after that many, as (index, name, args).
    """

    def __init__(
        self,
        reference: Callable[[torch.Tensor], Ref | None],
        site: Callable[[], Site],
        steps: Callable[[int], list[tuple[int, str, tuple[Any, ...]]]],
        count: Callable[[], int],
    ) -> None:
        super().__init__()
        self.reference, self.site, self.steps, self.count = reference, site, steps, count
        self.uses: list[WidthUse] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the function; tag the extents it returns; note the tagged numbers it was given."""
        kwargs = kwargs or {}
        before = self.count()
        name = getattr(func, "__name__", "")
        if name in _DROPOUT:
            return args[0]  # a random mask couples nothing, and its ops would say that it does
        result = func(*args, **kwargs)
        if isinstance(result, torch.Size):
            owner = args[0] if args and isinstance(args[0], torch.Tensor) else None
            return result if owner is None else self._size(owner, result)
        if name == "size" and type(result) is int:
            axis = int(args[1] if len(args) > 1 else kwargs["dim"])
            return self._extent(args[0], axis % args[0].dim(), result)
        if name in _RESHAPES or any(True for _ in _numbers((args, kwargs))):
            self._note(name, args, kwargs, result, before)
        return result

    def _size(self, tensor: torch.Tensor, size: torch.Size) -> torch.Size:
        return torch.Size([self._extent(tensor, axis, extent) for axis, extent in enumerate(size)])

    def _extent(self, tensor: torch.Tensor, axis: int, extent: int) -> int:
        ref = self.reference(tensor)
        return extent if ref is None else Width(extent, Origin("extent", (ref.index, axis, extent)))

    def _note(self, name: str, args: Any, kwargs: Any, result: Any, before: int) -> None:
        if name in _SIZES and isinstance(result, torch.Tensor):
            given = kwargs.get("shape", kwargs.get("size", args[1:]))
            sizes = given[0] if len(given) == 1 and isinstance(given[0], (tuple, list)) else given
            offset = result.dim() - len(sizes)
            self._extents(result, sizes, offset)
        elif name == "unflatten" and isinstance(result, torch.Tensor):
            dim, sizes = (*args[1:], *kwargs.values())[:2]
            self._extents(result, sizes, dim % args[0].dim())
        elif name in _PIECES and isinstance(result, (tuple, list)):
            self._pieces(args, kwargs, result)
        elif name in ("layer_norm", "rms_norm"):
            shape = args[1] if len(args) > 1 else kwargs["normalized_shape"]
            for axis, number in enumerate(shape, args[0].dim() - len(shape)):
                self._use(self.reference(args[0]), "extent", axis, number)
        elif name == "narrow":
            self._narrow(args, kwargs, before)
        elif name == "__getitem__":
            self._slices(args[0], args[1], before)
        else:
            for number in _numbers((args, kwargs)):
                self._number(number)

    def _extents(self, result: torch.Tensor, sizes: Any, first: int) -> None:
        ref = self.reference(result)
        for axis, number in enumerate(sizes, first):
            self._use(ref, "extent", axis, number)
            if ref is not None and int(number) == -1:
                self.uses.append(WidthUse(ref.index, "free", axis, Origin("free", ()), self.site()))

    def _narrow(self, args: Any, kwargs: Any, before: int) -> None:
        _, start, length = (*args[1:], *kwargs.values())[:3]
        made = [i for i, name, _ in self.steps(before) if name.endswith("slice")]
        if made:
            self._use(Ref(made[0]), "start", -1, start)
            self._use(Ref(made[0]), "stop", -1, start + length)

    def _pieces(self, args: Any, kwargs: Any, result: Any) -> None:
        sizes = (*args[1:], *(v for k, v in kwargs.items() if k != "dim"))[0]
        axis = int(kwargs.get("dim", args[2] if len(args) > 2 else 0)) % args[0].dim()
        each = sizes if isinstance(sizes, (tuple, list)) else [sizes] * len(result)
        if len(each) != len(result):  # tensor_split by positions
            for number in _numbers(sizes):
                self._number(number)
            return
        for piece, number in zip(result, each, strict=True):
            if int(number) == piece.shape[axis]:  # the last piece of split(size) may be smaller
                self._use(self.reference(piece), "extent", axis, number)

    def _slices(self, tensor: torch.Tensor, index: Any, before: int) -> None:
        """Bounds of slices; a number that selects one position, or indexes otherwise, must not change."""
        items = list(index) if isinstance(index, tuple) else [index]
        axis, steps = 0, self.steps(before)
        taken = sum(item is not None and item is not Ellipsis for item in items)
        for item in items:
            if item is None:
                continue
            if item is Ellipsis:
                axis += tensor.dim() - taken
                continue
            if isinstance(item, slice):
                made = [i for i, name, arguments in steps if name.endswith("slice") and _dim(arguments) == axis]
                for role, number in (("start", item.start), ("stop", item.stop)):
                    if isinstance(number, Width) and made:
                        self._use(Ref(made[0]), role, axis, number)
            else:
                for number in _numbers(item):
                    self._number(number)
            axis += 1

    def _use(self, ref: Ref | None, role: Any, axis: int, number: Any) -> None:
        if ref is not None and isinstance(number, (Width, Fraction)):
            self.uses.append(WidthUse(ref.index, role, axis, number.origin, self.site()))

    def _number(self, number: Width | Fraction) -> None:
        self.uses.append(WidthUse(max(self.count() - 1, 0), "number", -1, number.origin, self.site()))


def _dim(arguments: tuple[Any, ...]) -> int:
    return int(arguments[1]) if len(arguments) > 1 else 0


def _numbers(tree: Any) -> Iterator[Width | Fraction]:
    """Every tagged number in nested arguments."""
    if isinstance(tree, (Width, Fraction)):
        yield tree
    elif isinstance(tree, slice):
        yield from _numbers((tree.start, tree.stop, tree.step))
    elif isinstance(tree, (list, tuple)):
        for item in tree:
            yield from _numbers(item)
    elif isinstance(tree, dict):
        for item in tree.values():
            yield from _numbers(item)
