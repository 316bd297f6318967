"""At which sizes a forward runs that fails at the example's: heights and widths that are multiples of its stride."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor
from torch.nn import functional

MULTIPLES = (128, 64, 32, 16, 8, 4, 2)


def multiple_needed(run: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[int, str]:
    """The least multiple of height and width at which a forward runs, and the nearest such size in words; (0, "") if
    the size is not to blame. It is tried, not guessed: images are padded to each candidate and the forward is run.

    Args:
        run: one forward of a copy; raises what the forward raises.
        args: the inputs that it fails on, by position.
        kwargs: and by name.
    """
    images = [value for value in (*args, *kwargs.values()) if _is_image(value)]
    found = 0, ""
    for multiple in MULTIPLES:
        if all(value.shape[axis] % multiple == 0 for value in images for axis in (-2, -1)):
            continue
        try:
            run(tuple(_padded(a, multiple) for a in args), {name: _padded(a, multiple) for name, a in kwargs.items()})
        except Exception:  # noqa: BLE001  the next candidate
            if found[0]:
                break
            continue
        found = multiple, "x".join(map(str, _padded(images[0], multiple).shape))
    return found


def _is_image(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dim() == 4 and value.is_floating_point()


def _padded(value: Any, multiple: int) -> Any:
    if not _is_image(value):
        return value
    height, width = value.shape[-2:]
    return functional.pad(value, (0, -width % multiple, 0, -height % multiple))
