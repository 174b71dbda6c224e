"""What a shape says of a piece against what the parser says of it."""

import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataset_tools.xml_shapes import Shapes, plain_text

TEXTS = st.text(st.sampled_from("ab <>&;]\x01\ufffe\u00e9\n\"'/"), max_size=6)


def parsed(piece: str) -> dict[str, str] | None:
    """Texts of leaves by path; None if it is no XML."""
    try:
        root = ET.fromstring(f"<root>{piece}</root>")
    except ET.ParseError:
        return None
    texts = {}

    def walk(node, path):
        for child in node:
            below = f"{path}{child.tag}"
            if len(child):
                walk(child, f"{below}/")
            else:
                texts[below] = child.text or ""

    walk(root, "")
    return texts


@given(st.lists(st.tuples(TEXTS, TEXTS, TEXTS), min_size=1, max_size=5))
def test_texts_are_those_of_the_parser(rows):
    shapes = Shapes(lambda paths: paths)
    for name, x, tail in [("cat", "1", "\n"), *rows]:
        piece = f"\n <name>{name}</name>{tail}<box><x>{x}</x> <y>2</y></box>\n"
        found = shapes.match(piece)
        if found is not None:
            assert dict(zip(*found, strict=True)) == parsed(piece)


@pytest.mark.parametrize(
    "piece",
    [
        "<a>1</b>",
        "<a>1",
        "</a>",
        "<a><b>1</a></b>",
        "<a>1</a></b>",
        "<a>1</a>text",
        '<a k="v">1</a>',
        "<a>&lt;</a>",
        "<a>1<!-- 2 --></a>",
        "<a>1</a><a>2</a>",
        "<a/>",
        "<n:a>1</n:a>",
        "",
    ],
)
def test_what_is_not_plain_has_no_shape(piece):
    assert Shapes(lambda paths: paths).match(piece) is None


def test_a_shape_is_learned_once():
    learned = []
    shapes = Shapes(lambda paths: learned.append(paths) or len(learned))
    found = [shapes.match(f"<a>{i}</a> <b><c>x</c></b>") for i in range(3)]
    assert found == [(1, ("0", "x")), (1, ("1", "x")), (1, ("2", "x"))]
    assert learned == [("a", "b/c")]


def test_plain_text():
    assert plain_text(b'<?xml version="1.0" encoding="utf-8"?>\n<a/>') == "<a/>"
    assert plain_text(b'<?xml version="1.0" encoding="latin-1"?><a/>').startswith("<?xml")
    assert plain_text(b"\xef\xbb\xbf<a/>") == "\ufeff<a/>"
    assert plain_text(b"<a>\xff</a>") is None
    assert plain_text(b"<a>\r\n</a>") is None
    assert plain_text(b"<a>]]></a>") is None


@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=5))
def test_rows_are_those_of_the_parser(rows):
    shapes = Shapes(lambda paths: paths)
    for texts in (rows, [("cat", "1")] * 3, rows):
        elements = [f"\n <o>\n<name>{a}</name><box><x>{b}</x></box></o>" for a, b in texts]
        found = shapes.match_rows("".join(elements), "o")
        if found is not None:
            paths, values, lines = found
            assert lines == 2
            assert [dict(zip(paths, row, strict=True)) for row in values] == [
                parsed(element.strip()[3:-4]) for element in elements
            ]
    assert found is not None or any(set("".join(texts)) & set("<>&]\x01\ufffe\n") for texts in rows)


@pytest.mark.parametrize(
    "text",
    [
        "<o><a>1</a><b>2</b></o> <o><a>3</a><b>4</b></o>",  # another blank
        "<o><a>1</a><b>2</b></o><o><b>3</b><a>4</a></o>",
        "<o><a>1</a><b>2</b></o><o><a>3</a><b>4</b></o>text",
        "<o><a>1</a><b>2</b></o><o><a>3</a><b>&lt;</b></o>",
        "<o><a>1</a><b>2</b></o><!-- 3 --><o><a>3</a><b>4</b></o>",
    ],
)
def test_rows_that_differ_have_no_shape(text):
    assert Shapes(lambda paths: paths).match_rows(text, "o") is None
