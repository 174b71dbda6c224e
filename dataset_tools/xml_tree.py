"""XML files as small trees that know their line numbers, read safely.

Entities, which make XML a way to read other files or to fill the memory, are refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from dataset_tools.errors import InputError
from dataset_tools.files import read_bytes

DEEPEST = 100
CHUNK_BYTES = 64 * 1024


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
        for child in self.children:
            if child.tag == tag:
                return child
        return None

    def all(self, tag: str) -> Iterator[Node]:
        """All children called `tag`."""
        return (child for child in self.children if child.tag == tag)

    def text_of(self, tag: str) -> str:
        """Text of the first child called `tag`; "" if there is none."""
        child = self.child(tag)
        return "" if child is None else child.text


def parse_xml(path: str | Path, content: bytes | None = None) -> Node:
    """The root element of an XML file, or of its `content` where that was read already.

    InputError with line and column if it is not well-formed.
    """
    chunks = [read_bytes(path) if content is None else content]
    top = Node("", 0)
    for _ in _parse(path, chunks, top):
        pass
    return top.children[0]


def stream_xml(path: str | Path) -> Iterator[Node]:
    """The root element, before it has children, then each of its children when it is complete.

    A child is forgotten when the next one is asked for, so that the memory does not grow with the
    file. InputError as from `parse_xml`, but not before the place of the fault is reached.
    """
    top = Node("", 0)
    root: Node | None = None
    with open(path, "rb") as file:
        for open_nodes in _parse(path, iter(lambda: file.read(CHUNK_BYTES), b""), top):
            if root is None and top.children:
                root = top.children[0]
                yield root
            # The last child may still be open: the top and the root are, besides it.
            while root is not None and len(root.children) > (len(open_nodes) > 2):
                yield root.children.pop(0)


def _parse(path: str | Path, chunks: Iterable[bytes], top: Node) -> Iterator[list[Node]]:
    """Put the elements of a file into `top`; after each chunk, and at the end, gives those still
    open."""
    from xml.parsers.expat import ErrorString, ExpatError, ParserCreate

    parser = ParserCreate()
    parser.buffer_text = True
    open_nodes = [top]

    def start(name: str, attributes: dict[str, str]) -> None:
        line = parser.CurrentLineNumber
        if len(open_nodes) > DEEPEST:
            raise InputError(f"{path}:{line}: nested too deeply to be a label file.")
        node = Node(name.rpartition(":")[2] if ":" in name else name, line, attributes, "", [])
        open_nodes[-1].children.append(node)
        open_nodes.append(node)

    def end(_: str) -> None:
        node = open_nodes.pop()
        node.text = node.text.strip()

    def characters(text: str) -> None:
        open_nodes[-1].text += text

    def refuse(*_: object) -> NoReturn:
        raise InputError(f"{path}: XML with entities or external parts is not read.")

    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = characters
    parser.EntityDeclHandler = parser.UnparsedEntityDeclHandler = refuse
    parser.ExternalEntityRefHandler = parser.SkippedEntityHandler = refuse
    try:
        for chunk in chunks:
            parser.Parse(chunk, False)
            yield open_nodes
        parser.Parse(b"", True)
        yield open_nodes
    except ExpatError as error:
        raise InputError(
            f"{path}: broken XML at line {error.lineno}, column {error.offset + 1}: "
            f"{ErrorString(error.code)}. Mend or remove the file."
        ) from error
    except (LookupError, ValueError) as error:  # encodings that Python does not know
        raise InputError(f"{path}: cannot be read as XML: {error}.") from error
    finally:
        # The handlers know the parser and it them: without this, each file waits for the collector.
        parser.StartElementHandler = parser.EndElementHandler = None
        parser.CharacterDataHandler = None
