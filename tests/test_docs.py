"""What the documentation says can be followed: links, commands, options and Python code."""

from __future__ import annotations

import ast
import re
import shlex
import shutil
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import pytest
import typer.main
from typer.core import TyperGroup

import etam_edge
from etam_edge.cli.app import app
from etam_edge.media import CHAIR_VIDEO

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "examples/**/*.md", "etam_edge/weights/*.md", "tests/data/*.md")
    for path in ROOT.glob(pattern)
)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]*)\)")
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)

page = pytest.mark.parametrize("page", PAGES, ids=[str(path.relative_to(ROOT)) for path in PAGES])


def blocks(path: Path, language: str) -> Iterator[str]:
    """Fenced code of one language, without its indentation."""
    for indent, name, code in FENCE.findall(path.read_text()):
        if name == language:
            yield re.sub(f"^{indent}", "", code, flags=re.MULTILINE)


def anchors(path: Path) -> set[str]:
    """What a link may name after #: the headings, as GitHub and MkDocs spell them."""
    text = FENCE.sub("", path.read_text())
    headings = re.findall(r"^#+ +(.+?) *$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@page
def test_links_lead_somewhere(page: Path) -> None:
    text = FENCE.sub("", page.read_text())
    for target in LINK.findall(text):
        if re.match(r"[a-z]+:", target):
            continue
        place, _, anchor = target.partition("#")
        goal = (page.parent / place).resolve() if place else page
        assert goal.exists(), f"{page.name} links to {target}"
        if anchor:
            assert anchor in anchors(goal), f"{page.name} links to {target}"


def calls(path: Path) -> Iterator[list[str]]:
    """The words of every `etam-edge` command in the page's shell code."""
    for code in blocks(path, "bash"):
        for line in code.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            for start, word in enumerate(words):
                if word == "etam-edge":
                    rest = words[start + 1 :]
                    ends = [place for place, other in enumerate(rest) if other in ("&&", "||", ";", "|")]
                    yield rest[: ends[0]] if ends else rest


@lru_cache
def options() -> dict[str, set[str]]:
    """The options of every command."""
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    return {
        name: {"--help"} | {text for option in command.params for text in (*option.opts, *option.secondary_opts)}
        for name, command in group.commands.items()
    }


@page
def test_commands_and_options_exist(page: Path) -> None:
    for words in calls(page):
        if not words or words[0].startswith("-") or words[0].isupper():
            continue
        known = options().get(words[0])
        assert known is not None, f"{page.name}: etam-edge {shlex.join(words)}"
        for word in words[1:]:
            name = word.partition("=")[0]
            if name.startswith("--"):
                assert name in known, f"{page.name}: etam-edge {shlex.join(words)}"


def test_commands_are_found_at_all() -> None:
    """The test above passes on a page without commands; here are some that it has to see."""
    found = {words[0] for path in PAGES for words in calls(path) if words}
    assert {"export", "track", "check", "bench", "build", "inspect", "models", "doctor", "record"} <= found


@page
def test_python_code_parses_and_its_imports_exist(page: Path) -> None:
    for code in blocks(page, "python"):
        tree = ast.parse(code)
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("etam_edge"):
                names = ", ".join(alias.name for alias in node.names)
                exec(f"from {node.module} import {names}", {})
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "etam_edge":
                assert hasattr(etam_edge, node.attr), f"{page.name}: etam_edge.{node.attr}"


def test_first_example_of_the_readme_runs(
    nano_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("cv2")
    monkeypatch.chdir(tmp_path)
    shutil.copytree(nano_bundle, tmp_path / "bundles" / "etam_nano-fp32")
    shutil.copyfile(CHAIR_VIDEO, tmp_path / "video.mp4")
    code = next(blocks(ROOT / "README.md", "python"))
    assert len([line for line in code.splitlines() if line.strip()]) <= 5
    exec(code, {})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 60
    assert [line.split()[0] for line in lines] == [str(index) for index in range(60)]
    assert "True" in lines[0]


def test_citation_and_changelog_name_the_version() -> None:
    assert f"version: {etam_edge.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert re.search(rf"^## \[?{re.escape(etam_edge.__version__)}\b", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)


def test_contributing_names_every_room_of_the_package() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    rooms = [path for path in (ROOT / "etam_edge").iterdir() if path.is_dir() and path.name != "__pycache__"]
    assert len(rooms) >= 10
    for room in rooms:
        assert f"| `{room.name}/` |" in text, room.name
