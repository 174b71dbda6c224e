"""OUTPUT_DIR/gates/index.html: one page that holds all verdicts and their pictures."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from detectron2.config import CfgNode

from dataset_tools.files import write_text
from seriatim.gates.verdict import Finding, Status, Verdict

_COLOURS = {
    Status.PASS: "#1a7f37",
    Status.WARN: "#9a6700",
    Status.FAIL: "#cf222e",
    Status.SKIP: "#6e7781",
}
_STYLE = """\
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.4rem } section { border-top: 1px solid #d0d7de; padding: .6rem 0 }
h2 { font-size: 1.1rem; margin: .2rem 0 } .status { color: white; border-radius: .3rem;
padding: 0 .5rem; font-size: .85rem } .quiet { color: #57606a } img { max-width: 100%;
border: 1px solid #d0d7de; margin: .4rem 0 } pre { background: #f6f8fa; padding: .6rem;
overflow-x: auto; font-size: .8rem } dt { font-weight: 600 } dd { margin: 0 0 .4rem 1rem }
"""


def write_report(root: Path, verdicts: Sequence[Verdict], cfg: CfgNode) -> Path:
    """Write the page; pictures are inside of it, so that it can be sent to somebody."""
    names = ", ".join((*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST))
    title = f"Gates: {cfg.MODEL.META_ARCHITECTURE} on {names}"
    body = "\n".join(part for verdict in verdicts for part in _section(verdict, root))
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{_STYLE}</style><h1>{html.escape(title)}</h1>\n{body}\n</html>\n"
    )
    path = root / "index.html"
    write_text(path, page)
    return path


def _section(verdict: Verdict, root: Path) -> Iterator[str]:
    colour = _COLOURS[verdict.status]
    yield f'<section id="{verdict.gate}"><h2>{verdict.gate}'
    yield f' <span class="status" style="background:{colour}">{verdict.status}</span></h2>'
    yield f'<p class="quiet">{html.escape(verdict.question)} ({verdict.seconds:.1f} s)</p>'
    if not verdict.findings:
        yield f"<p>{html.escape(verdict.summary)}</p>"
    for finding in verdict.findings:
        yield from _finding(finding)
    for name in verdict.evidence:
        yield from _evidence(root / verdict.gate / name)
    if verdict.numbers:
        numbers = html.escape(json.dumps(verdict.numbers, indent=1, ensure_ascii=False))
        yield f"<details><summary>numbers</summary><pre>{numbers}</pre></details>"
    yield "</section>"


def _finding(finding: Finding) -> Iterator[str]:
    yield f"<dl><dt>measured</dt><dd>{html.escape(finding.measured)}</dd>"
    yield f"<dt>expected</dt><dd>{html.escape(finding.expected)}</dd>"
    yield "<dt>likeliest causes</dt><dd><ol>"
    yield from (f"<li>{html.escape(str(cause))}</li>" for cause in finding.causes)
    yield "</ol></dd></dl>"


def _evidence(path: Path) -> Iterator[str]:
    kinds = {".png": "png", ".jpg": "jpeg"}
    if path.suffix in kinds and path.is_file():
        data = base64.b64encode(path.read_bytes()).decode()
        kind = kinds[path.suffix]
        yield f'<p><img alt="{html.escape(path.stem)}" src="data:image/{kind};base64,{data}"></p>'
    else:
        yield f'<p class="quiet">{html.escape(path.name)}</p>'
