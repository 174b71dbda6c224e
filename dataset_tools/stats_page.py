"""One HTML page with all that can be counted in datasets; it needs no other file and no network."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from dataset_tools import stats_plots
from dataset_tools.coco import Dataset
from dataset_tools.errors import InputError
from dataset_tools.files import write_text
from dataset_tools.images import inside
from dataset_tools.split import uniform
from dataset_tools.stats import Statistics, dataset_statistics, share_below

MOST_IMAGES = 500  # of which the brightness is measured, chosen by hash
_SIDE = 64  # px to which they are made small for that

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #1c1f24; background: #fff;
       margin: 0 auto; padding: 1.5rem; max-width: 1280px; }
h1 { font-size: 1.4rem; margin: 0 0 1rem; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
table { border-collapse: collapse; } .scroll { overflow-x: auto; max-height: 30rem; }
th, td { padding: .2rem .8rem; text-align: right; border-bottom: 1px solid #e3e6ea; }
th:first-child, td:first-child { text-align: left; } thead th { border-color: #9aa2ad; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 520px), 1fr));
         gap: 1rem; } .plots img { width: 100%; height: auto; }
p.note { color: #59616c; }
"""


def write_page(
    datasets: Sequence[Dataset],
    names: Sequence[str],
    path: str | Path,
    *,
    strides: Sequence[int],
    roots: Sequence[Path | None] = (),
) -> None:
    """Write the page.

    Args:
        datasets: what to show, side by side.
        names: what to call them.
        path: of the page, .html.
        strides: of the feature maps that boxes are compared with, px.
        roots: image root of each dataset, or None; brightness is left out of those without.
    """
    path = Path(path)
    if path.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"{path}: the page is an .html file.")
    grey = [
        mean_brightness(dataset, root) if root else []
        for dataset, root in zip(datasets, roots or [None] * len(datasets), strict=True)
    ]
    plots = _plots(datasets, names, strides, grey)
    title = html.escape(", ".join(names))
    statistics = [dataset_statistics(dataset) for dataset in datasets]
    parts = [
        f"<!doctype html>\n<html lang='en'><head><meta charset='utf-8'><title>{title}</title>",
        f"<meta name='viewport' content='width=device-width'><style>{_STYLE}</style></head><body>",
        f"<h1>{title}</h1>",
        _table(("", *names), _summary(statistics)),
        "<h2>Boxes and feature maps</h2>",
        "<p class='note'>A box that is narrower or lower than one cell of a map shares the cell "
        "with its neighbours.</p>",
        _table(("smaller than one cell of", *names), _strides(datasets, strides)),
        "<h2>Plots</h2><div class='plots'>",
        *(f"<img alt='{html.escape(alt)}' src='{src}'>" for alt, src in plots),
        "</div>",
    ]
    if any(grey):
        count = sum(map(len, grey))
        parts.append(f"<p class='note'>Brightness: of {count:,} images that could be read.</p>")
    else:
        parts.append("<p class='note'>No brightness: the images are not known (--images).</p>")
    parts += ["<h2>Categories</h2>", _table(*_categories(statistics, names)), "</body></html>\n"]
    write_text(path, "\n".join(parts))


def mean_brightness(dataset: Dataset, root: Path) -> list[float]:
    """Mean grey (0 to 255) of up to 500 images; those that cannot be read are passed over, since
    `check` tells of them."""
    from PIL import Image

    names = sorted({image.file_name for image in dataset.images}, key=lambda n: uniform(n, 0))
    found = []
    for name in names[:MOST_IMAGES]:
        try:
            with Image.open(inside(root, name)) as picture:
                picture.draft("L", (_SIDE, _SIDE))  # lets JPEG decode a small one
                if picture.mode.startswith(("I", "F")):
                    continue  # what is white in 16 or 32 bits is not known
                small = picture.convert("L").resize((_SIDE, _SIDE), Image.Resampling.BOX)
        except (InputError, OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            continue
        found.append(sum(value * n for value, n in enumerate(small.histogram())) / _SIDE**2)
    return found


def _plots(
    datasets: Sequence[Dataset],
    names: Sequence[str],
    strides: Sequence[int],
    grey: Sequence[Sequence[float]],
) -> list[tuple[str, str]]:
    """What each plot shows, and it as a data URL."""
    both = (datasets, names)
    draw: list[tuple[str, Callable[[Any], None]]] = [
        ("objects of each category", lambda axes: stats_plots.categories(axes, *both)),
        ("sizes of boxes", lambda axes: stats_plots.box_sizes(axes, *both, strides)),
        ("shorter sides", lambda axes: stats_plots.shorter_sides(axes, *both, strides)),
        ("aspect ratios", lambda axes: stats_plots.aspect_ratios(axes, *both)),
        ("objects an image", lambda axes: stats_plots.objects_an_image(axes, *both)),
        ("image sizes", lambda axes: stats_plots.image_sizes(axes, *both)),
    ]
    if any(grey):
        draw.append(("brightness", lambda axes: stats_plots.brightness(axes, grey, names)))
    several = len(datasets) > 1
    for dataset, name in zip(datasets, names, strict=True):
        for what, plot in (
            ("centres of boxes", stats_plots.centres),
            ("categories that occur together", stats_plots.co_occurrence),
        ):
            draw.append((what, _titled(plot, dataset, f"{name}: " if several else "")))
    with stats_plots.plotting():
        return [(alt, _data_url(plot)) for alt, plot in draw]


def _titled(plot: Callable, dataset: Dataset, prefix: str) -> Callable[[Any], None]:
    def draw(axes: Any) -> None:
        plot(axes, dataset)
        axes.set_title(prefix + axes.get_title())

    return draw


def _data_url(draw: Callable[[Any], None]) -> str:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.8), layout="constrained")
    draw(figure.subplots())
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=130)
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode('ascii')}"


def _summary(statistics: Sequence[Statistics]) -> list[tuple[Any, ...]]:
    fields = ("images", "empty_images", "annotations", "crowds", "with_mask", "with_keypoints")
    rows = [(f.replace("_", " "), *(getattr(one, f) for one in statistics)) for f in fields]
    rows += [(size, *(one.by_area[size] for one in statistics)) for size in statistics[0].by_area]
    return [*rows, ("without area", *(one.skipped for one in statistics))]


def _strides(datasets: Sequence[Dataset], strides: Sequence[int]) -> list[tuple[str, ...]]:
    shares = [share_below(dataset, strides) for dataset in datasets]
    return [(f"{s} px", *(f"{share[s]:.1%}" for share in shares)) for s in strides]


def _categories(
    statistics: Sequence[Statistics], names: Sequence[str]
) -> tuple[Sequence[str], list[tuple[Any, ...]]]:
    header = ["category"]
    for name in names:
        header += [f"{name}: objects", f"{name}: images"]
    categories = dict.fromkeys(name for one in statistics for name in one.per_category)
    rows = [
        (
            name,
            *(
                counts.get(name, 0)
                for one in statistics
                for counts in (one.per_category, one.images_per_category)
            ),
        )
        for name in categories
    ]
    return header, sorted(rows, key=lambda row: -sum(row[1::2]))


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    def cells(row: Sequence[Any], tag: str) -> str:
        texts = (f"{v:,}" if isinstance(v, int) else html.escape(str(v)) for v in row)
        return "".join(f"<{tag}>{text}</{tag}>" for text in texts)

    body = "\n".join(f"<tr>{cells(row, 'td')}</tr>" for row in rows)
    head = f"<thead><tr>{cells(header, 'th')}</tr></thead>"
    return f"<div class='scroll'><table>{head}<tbody>\n{body}</tbody></table></div>"
