"""Any file and environment results in settings or `ConfigError`, never in another exception."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.config.helpers import BASE

from moorage.config.environment import variable_of
from moorage.config.load import load
from moorage.config.model import Settings
from moorage.config.problems import ConfigError, Problem
from moorage.config.schema import walk


@cache
def _file() -> Path:
    return Path(tempfile.mkdtemp(prefix="moorage-fuzz-"), "config.yml")


def _load(content: bytes, environ: dict[str, str]) -> None:
    _file().write_bytes(content)
    problems: tuple[Problem, ...] = ()
    try:
        loaded = load(_file(), environ)
    except ConfigError as error:
        problems = error.problems
    if problems:
        assert any(problem.kind == "error" for problem in problems)
        assert all(str(problem) for problem in problems)
        return
    assert not any(problem.kind == "error" for problem in loaded.warnings)
    assert loaded.settings.storage.driver in {"filesystem", "inmemory", "s3", "gcs"}
    assert loaded.settings.http.addr


PATHS = [path for path, _ in walk(Settings)]
WORDS = sorted({step.removesuffix("[]") for path in PATHS for step in path})
VARIABLES = sorted({variable_of(path) for path in PATHS})

text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
scalars = st.one_of(
    text, st.booleans(), st.none(), st.integers(), st.floats(),
    st.sampled_from(["10s", "yes", "~", "0123", "1e3", "inmemory", "filesystem", "redis", "none", ":5000", "x:1",
                     "("]),
)  # fmt: skip
trees = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.one_of(st.sampled_from(WORDS), text), inner, max_size=4),
    ),
    max_leaves=20,
)
names = st.one_of(
    st.sampled_from(VARIABLES),
    st.lists(st.sampled_from([*(word.upper() for word in WORDS), "0", "1", "7", "x", "", "-1"]), max_size=6).map(
        lambda parts: "_".join(["REGISTRY", *parts])
    ),
    text.map(lambda tail: f"REGISTRY_{tail}"),
)
payloads = st.one_of(text, scalars.map(str), trees.map(lambda tree: yaml.safe_dump(tree, default_flow_style=True)))
environments = st.dictionaries(names, payloads, max_size=5)


@pytest.mark.slow
@settings(deadline=None, max_examples=150)
@given(st.binary(max_size=200), environments)
def test_any_bytes(content: bytes, environ: dict[str, str]) -> None:
    """A volume mounted in place of the file."""
    _load(content, environ)


@pytest.mark.slow
@settings(deadline=None, max_examples=300)
@given(st.dictionaries(st.sampled_from(WORDS), trees, max_size=5), environments)
def test_any_tree_of_known_words(tree: dict[str, object], environ: dict[str, str]) -> None:
    """Known keys in every wrong place, with values of every wrong shape."""
    _load(yaml.safe_dump({"version": 0.1} | tree).encode(), environ)


@pytest.mark.slow
@settings(deadline=None, max_examples=300)
@given(st.sampled_from(PATHS), trees)
def test_any_value_at_any_key(path: tuple[str, ...], value: object) -> None:
    """Each field gets what it never expected."""
    for step in reversed(path[1:]):
        value = {step.removesuffix("[]"): [value] if step.endswith("[]") else value}
    tree = yaml.safe_load(BASE)
    head = path[0].removesuffix("[]")
    tree[head] = tree[head] | value if isinstance(tree.get(head), dict) and isinstance(value, dict) else value
    _load(yaml.safe_dump(tree).encode(), {})


@pytest.mark.slow
@settings(deadline=None, max_examples=300)
@given(environments)
def test_any_variables_over_a_good_file(environ: dict[str, str]) -> None:
    """Variables of other programs have our prefix, too."""
    _load(BASE.encode(), environ)
