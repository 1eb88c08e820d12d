"""Where the server and the key come from."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pandastack import AuthError, PandaStack
from pandastack._config import config_path, proxy_for, read_config, resolve, write_config


def test_nothing_is_configured() -> None:
    settings = resolve()
    assert (settings.api_url, settings.api_key) == ("http://127.0.0.1:8080", None)


@pytest.mark.parametrize("names", [("api_key", "api_url"), ("token", "base_url"), ("token", "api_base")])
def test_both_spellings(names: tuple[str, str]) -> None:
    client = PandaStack(**{names[0]: "k", names[1]: "http://h:1/"})  # type: ignore[arg-type]
    assert (client.settings.api_key, client.api_url) == ("k", "http://h:1")


def test_two_spellings_that_disagree() -> None:
    with pytest.raises(ValueError, match="api_key and token"):
        PandaStack(api_key="a", token="b")
    assert PandaStack(api_key="a", token="a").settings.api_key == "a"


def test_order_of_places(monkeypatch: pytest.MonkeyPatch) -> None:
    write_config({"token": "from-file", "api_url": "http://file"})
    assert (resolve().api_key, resolve().api_url) == ("from-file", "http://file")
    monkeypatch.setenv("PANDASTACK_TOKEN", "from-token")
    monkeypatch.setenv("PANDASTACK_API", "http://env")
    assert (resolve().api_key, resolve().api_url) == ("from-token", "http://env")
    monkeypatch.setenv("PANDASTACK_API_KEY", "from-env")
    assert resolve().api_key == "from-env"
    assert (resolve(token="mine").api_key, resolve(base_url="http://me").api_url) == ("mine", "http://me")


@pytest.mark.parametrize("name", ["token", "api_key", "apiKey"])
def test_every_published_name_in_the_file(name: str) -> None:
    write_config({name: "k"})
    assert resolve().api_key == "k"


@pytest.mark.parametrize("content", ["", "[]", "{", '{"token": 5}'])
def test_a_broken_file_is_no_key(content: str) -> None:
    config_path().parent.mkdir(parents=True)
    config_path().write_text(content)
    assert resolve().api_key is None


def test_the_file_is_for_its_owner_only(home: Path) -> None:
    path = write_config({"token": "k"})
    assert path == home / ".config/pandastack/config.json"
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o644)
    write_config({"token": "l"})
    assert path.stat().st_mode & 0o777 == 0o600
    assert json.loads(path.read_text()) == read_config() == {"token": "l"}
    assert [entry.name for entry in path.parent.iterdir()] == ["config.json"]


@pytest.mark.parametrize("url", ["localhost:80", "ftp://x", "http://", "  "])
def test_bad_urls(url: str) -> None:
    with pytest.raises(ValueError, match="http://host:port"):
        resolve(api_url=url)


@pytest.mark.parametrize("key", ["a b", "a\nb", "clé"])
def test_bad_keys(key: str) -> None:
    with pytest.raises(AuthError, match="characters"):
        resolve(api_key=key)


@pytest.mark.parametrize("value", ["-1", "nan", "abc"])
def test_bad_budgets(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PANDASTACK_MAX_CREATE_RETRY_SECONDS", value)
    with pytest.raises(ValueError, match="retry budget"):
        resolve()


@pytest.mark.parametrize(
    ("api", "url"),
    [
        ("https://api.example.com", "https://80-sb.example.com"),
        ("https://example.com/v1", "https://80-sb.example.com"),
        ("http://127.0.0.1:8080", "http://80-sb.localhost:8080"),
        ("http://localhost:99", "http://80-sb.localhost:99"),
        ("http://10.0.0.1:99", "http://80-sb.10.0.0.1:99"),
    ],
)
def test_preview_urls(api: str, url: str) -> None:
    assert resolve(api_url=api).preview_url("sb", 80, None) == url


def test_preview_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PANDASTACK_PREVIEW_HOST", ".env.example")
    assert resolve(api_url="https://a").preview_url("sb", 1, "http") == "http://1-sb.env.example"
    assert resolve(api_url="https://a", preview_host="arg").preview_url("sb", 1, None) == "https://1-sb.arg"


def test_a_key_for_this_machine_never_meets_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://proxy:1")
    monkeypatch.setenv("no_proxy", "")
    assert proxy_for(resolve(api_url="http://127.0.0.1:8080")) is None
    assert proxy_for(resolve(api_url="http://far.example")) == "http://proxy:1"
