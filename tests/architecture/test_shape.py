"""Rules about the shape of the code that no linter knows."""

import ast
import inspect
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest

from dvidzarr.core import errors
from dvidzarr.core.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
FORBIDDEN_NAMES = {"utils", "util", "common", "helpers", "helper", "manager", "misc"}
MAX_LINES = 500


def modules(*folders: str) -> Iterator[Path]:
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            if path.parent != ROOT / "dvidzarr" / "wire" / "pb":  # generated
                yield path


def test_modules_stay_small() -> None:
    sizes = {
        str(path.relative_to(ROOT)): path.read_text().count("\n") for path in modules("dvidzarr", "tests")
    }
    assert sizes
    assert {name: lines for name, lines in sizes.items() if lines > MAX_LINES} == {}


def test_modules_are_named_by_what_they_hold() -> None:
    named = [path.relative_to(ROOT) for path in modules("dvidzarr", "tests")]
    assert [str(path) for path in named if FORBIDDEN_NAMES & {*path.parts[:-1], path.stem}] == []


def test_every_module_says_what_it_is() -> None:
    silent = [
        str(path.relative_to(ROOT))
        for path in modules("dvidzarr", "tests")
        if path.stat().st_size and ast.get_docstring(ast.parse(path.read_text())) is None
    ]
    assert silent == []


@pytest.mark.parametrize(
    "kind", [item for _, item in inspect.getmembers(errors, inspect.isclass) if issubclass(item, Exception)]
)
def test_errors_pickle(kind: type[Exception]) -> None:
    again = pickle.loads(pickle.dumps(kind("what, which, how much")))
    assert type(again) is kind
    assert str(again) == "what, which, how much"


def test_no_setting_is_dead() -> None:
    """Each key that config/default.toml promises is read by some module."""
    resolved = {
        "limits.bytes_in_flight": "in_flight_budget",
        "cache.chunk_cache_mb": "chunk_bytes",
        "compute.threads": "thread_count",
    }
    text = "\n".join(
        path.read_text() for path in modules("dvidzarr") if path != ROOT / "dvidzarr" / "core" / "settings.py"
    )
    keys = [resolved.get(key, key.split(".")[1]) for key, _, _ in Settings().items()]
    assert [key for key in keys if f".{key}" not in text and f'"{key}"' not in text] == []
