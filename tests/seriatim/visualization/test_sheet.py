"""Pages are filled row by row, and captions never run over the edge."""

import numpy as np
from PIL import Image

from seriatim.visualization.sheet import ContactSheet, Picture, caption_bar, captioned, write_image
from seriatim.visualization.text import put_text, shorten, text_mask


def picture(height, width, level=200):
    def draw(scale):
        size = max(1, round(height * scale)), max(1, round(width * scale)), 3
        return np.full(size, level, np.uint8)

    return Picture(height, width, draw, "name", [("word", (1, 2, 3))])


def test_rows_fill_the_page_and_pages_follow(tmp_path):
    sheet = ContactSheet(tmp_path / "sheet.png", width=600, row_height=100, page_height=700)
    rng = np.random.default_rng(0)
    for _ in range(40):
        sheet.add(picture(*rng.integers(20, 2000, 2)))
    pages = sheet.close()
    assert [p.name for p in pages][:2] == ["sheet.png", "sheet-2.png"]
    for path in pages:
        with Image.open(path) as page:
            assert page.width == 600 and page.height < 1000
    with Image.open(pages[0]) as page:
        first = np.asarray(page)
    row = (first[20] == 200).all(1)  # through the pictures of the first row
    gaps = np.flatnonzero(np.diff(row.astype(int)))
    assert row.mean() > 0.85 and 600 - gaps.max() < 20  # up to the right margin


def test_an_empty_sheet_writes_nothing(tmp_path):
    assert ContactSheet(tmp_path / "sheet.png").close() == []
    assert not list(tmp_path.iterdir())


def test_captions_wrap_and_shorten():
    words = [(f"category number {i}", (200, 0, 0)) for i in range(8)]
    narrow, wide = (caption_bar(w, "a title", words, 12) for w in (150, 2000))
    assert narrow.shape[1] == 150 and narrow.shape[0] > 5 * wide.shape[0]
    assert (narrow[:, -2:] == narrow[0, 0]).all()  # nothing reaches the edge
    image = np.zeros((40, 60, 3), np.uint8)
    assert captioned(image, "x" * 500)[:40].sum() == 0
    assert captioned(image, "x" * 500).shape[1] == 60


def test_text_is_cut_in_the_middle_to_fit():
    text = "a_long_file_name_0001.png"
    short = shorten(text, 14, 90)
    assert "…" in short and short.startswith("a_l") and short.endswith("png")
    assert text_mask(short, 14).shape[1] <= 90
    assert shorten("ok", 14, 90) == "ok"


def test_text_outside_the_canvas_does_no_harm():
    canvas = np.zeros((20, 20, 3), np.uint8)
    put_text(canvas, "Grüße → 你", -5, 15, 12, (255, 255, 255))
    put_text(canvas, "far", 500, 500, 12, (255, 255, 255))
    assert canvas.max() > 100


def test_images_are_written_as_they_are(tmp_path):
    image = np.random.default_rng(0).integers(0, 255, (30, 40, 3), dtype=np.uint8)
    with Image.open(write_image(tmp_path / "new" / "a.png", image)) as written:
        assert (np.asarray(written) == image).all()
