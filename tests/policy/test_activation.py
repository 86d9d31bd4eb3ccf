"""Policies are active when named, in order; whatever is wrong refuses the start and says so."""

from typing import Any

import pytest

from mailstack.doors import Policy, PolicyPlugin
from mailstack.plugins.builtin import relaying, sender
from mailstack.policy.activation import ActivationError, activate
from mailstack.testing.policy import FakeHouse


class Limit(Policy):
    def __init__(self, messages: int = 1) -> None:
        if messages < 1:
            raise ValueError("messages must be at least 1")
        self.messages = messages


def explode(**options: Any) -> Policy:
    raise KeyError("oops")


LIMIT, BROKEN = PolicyPlugin("limit", Limit), PolicyPlugin("broken", explode)
MAKERS = [relaying, sender, LIMIT, BROKEN]


def test_the_order_of_the_configuration_and_the_rules_that_always_hold() -> None:
    made = activate(MAKERS, ["sender", "limit"], {"limit": {"messages": 7}}, FakeHouse())
    assert [name for name, _ in made] == ["sender", "limit", "relaying"]
    assert made[1][1].messages == 7  # type: ignore[attr-defined]
    assert made[1][1].house.hostname == "mail.example.test"


@pytest.mark.parametrize(
    ("use", "options", "says"),
    [
        (["nothere"], {}, "'nothere' is not installed.*found: broken, limit, relaying, sender"),
        (["broken"], {}, "'broken': 'oops'"),
        (["limit"], {"limit": {"messages": 0}}, "'limit': messages must be at least 1"),
        (["limit"], {"limit": {"colour": "red"}}, "'limit'.*unexpected keyword argument 'colour'"),
        (["limit", "limit"], {}, "named twice"),
        ([], {"limit": {}}, "options for policy 'limit', which is not in use"),
    ],
)
def test_what_is_wrong_is_told(use: list[str], options: dict[str, dict[str, Any]], says: str) -> None:
    with pytest.raises(ActivationError, match=says):
        activate(MAKERS, use, options, FakeHouse())


def test_two_plugins_of_one_name() -> None:
    with pytest.raises(ActivationError, match="offered by 2 plugins"):
        activate([*MAKERS, LIMIT], ["limit"], {}, FakeHouse())


def test_everything_wrong_is_told_at_once() -> None:
    with pytest.raises(ActivationError, match=r"one.*; .*two"):
        activate(MAKERS, ["one", "two"], {}, FakeHouse())
