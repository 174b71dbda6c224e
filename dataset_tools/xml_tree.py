"""XML files as small trees that know their line numbers, read safely.

Entities, which make XML a way to read other files or to fill the memory, are refused by defusedxml.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from xml.sax.handler import ContentHandler
from xml.sax.xmlreader import AttributesImpl

from dataset_tools.errors import InputError

DEEPEST = 100


@dataclass(slots=True)
class Node:
    """An element: its name without a namespace prefix, its attributes, its own text, its line."""

    tag: str
    line: int
    attributes: dict[str, str] = field(default_factory=dict)
    text: str = ""
    children: list[Node] = field(default_factory=list)

    def child(self, tag: str) -> Node | None:
        """The first child called `tag`."""
        return next(self.all(tag), None)

    def all(self, tag: str) -> Iterator[Node]:
        """All children called `tag`."""
        return (child for child in self.children if child.tag == tag)

    def text_of(self, tag: str) -> str:
        """Text of the first child called `tag`; "" if there is none."""
        child = self.child(tag)
        return "" if child is None else child.text


def parse_xml(path: str | Path) -> Node:
    """The root element of an XML file. InputError with line and column if it is not well-formed."""
    from xml.sax import SAXException, SAXParseException

    from defusedxml import DefusedXmlException
    from defusedxml.sax import make_parser

    builder = _TreeBuilder(path)
    parser = make_parser()
    parser.setContentHandler(builder)
    try:
        with open(path, "rb") as file:
            parser.parse(file)
    except SAXParseException as error:
        raise InputError(
            f"{path}: broken XML at line {error.getLineNumber()}, column "
            f"{error.getColumnNumber() + 1}: {error.getMessage()}. Mend or remove the file."
        ) from error
    except DefusedXmlException as error:
        raise InputError(
            f"{path}: XML with entities or external parts is not read ({error})."
        ) from error
    except (SAXException, LookupError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as XML: {error}.") from error
    return builder.root


class _TreeBuilder(ContentHandler):
    root: Node

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        self._path = path
        self._open: list[Node] = []
        self._texts: list[list[str]] = []
        self._locator = None

    def startElement(self, name: str, attrs: AttributesImpl) -> None:  # noqa: N802 (SAX's name)
        line = self._locator.getLineNumber()
        if len(self._open) >= DEEPEST:
            raise InputError(f"{self._path}:{line}: nested too deeply to be a label file.")
        node = Node(name.rpartition(":")[2], line, dict(attrs.items()))
        if self._open:
            self._open[-1].children.append(node)
        else:
            self.root = node
        self._open.append(node)
        self._texts.append([])

    def characters(self, content: str) -> None:
        self._texts[-1].append(content)

    def endElement(self, name: str) -> None:  # noqa: N802 (SAX's name)
        self._open.pop().text = "".join(self._texts.pop()).strip()
