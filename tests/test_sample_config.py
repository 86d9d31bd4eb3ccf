"""etc/mailstack.toml: every key is in it, with the default that the code has, and says what the code says."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from mailstack.console.annotated import annotate
from mailstack.settings import Settings, Table, fields, load

SAMPLE = Path(__file__).resolve().parent.parent / "etc" / "mailstack.toml"
TEXT = SAMPLE.read_text()
KEYS = [
    (path, field)
    for path, field in fields()
    if not (isinstance(field.annotation, type) and issubclass(field.annotation, Table)) and path != ("policy", "options")
]


def all_set() -> dict[str, Any]:
    """Read the sample with every key that is commented out."""
    return tomllib.loads(uncommented())


def uncommented() -> str:
    return re.sub(r'^#(?=[a-z\["])', "", TEXT, flags=re.MULTILINE)


def at(document: dict[str, Any], path: tuple[str, ...]) -> Any:
    for name in path:
        document = document[name]
    return document


def test_it_is_what_the_code_makes() -> None:
    assert annotate({}) == TEXT, "write it anew: etc/mailstack.toml is annotate({}) of mailstack.console.annotated"


def test_as_it_is_it_sets_the_hostname_only_and_is_valid() -> None:
    assert load(SAMPLE) == Settings(hostname="mail.example.org", folder=SAMPLE.parent)
    assert {key: value for key, value in tomllib.loads(TEXT).items() if value != {}} == {"hostname": "mail.example.org"}


@pytest.mark.parametrize(("path", "field"), KEYS, ids=[".".join(path) for path, _ in KEYS])
def test_every_key_is_there_with_its_default_and_its_meaning(path: tuple[str, ...], field: Any) -> None:
    shown = at(all_set(), path)
    if not isinstance(field.default, dict):
        assert f"\n#{path[-1]} = " in TEXT or f"\n{path[-1]} = " in TEXT
    if isinstance(field.default, dict):
        assert shown in field.examples
        assert f"\n# Empty by default; an example:\n#[{'.'.join(path)}" in TEXT
    elif field.is_required():
        assert shown in field.examples
    elif field.default is None:
        assert shown in field.examples
        assert re.search(rf"^# Not set by default; an example:\n#{path[-1]} = ", TEXT, re.MULTILINE)
    else:
        default = field.default
        expected = list(default) if isinstance(default, tuple) else str(default) if isinstance(default, Path) else default
        assert (shown, type(shown)) == (expected, type(expected))
    prose = " ".join(line.removeprefix("# ") for line in TEXT.split("\n"))
    assert field.description in prose


def test_nothing_is_in_it_that_the_code_does_not_know() -> None:
    document = all_set()
    assert document["policy"].pop("options") == {"NAME": {"option": "value"}}
    found = {
        (table, key) for table, keys in document.items() if isinstance(keys, dict) and table != "transport" for key in keys
    }
    found.add(("transport",))
    found |= {(key,) for key, value in document.items() if not isinstance(value, dict)}
    assert found == {path for path, _ in KEYS}


def test_with_every_key_set_it_is_valid(tmp_path: Path) -> None:
    text = uncommented()
    (tmp_path / "mailstack.toml").write_text(text)
    secrets = ("privkey.pem", "smarthost.password", "smtp.example.net.password", "relay.key", "srs.secret", "oauth.secret")
    for secret in secrets:
        (tmp_path / secret).write_text("x")
        (tmp_path / secret).chmod(0o600)
    settings = load(tmp_path / "mailstack.toml")
    assert settings.relay.smarthost_password_file == tmp_path / "smarthost.password"


class TestAnnotate:
    def test_values_and_notes(self, tmp_path: Path) -> None:
        text = annotate(
            {"hostname": "a.test", "listen.smtp": ["[::1]:25"], "limits.errors": 5, "relay.tls": "verify"},
            {"listen": "This is a note.", "limits.errors": "So is this."},
        )
        (tmp_path / "c").write_text(text)
        settings = load(tmp_path / "c")
        assert settings.hostname == "a.test"
        assert [str(each) for each in settings.listen.smtp] == ["[::1]:25"]
        assert (settings.limits.errors, settings.relay.tls) == (5, "verify")
        assert "# This is a note.\n[listen]\n" in text
        assert "# So is this.\nerrors = 5\n" in text

    def test_text_is_quoted(self) -> None:
        odd = 'a"b\\c\nd\u2028ü'
        assert tomllib.loads(annotate({"folder": odd}))["folder"] == odd

    def test_unknown_keys(self) -> None:
        with pytest.raises(ValueError, match=r"listen\.smpt, nothing"):
            annotate({"listen.smpt": []}, {"nothing": "x"})

    def test_values_that_have_no_place(self) -> None:
        with pytest.raises(TypeError):
            annotate({"hostname": object()})
