"""Settings: layers, sources, checks, and that the documented file says the same as the code."""

import os
import pickle
import tomllib
from dataclasses import fields
from itertools import pairwise
from pathlib import Path

import pytest

from dvidzarr.core.errors import InvalidInputError
from dvidzarr.core.resources import read_resource
from dvidzarr.core.settings import SECTIONS, ServerSettings, Settings, StorageSettings


def test_the_documented_file_lists_every_key_with_its_default() -> None:
    tables = tomllib.loads(read_resource("config/default.toml").decode())
    assert list(tables) == list(SECTIONS)
    for section, table in tables.items():
        assert list(table) == [item.name for item in fields(SECTIONS[section])]
        assert SECTIONS[section](**table) == SECTIONS[section]()


def test_the_documented_file_has_a_comment_above_every_key() -> None:
    lines = read_resource("config/default.toml").decode().splitlines()
    for above, line in pairwise(lines):
        if " = " in line and not line.startswith("#"):
            assert above.startswith("#"), line


def test_the_documented_file_loads_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_bytes(read_resource("config/default.toml"))
    assert Settings.load(file, env={}) == Settings()


def test_later_layers_win_and_are_named(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text('[server]\nport = 1\nhost = "h"\nnote = "from file"\n[storage]\nflush_interval_s = 2\n')
    env = {"DVIDZARR_SERVER_PORT": "2", "DVIDZARR_SERVER_HOST": "e", "PATH": "/bin"}
    loaded = Settings.load(file, env, {"server.port": 3, "server.name": None})
    assert (loaded.server.port, loaded.server.host, loaded.server.note) == (3, "e", "from file")
    assert loaded.storage.flush_interval_s == 2.0
    sources = {key: source for key, _, source in loaded.items()}
    assert sources["server.port"] == "override"
    assert sources["server.host"] == "environment"
    assert sources["server.note"] == str(file)
    assert sources["server.name"] == "default"


def test_environment_values_become_what_the_setting_is() -> None:
    env = {
        "DVIDZARR_STORAGE_CACHE_DIR": "/a b/c",
        "DVIDZARR_SERVER_CORS_DOMAINS": "a.org, b.org,",
        "DVIDZARR_LIMITS_QUEUE_TIMEOUT_S": "0.5",
        "DVIDZARR_COMPUTE_THREADS": "3",
        "DVIDZARR_SERVER_READ_ONLY": "True",
    }
    loaded = Settings.load(env=env)
    assert loaded.storage.cache_dir == "/a b/c"
    assert loaded.server.cors_domains == ("a.org", "b.org")
    assert loaded.limits.queue_timeout_s == 0.5
    assert loaded.compute.thread_count == 3
    assert loaded.server.read_only is True
    assert Settings.load(env={"DVIDZARR_SERVER_READ_ONLY": "0"}) == Settings()
    with pytest.raises(InvalidInputError, match="true or false"):
        Settings.load(env={"DVIDZARR_SERVER_READ_ONLY": "yes"})


OTHER = {
    int: (1 << 21, "2097152"),
    float: (0.25, "0.25"),
    str: ("other", '"other"'),
    tuple: (("a", "b"), '["a", "b"]'),
    bool: (True, "true"),
}
CHOICES = {"server.anonymous": "reader", "storage.durability": "fast"}
LARGEST = {"server.port": 65535, "server.workers": 256}


@pytest.mark.parametrize("key", [key for key, _, _ in Settings().items()])
def test_every_key_can_be_set_everywhere(tmp_path: Path, key: str) -> None:
    """File, environment and command line mean the same, and say where a value came from."""
    section, _, name = key.partition(".")
    kind = next(type(value) for known, value, _ in Settings().items() if known == key)
    value, toml = (CHOICES[key], f'"{CHOICES[key]}"') if key in CHOICES else OTHER[kind]
    value, toml = (LARGEST[key], str(LARGEST[key])) if key in LARGEST else (value, toml)
    plain = ",".join(value) if isinstance(value, tuple) else toml.strip('"')
    file = tmp_path / "settings.toml"
    file.write_text(f"[{section}]\n{name} = {toml}\n")
    ways = {
        str(file): Settings.load(file, env={}),
        "environment": Settings.load(env={f"DVIDZARR_{section}_{name}".upper(): plain}),
        "command line": Settings.load(env={}, texts={key: plain}),
        "override": Settings.load(env={}, overrides={key: value}),
    }
    for source, settings in ways.items():
        assert [row for row in settings.items() if row[2] != "default"] == [(key, value, source)]


def test_without_arguments_the_process_environment_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVIDZARR_SERVER_NOTE", "from the shell")
    assert Settings.load().server.note == "from the shell"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[server]\nprot = 1\n", "server.prot"),
        ("[sever]\nport = 1\n", "sever.port"),
        ("port = 1\n", "port"),
        ("[server]\nport = true\n", "server.port"),
        ('[server]\nport = "8000"\n', "server.port"),
        ("[server]\nport = -1\n", "at least 0"),
        ("[server]\nport = 65536\n", "at most 65535"),
        ("[server]\nworkers = 1000\n", "at most 256"),
        ("[server]\ncors_domains = [1]\n", "server.cors_domains"),
        ("[limits]\nqueue_timeout_s = nan\n", "limits.queue_timeout_s"),
        ('[storage]\ndurability = "some"\n', "full, fast"),
        ("[server\n", "cannot read"),
    ],
)
def test_a_bad_file_is_refused_naming_key_and_file(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "settings.toml"
    file.write_text(text)
    with pytest.raises(InvalidInputError) as caught:
        Settings.load(file, env={})
    assert words in str(caught.value)
    assert str(file) in str(caught.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="cannot read the settings file"):
        Settings.load(tmp_path / "none.toml", env={})


@pytest.mark.parametrize(
    "env",
    [{"DVIDZARR_SERVER_PROT": "1"}, {"DVIDZARR_PORT": "1"}, {"DVIDZARR_SERVER_PORT": "x"}, {"DVIDZARR_": ""}],
)
def test_a_bad_variable_is_refused_naming_it(env: dict[str, str]) -> None:
    with pytest.raises(InvalidInputError, match="environment"):
        Settings.load(env=env)


def test_an_unknown_override_is_refused() -> None:
    with pytest.raises(InvalidInputError, match=r"unknown setting server\.x"):
        Settings.load(env={}, overrides={"server.x": 1})


def test_sections_made_in_code_are_checked_too() -> None:
    with pytest.raises(InvalidInputError):
        StorageSettings(durability="often")
    with pytest.raises(InvalidInputError):
        ServerSettings(port=-1)


def test_automatic_values_are_resolved() -> None:
    settings = Settings()
    assert settings.compute.thread_count >= 1
    assert settings.limits.in_flight_budget >= 1
    assert settings.cache.chunk_bytes == 256 << 20


def test_settings_pickle() -> None:
    settings = Settings.load(env={}, overrides={"server.port": 5})
    assert pickle.loads(pickle.dumps(settings)) == settings


@pytest.mark.parametrize(
    ("wanted", "cores", "count"), [(0, 1, 1), (0, 2, 2), (0, 64, 4), (7, 2, 7), (1, 64, 1)]
)
def test_one_process_per_core_serves_unless_told_otherwise(
    monkeypatch: pytest.MonkeyPatch, wanted: int, cores: int, count: int
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    assert ServerSettings(workers=wanted).process_count == count
