"""Errors: what a user can cause, and what only a defect of channelcut can cause."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from channelcut.core.proof import Proof


_NO_MEMORY = ("out of memory", "can't allocate memory", "failed to allocate memory", "bad_alloc", "bad allocation")


class ChannelcutError(Exception):
    """Base of every error that channelcut raises on purpose."""


class UserError(ChannelcutError):
    """Something the caller can put right: one paragraph that says what, where, what was expected and how to fix it.

    The command line prints it without a traceback and exits with status 2.
    """


def no_memory(error: BaseException | None) -> bool:
    """Whether an error, or what it was raised for, is that memory ran out."""
    while error is not None:
        text = str(error).lower()
        if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
            return True
        if isinstance(error, (RuntimeError, UserError)) and any(words in text for words in _NO_MEMORY):
            return True
        error = error.__cause__
    return False


class TraceError(UserError):
    """No front end could turn the model's forward into a graph."""


class BudgetError(UserError):
    """The budget cannot be met; the text names the nearest one that can, and so does `nearest` where it is known."""

    def __init__(self, text: str, nearest: float | None = None) -> None:
        super().__init__(text)
        self.nearest = nearest


class ProofError(ChannelcutError):
    """The cut model does not compute what the masked original computes; nothing is returned."""


class ArithmeticNeeded(Exception):
    """A stage asks for a trace of the forward with its arithmetic, because one without it may have misled it.

    Only tracing, probing and proving raise it, and `prune` answers it. `proof` is what failed.
    """

    def __init__(self, proof: Proof) -> None:
        super().__init__("; ".join(proof.failures))
        self.proof = proof


class MissingExtraError(UserError):
    """An optional dependency is needed here and is not installed; the text holds the pip command."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(
            f"{purpose} needs the package {package!r}, which is not installed. Run: pip install 'channelcut[{extra}]'"
        )
        self.package, self.extra = package, extra


class RuleError(ChannelcutError):
    """A rule of an op is wrong: it raised, returned what does not fit the op's outputs, or left out what another needs.

    The text names the op and its place in the model; for a rule that raised or returned nonsense also the rule with its
    file and line, and the shapes of the arguments.
    """
