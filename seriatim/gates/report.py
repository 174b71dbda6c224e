"""OUTPUT_DIR/gates/index.html: one page that holds all verdicts and their pictures."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode

from dataset_tools.files import write_text
from seriatim.gates.verdict import Finding, Status, Verdict

_COLOURS = {
    Status.PASS: "#1a7f37",
    Status.WARN: "#9a6700",
    Status.FAIL: "#cf222e",
    Status.SKIP: "#6e7781",
}
# What each picture shows; (gate, file), or the file of any gate.
_CAPTIONS = {
    ("inputs", "inputs.png"): "What the network is given: training images as they were augmented,"
    " with the boxes that came along. Every box must lie on its object; grey is padding.",
    ("init", "losses.png"): "Each loss at initialisation beside what theory expects of it.",
    ("gradients", "gradients.png"): "The size of the gradient, layer by layer.",
    ("blind", "losses.png"): "The loss with real inputs, beside those with zeroed inputs and with"
    " shuffled labels: only the real ones should be learnt well.",
    ("lr", "range.png"): "The loss while the learning rate is raised step by step.",
    "memorised.png": "Left the truth, right what the model finds after it was trained on these very"
    " images; both should look alike.",
    "losses.png": "Every loss over the steps.",
}
_STYLE = """\
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.4rem } section { border-top: 1px solid #d0d7de; padding: .6rem 0 }
h2 { font-size: 1.1rem; margin: .2rem 0 } .status { color: white; border-radius: .3rem;
padding: 0 .5rem; font-size: .85rem } .quiet { color: #57606a } img { max-width: 100%;
border: 1px solid #d0d7de; margin: .4rem 0 } td { padding: .1rem .8rem .1rem 0;
vertical-align: top; overflow-wrap: anywhere } details td { font-size: .8rem }
dt { font-weight: 600 } dd { margin: 0 0 .4rem 1rem }
"""


def write_report(root: Path, verdicts: Sequence[Verdict], cfg: CfgNode) -> Path:
    """Write the page; pictures are inside of it, so that it can be sent to somebody."""
    names = ", ".join((*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST))
    title = f"Gates: {cfg.MODEL.META_ARCHITECTURE} on {names}"
    parts = [*_overview(verdicts), *(p for verdict in verdicts for p in _section(verdict, root))]
    body = "\n".join(parts)
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{_STYLE}</style><h1>{html.escape(title)}</h1>\n{body}\n</html>\n"
    )
    path = root / "index.html"
    write_text(path, page)
    return path


def _overview(verdicts: Sequence[Verdict]) -> Iterator[str]:
    """A line a gate, in their order; the first that failed is what to mend."""
    failed = next((verdict for verdict in verdicts if verdict.status is Status.FAIL), None)
    told = (
        f"Gate <b>{failed.gate}</b> failed: mend that first. Later gates take it for granted."
        if failed
        else "No gate failed."
    )
    yield f"<p>{told}</p><table>"
    for verdict in verdicts:
        yield (
            f'<tr><td><a href="#{verdict.gate}">{verdict.gate}</a></td><td>{_badge(verdict)}</td>'
            f'<td class="quiet">{html.escape(verdict.question)}</td></tr>'
        )
    yield "</table>"


def _badge(verdict: Verdict) -> str:
    colour = _COLOURS[verdict.status]
    return f'<span class="status" style="background:{colour}">{verdict.status}</span>'


def _section(verdict: Verdict, root: Path) -> Iterator[str]:
    yield f'<section id="{verdict.gate}"><h2>{verdict.gate} {_badge(verdict)}</h2>'
    yield f'<p class="quiet">{html.escape(verdict.question)} ({verdict.seconds:.1f} s)</p>'
    if not verdict.findings:
        yield f"<p>{html.escape(verdict.summary)}</p>"
    for finding in verdict.findings:
        yield from _finding(finding)
    for name in verdict.evidence:
        yield from _evidence(root / verdict.gate / name)
        if caption := _CAPTIONS.get((verdict.gate, name)) or _CAPTIONS.get(name):
            yield f'<p class="quiet">{html.escape(caption)}</p>'
    if verdict.numbers:
        yield "<details><summary>numbers</summary><table>"
        for name, value in verdict.numbers.items():
            text = json.dumps(_rounded(value), ensure_ascii=False).strip('"')
            yield f"<tr><td>{html.escape(name)}</td><td>{html.escape(text)}</td></tr>"
        yield "</table></details>"
    yield "</section>"


def _rounded(value: Any) -> Any:
    """Numbers with four digits: more are in gates.json."""
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


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
