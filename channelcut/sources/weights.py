"""Files of weights: what they hold, and how a model gets it."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from channelcut.core.errors import UserError
from channelcut.core.words import kind_of

SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".safetensors")


def first_line(error: BaseException) -> str:
    """The first line of what an error says, or its kind."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200] if lines else type(error).__name__


def with_weights(model: nn.Module, path: Path, trust: bool) -> nn.Module:
    """Load a state dict strictly."""
    tensors = read_state(path, trust=trust)
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()]
        raise UserError(
            f"{path} does not fit the model: {' '.join(lines[:3])[:400]}. Expected the state dict of the same class."
        ) from error
    return model.eval()


def read_state(path: Path, *, trust: bool = False) -> dict[str, torch.Tensor]:
    """The tensors of a weights file, out of common wrappers (`state_dict`, `model`, a `module.` prefix).

    Raises:
        UserError: see `read_weights`.
    """
    state = read_weights(path, trust=trust)
    for key in ("state_dict", "model", "model_state_dict"):
        inner = state.get(key)
        if isinstance(inner, dict):
            state = inner
    return {name.removeprefix("module."): value for name, value in state.items() if isinstance(value, torch.Tensor)}


def read_weights(path: Path, *, trust: bool = False) -> dict[str, object]:
    """Read a weights file; a pickle with code in it only where `trust` allows.

    Raises:
        UserError: the file is missing, truncated, of another kind, or a pickle that was not trusted.
    """
    import pickle

    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not Path(path).is_file():
        raise UserError(
            f"There is no weights file {path}. Expected --weights pretrained, --weights random, or the path of a state "
            f"dict ({', '.join(SUFFIXES)})."
        )
    try:
        if Path(path).suffix == ".safetensors":
            return dict(load_file(path))
        found = torch.load(path, map_location="cpu", weights_only=not trust)
    except (pickle.UnpicklingError, KeyError, AttributeError, IndexError, TypeError) as error:
        if "eights_only" in str(error) or "nsupported" in str(error):
            raise UserError(
                f"{path} is a pickle that holds more than tensors: loading it runs whatever code its author put in. "
                f"If you trust "
                "where it comes from, add --trust; better, ask its author for a state dict or a .safetensors file."
            ) from error
        raise UserError(_damaged(path, error)) from error
    except (RuntimeError, EOFError, SafetensorError, OSError, ValueError) as error:
        raise UserError(_damaged(path, error)) from error
    if isinstance(found, nn.Module):
        return dict(found.state_dict())
    if not isinstance(found, dict):
        raise UserError(f"{path} holds {kind_of(found)}. Expected a state dict.")
    return found


def _damaged(path: Path, error: Exception) -> str:
    return (
        f"{path} cannot be read ({first_line(error)}): it is truncated or no weights file. Copy it again and compare "
        "checksums."
    )
