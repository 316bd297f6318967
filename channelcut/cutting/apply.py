"""`cut`: one `index_select` per slot, on a copy."""

from __future__ import annotations

from torch import nn

from channelcut.core.copies import copy_with
from channelcut.core.errors import UserError
from channelcut.core.plan import Plan
from channelcut.core.record import origin
from channelcut.core.tensors import architecture_fingerprint, cut_tensor, named_tensors, weights_fingerprint
from channelcut.core.trees import leaves
from channelcut.ops.refresh import refresh
from channelcut.ops.zeros import zero_module

_PLAIN = (bool, int, float, str, type(None))


def cut(model: nn.Module, plan: Plan) -> nn.Module:
    """A copy of `model` without the channels that `plan` drops; `model` itself is not touched.

    Raises:
        UserError: the plan was made for another architecture.
    """
    check_plan(model, plan)
    named = named_tensors(model)
    try:
        for path in plan.dropped:
            model.get_submodule(path)
        changed = {name: named[name].detach() for name in (*plan.kept, *plan.indices)}
        tensors = {named[name]: cut_tensor(name, changed[name], plan.kept, plan.indices) for name in changed}
    except (AttributeError, IndexError, KeyError, RuntimeError) as error:
        raise UserError(
            f"The plan names parts or positions that the model does not have ({error}): it was changed or damaged. "
            "Write the result again with `channelcut compress --force`."
        ) from error
    clone = copy_with(model, tensors)
    refresh(clone, plan.attributes)
    for path in plan.dropped:  # a place in a sequence stays a place
        parent, _, name = path.rpartition(".")
        instead = zero_module() if path in plan.zeroed else nn.Identity()
        setattr(clone.get_submodule(parent), name, _stand_in(clone.get_submodule(path), instead))
    return clone


def _stand_in(module: nn.Module, instead: nn.Module) -> nn.Module:
    """What stands for a module, with the plain attributes of it, which its parent's forward may read."""
    usual = set(vars(instead))
    for name, value in vars(module).items():
        if name not in usual and all(isinstance(leaf, _PLAIN) for leaf in leaves(value)):
            setattr(instead, name, value)
    return instead


def resize(model: nn.Module, plan: Plan) -> None:
    """Give the tensors of a cut model the extents that they have got since, to be filled with stored weights.

    Raises:
        UserError: the plan names tensors that the model does not have.
    """
    for name in plan.resized:
        path, _, attribute = name.rpartition(".")
        try:
            old = getattr(model.get_submodule(path), attribute)
            new = old.detach().new_zeros(plan.shape(name, old.shape))
        except (AttributeError, RuntimeError) as error:
            raise UserError(
                f"The plan gives {name} other extents, and the model has no such tensor: the plan was changed or "
                "damaged. Write the result again."
            ) from error
        new = nn.Parameter(new, requires_grad=old.requires_grad) if isinstance(old, nn.Parameter) else new
        setattr(model.get_submodule(path), attribute, new)
    for change in plan.changes:
        refresh(model, change.get("attributes", {}))


def check_plan(model: nn.Module, plan: Plan) -> None:
    """Refuse a plan that was made for another architecture.

    Raises:
        UserError: names or shapes of the tensors are others.
    """
    if architecture_fingerprint(model) != plan.fingerprint:
        raise UserError(
            "This plan belongs to another architecture: the names or shapes of the model's parameters differ from "
            f"those it was made for (fingerprint {architecture_fingerprint(model)}, expected {plan.fingerprint}). "
            "Build the same class with the same arguments, before any fuse()."
        )


def check_weights(model: nn.Module, plan: Plan) -> None:
    """Refuse a model that has the architecture that a plan was made for, and other weights.

    Raises:
        UserError: it has.
    """
    if origin(model)[0] != plan.weights:
        raise UserError(
            "The model has the architecture that this result was cut from, and other weights, so that its channels are "
            f"not those that the cut has (their fingerprint is {weights_fingerprint(model)}, expected {plan.weights}). "
            "Give the network as it was when it was pruned (--weights on the command line)."
        )
