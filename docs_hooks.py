"""MkDocs hooks: pages that are kept elsewhere in the repository, and the reference of the commands.

README, changelog, contributing guide, model card and the READMEs of the examples stay where readers look for them.
The site shows them as pages, with their links adjusted. Links to source files become plain text on the site.
"""

from __future__ import annotations

import html
import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent
COMMANDS = "reference/commands.md"
PAGES = {
    "README.md": "overview.md",
    "CHANGELOG.md": "project/changelog.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "RELEASING.md": "project/releasing.md",
    "etam_edge/weights/MODEL_CARD.md": "reference/model_card.md",
    "examples/README.md": "examples/index.md",
    "examples/01_track_a_video/README.md": "examples/01_track_a_video.md",
    "examples/02_camera_loop/README.md": "examples/02_camera_loop.md",
    "examples/03_quantize_and_check/README.md": "examples/03_quantize_and_check.md",
    "examples/04_deploy_to_jetson/README.md": "examples/04_deploy_to_jetson.md",
    "examples/05_segment_images/README.md": "examples/05_segment_images.md",
}
"""Page of the site by file of the repository."""
SOURCES = {page: file for file, page in PAGES.items()}
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s#]*)(#[^)\s]*)?\)")
FENCE = re.compile(r"(^```.*?^```)", re.MULTILINE | re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not in docs/."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links between files of the repository into links between pages of the site."""
    if page.file.src_uri == COMMANDS:
        return f"{markdown}\n{commands()}"
    source = SOURCES.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    parts = FENCE.split(markdown)
    return "".join(part if part.startswith("```") else _relink(part, source, page.file.src_uri) for part in parts)


def _relink(text: str, source: str, page: str) -> str:
    """
    Args:
        source: path of the text's file in the repository.
        page: path of its page in the site.
    """

    def relink(match: re.Match[str]) -> str:
        image, label, target, anchor = match.group(1), match.group(2), match.group(3), match.group(4) or ""
        if not target or ":" in target:
            return match.group(0)
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        if not (ROOT / path).exists():
            raise PluginError(f"{source} links to {target}, and there is no {path} in the repository")
        if path.startswith("docs/"):
            goal = path.removeprefix("docs/")
        elif path in PAGES:
            goal = PAGES[path]
        else:
            return label
        return f"{image}[{label}]({posixpath.relpath(goal, posixpath.dirname(page))}{anchor})"

    return LINK.sub(relink, text)


def commands() -> str:
    """The commands with all their arguments and options, as Markdown."""
    from typer.cli import get_docs_for_click
    from typer.core import TyperGroup
    from typer.main import get_command

    from etam_edge.cli.app import app

    group = get_command(app)
    if not isinstance(group, TyperGroup):
        raise TypeError("the program is no group of commands")
    text = get_docs_for_click(obj=group, ctx=group.make_context("etam-edge", [], resilient_parsing=True))
    return html.unescape(text).partition("\n")[2]
