"""
Activation: from the names in the configuration to policies, in their order.

The rules that keep an installation from being an open relay are active whether they are named or not; those that are not
named come last.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from twisted.python.failure import Failure

from mailstack.doors import House, IPolicyMaker, Policy

ALWAYS: Final = ("relaying", "sender")


class ActivationError(ValueError):
    """A policy that the configuration names cannot be had; the message tells the operator which and why."""


def activate(
    makers: Iterable[IPolicyMaker], use: Sequence[str], options: Mapping[str, Mapping[str, Any]], house: House
) -> list[tuple[str, Policy]]:
    """
    Make the policies that the configuration names.

    Raises:  ActivationError: a name is unknown or stands twice, two plugins offer it, its options are wrong, or making it
             fails in any way; all that is wrong, in one message.
    """
    offered: dict[str, list[IPolicyMaker]] = {}
    for maker in makers:
        offered.setdefault(maker.name, []).append(maker)
    names = [*use, *(name for name in ALWAYS if name not in use)]
    policies: list[tuple[str, Policy]] = []
    errors: list[str] = []
    for name in names:
        found = offered.get(name, [])
        if names.count(name) > 1:
            errors.append(f"policy {name!r} is named twice")
        elif not found:
            errors.append(f"policy {name!r} is not installed, or its module cannot be imported; found: {_listed(offered)}")
        elif len(found) > 1:
            errors.append(f"policy {name!r} is offered by {len(found)} plugins")
        else:
            try:
                policies.append((name, found[0].make(options.get(name, {}), house)))
            except Exception as error:  # a broken plugin is told to the operator, with everything else that is wrong
                errors.append(f"policy {name!r}: {error or Failure().getErrorMessage()}")
    errors += [f"options for policy {name!r}, which is not in use" for name in options if name not in names]
    if errors:
        raise ActivationError("; ".join(dict.fromkeys(errors)))
    return policies


def _listed(offered: Iterable[str]) -> str:
    return ", ".join(sorted(offered)) or "none"
