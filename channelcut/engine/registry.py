"""The backends by name, imported when asked for."""

from __future__ import annotations

import importlib
from typing import cast

from channelcut.core.errors import UserError
from channelcut.engine.protocol import Backend

_MODULES = {
    "onnxruntime": "channelcut.engine.onnxruntime",
    "openvino": "channelcut.engine.openvino",
    "tensorrt": "channelcut.engine.tensorrt",
    "tensorrt_rtx": "channelcut.engine.tensorrt_rtx",
    "torch_cuda": "channelcut.engine.torch_cuda",
}


def backends() -> dict[str, str]:
    """Backend name to the module that implements it; nothing is imported."""
    return dict(_MODULES)


def require(name: str) -> Backend:
    """Return the backend of that name ("tensorrt-rtx" too means "tensorrt_rtx"); raises `UserError` listing the names.

    The vendor's library is imported only when the backend builds or loads.
    """
    module = _MODULES.get(name.strip().lower().replace("-", "_"))
    if module is None:
        raise UserError(f"There is no backend called {name!r}; known: {', '.join(sorted(_MODULES))}.")
    return cast(Backend, importlib.import_module(module))
