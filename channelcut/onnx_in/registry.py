"""The table of operators, and what a lowering sees of the node that it lowers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from torch import Tensor

from channelcut.core.errors import UserError

if TYPE_CHECKING:
    from channelcut.onnx_in.builder import Builder, Value

Lowering = Callable[["Call"], "Value | Sequence[Value]"]
OPERATORS: dict[str, Lowering] = {}


def operator(*names: str) -> Callable[[Lowering], Lowering]:
    """Register a lowering for operators of the default ONNX domain, by name."""

    def register(function: Lowering) -> Lowering:
        for name in names:
            if name in OPERATORS:
                raise ValueError(f"Two lowerings for the ONNX operator {name}.")
            OPERATORS[name] = function
        return function

    return register


class Call:
    """One ONNX node with its inputs as values. Everything that a lowering emits goes through it."""

    def __init__(self, builder: Builder, node: Any, inputs: Sequence[Value | None], index: int) -> None:
        import onnx

        self.builder, self.node, self.inputs, self.index = builder, node, list(inputs), index
        self.kind, self.name, self.opset = node.op_type, node.name, builder.model.opset
        self._attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}

    def __getitem__(self, position: int) -> Value:
        """An input that has to be there."""
        value = self.get(position)
        if value is None:
            self.refuse(f"lacks its input {position}")
        return value

    def get(self, position: int) -> Value | None:
        """An input, or None where it is left out."""
        return self.inputs[position] if position < len(self.inputs) else None

    def attribute(self, name: str, default: Any = None) -> Any:
        """An attribute, text as str."""
        value = self._attributes.get(name, default)
        return value.decode() if isinstance(value, bytes) else value

    def tensor(self, position: int) -> Tensor | None:
        """The value of a constant input, None where it is left out; refuses one that depends on the data."""
        value = self.get(position)
        if value is None:
            return None
        if value.node is not None:
            self.refuse(
                f"takes its input {position} ({self.node.input[position]!r}) from the data; only a constant, or what "
                "follows from the input's shape, can be imported there"
            )
        return value.tensor

    def numbers(self, name: str, position: int | None = None) -> list[Any] | None:
        """Numbers from an attribute or, in later opsets, a constant input; None where there are none."""
        found = self._attributes.get(name)
        if found is not None:
            return list(found) if isinstance(found, (list, tuple)) else [found]
        tensor = None if position is None else self.tensor(position)
        if tensor is None:
            return None
        values: list[Any] = tensor.reshape(-1).tolist()
        return values

    def emit(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Value:
        """Call a torch function on values; on constants alone it is computed at once."""
        return self.builder.emit(function, *args, **kwargs)

    def constant(self, tensor: Tensor) -> Value:
        """A new constant, named after this node's output."""
        return self.builder.constant(tensor, self.node.output[0])

    def number_or(self, position: int) -> Any:
        """A constant input of one element as a number, where broadcasting does not need its axes; else the value."""
        value = self[position]
        others = [v for v in self.inputs if v is not None and v.node is not None]
        if value.node is None and value.tensor.numel() == 1 and others:
            rank = max(len(other.shape) for other in others)
            if len(value.shape) <= rank:
                return value.tensor.item()
        return value

    def axis(self, value: Value, default: int | None = None) -> int:
        """The attribute `axis`, counted from the front."""
        axis = self.attribute("axis", default)
        if axis is None:
            self.refuse("lacks its attribute axis")
        return int(axis) % max(1, len(value.shape))

    def refuse(self, why: str) -> NoReturn:
        """Raise a `UserError` that names the operator, the node, the opset and the file."""
        label = repr(self.name) if self.name else f"number {self.index}"
        made = ", ".join(output for output in self.node.output if output)
        raise UserError(
            f"{self.builder.model.path}: the operator {self.kind} (node {label}, output {made}, opset {self.opset}) "
            f"{why}. Export the model without it (for a detector: without its post-processing), replace the operator "
            "in the file, or prune the original PyTorch model instead."
        )


def lower(call: Call) -> Value | Sequence[Value]:
    """Lower one node.

    Raises:
        UserError: there is no such operator in the table, or it fails on these shapes.
    """
    domain = call.node.domain
    lowering = OPERATORS.get(call.kind) if domain in ("", "ai.onnx") else None
    if lowering is None:
        if domain in ("", "ai.onnx") and all(value is None or value.node is None for value in call.inputs):
            from channelcut.onnx_in.folding import fold

            return fold(call)
        where = f" of the domain {domain!r}" if domain not in ("", "ai.onnx") else ""
        call.refuse(f"{where.strip() + ' ' if where else ''}cannot be imported: channelcut has no layer for it")
    try:
        return lowering(call)
    except (RuntimeError, ValueError, TypeError, IndexError, NotImplementedError) as problem:
        shapes = [list(value.shape) if value is not None else None for value in call.inputs]
        reason = " ".join(str(problem).split())[:200]
        call.refuse(f"does not run on inputs of shapes {shapes} ({type(problem).__name__}: {reason})")
