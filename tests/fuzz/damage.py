"""Damage to a dataset: each kind is a function of its folder and a source of random numbers.

A kind says what it did in a few words, or None if there was nothing it could be done to.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import re
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from copy import deepcopy
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

Damage = Callable[[Path, Random], str | None]

PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
PNG_SIZES = ((60_000, 60_000), (2**31 - 1, 2**31 - 1), (0, 0), (1, 1), (30_000, 9))
PLANTED = "planted-by-a-label-file"  # whoever writes a file of this name obeys a label file
NAMES = (
    f"../../../{PLANTED}.jpg", f"/tmp/{PLANTED}.jpg", f"..\\..\\{PLANTED}.jpg", f"C:\\{PLANTED}",
    f"~/{PLANTED}", "", ".", "..", "/", "a\0b.jpg", "x" * 5000, "a\nb.jpg", "con", "\ud800.jpg",
    "\u202egpj.a", "%s%n", "{0}", "a/" * 2000, " ", "NaN", "null", "-1", "e\u0301.jpg",
)  # fmt: skip
NUMBERS = (
    "0", "-0", "-1", "1e308", "1e309", "-1e308", "5e-324", "NaN", "Infinity", "-inf", "1e5",
    str(2**31), str(2**53 + 1), str(2**63), str(2**64), "9" * 400, "9" * 5000, "0x10", "1_0",
    "1,5", "١", "²", "", "true", "null", "1e", "--1", "0.5.5", "65536", "4294967297",
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1.5, 1e308, float("nan"), float("inf"), 2**64, 10**400, "", "x",
    [], {}, [[]], [{}], [None], {"": None}, "0", [1, 2], "a" * 100_000, *NAMES[:6],
)  # fmt: skip
_LAUGHS = "".join(f'<!ENTITY l{i + 1} "{f"&l{i};" * 10}">' for i in range(9))
ENTITIES = (
    f'<!DOCTYPE a [<!ENTITY l0 "ha">{_LAUGHS}]>',
    '<!DOCTYPE a [<!ENTITY l9 SYSTEM "file:///etc/passwd">]>',
    '<!DOCTYPE a SYSTEM "http://localhost:9/a.dtd">',
    f'<!DOCTYPE a [<!ENTITY l9 "{"a" * 100_000}">]>',
)


def truncated(folder: Path, random: Random) -> str | None:
    """The file ends somewhere."""
    path, content = _label(folder, random)
    return _write(path, content[: random.randrange(len(content))]) if content else None


def flipped(folder: Path, random: Random) -> str | None:
    """Some bits are others."""
    path, content = _label(folder, random)
    if not content:
        return None
    changed = bytearray(content)
    for _ in range(random.choice((1, 1, 3, 30))):
        changed[random.randrange(len(changed))] ^= 1 << random.randrange(8)
    return _write(path, bytes(changed))


def spliced(folder: Path, random: Random) -> str | None:
    """A piece is gone, there twice, or replaced by rubbish."""
    path, content = _label(folder, random)
    if not content:
        return None
    start, end = sorted(random.randrange(len(content) + 1) for _ in range(2))
    middle = random.choice((b"", content[start:end] * 2, random.randbytes(random.randrange(99))))
    return _write(path, content[:start] + middle + content[end:])


def emptied(folder: Path, random: Random) -> str | None:
    """Nothing, blanks, zeros, or a mark alone."""
    path, _ = _label(folder, random)
    blanks = (
        b"",
        b" \n\t\n",
        b"\0" * 99,
        b"\xef\xbb\xbf",
        b"\xff\xfe",
        b"\xff\xfe\0",
        b"\n" * 9999,
    )
    return path and _write(path, random.choice(blanks))


def encoded(folder: Path, random: Random) -> str | None:
    """Another encoding, with letters that show it; or bytes that are no text."""
    path, content = _text(folder, random)
    if path is None:
        return None
    words = re.findall(r"[A-Za-z]{3,}", content)
    text = content.replace(random.choice(words), "Ünïcødé→猫") if words else content + "é"
    encoding = random.choice(("latin-1", "utf-16", "utf-16-le", "utf-32", "utf-7", "cp037", "gbk"))
    mark = random.choice((b"", b"", b"\xef\xbb\xbf", b"\xff\xfe"))
    return _write(path, mark + text.encode(encoding, "replace"))


def line_ends(folder: Path, random: Random) -> str | None:
    """Other line ends."""
    path, content = _text(folder, random)
    ends = random.choice(("\r\n", "\r", "\u2028", "\x0b", "\n\n", "\0"))
    return path and _write(path, content.replace("\n", ends).encode("utf-8", "replace"))


def numbered(folder: Path, random: Random) -> str | None:
    """A number is one that nobody would write."""
    path, content = _text(folder, random)
    places = list(re.finditer(r"-?\d+(?:\.\d+)?", content))
    if path is None or not places:
        return None
    for place in sorted(random.sample(places, min(len(places), random.choice((1, 1, 4)))),
                        key=lambda p: -p.start()):  # fmt: skip
        content = content[: place.start()] + random.choice(NUMBERS) + content[place.end() :]
    return _write(path, content.encode("utf-8", "surrogatepass"))


def named(folder: Path, random: Random) -> str | None:
    """A name leads elsewhere, or is none."""
    path, content = _text(folder, random)
    pattern = r"[\w./\\-]+\.(?:jpe?g|png)|\b[A-Za-z_]\w*\b"
    places = list(re.finditer(pattern, content))
    pictures = [place for place in places if "." in place[0]]
    if path is None or not places:
        return None
    place = random.choice(pictures if pictures and random.random() < 0.7 else places)
    name = random.choice(NAMES)
    if path.suffix.lower() in (".json", ".ndjson", ".jsonl"):
        name = json.dumps(name)[1:-1]
    content = content[: place.start()] + name + content[place.end() :]
    return _write(path, content.encode("utf-8", "replace" if "\ud800" in name else "strict"))


def lines(folder: Path, random: Random) -> str | None:
    """Lines are swapped, repeated, longer or shorter."""
    path, content = _text(folder, random)
    rows = content.split("\n")
    if path is None:
        return None
    number = random.randrange(len(rows))
    row = rows[number]
    rows[number] = random.choice(
        (
            row * 2,
            row + " 1",
            row + ",1",
            row.rpartition(" ")[0],
            row.rpartition(",")[0],
            row.upper(),
            f'"{row}',
            row + "\t",
        )
    )
    if random.random() < 0.3:
        random.shuffle(rows)
    return _write(path, "\n".join(rows).encode())


def json_value(folder: Path, random: Random) -> str | None:
    """A value of a JSON file is of another type, gone, or there twice."""
    path, value = _json(folder, random)
    if path is None:
        return None
    for _ in range(random.choice((1, 1, 1, 3))):
        places = list(_places(value))
        if not places:
            break
        holder, key = random.choice(places)
        action = random.random()
        if action < 0.7:
            holder[key] = deepcopy(random.choice(VALUES))
        elif action < 0.85:
            del holder[key]
        elif isinstance(holder, list):
            holder.append(holder[key])
        else:
            holder[f"{key}2"] = holder.pop(key)
    return _write(path, json.dumps(value).encode("utf-8", "surrogatepass"))


def json_deep(folder: Path, random: Random) -> str | None:
    """Ten thousand brackets, alone or somewhere within."""
    path, value = _json(folder, random)
    if path is None:
        return None
    places = list(_places(value))
    deep = random.choice(("[" * 10_000 + "]" * 10_000, '{"a":' * 10_000 + "1" + "}" * 10_000))
    if places and random.random() < 0.6:
        holder, key = random.choice(places)
        holder[key] = "DEEP"
        deep = json.dumps(value).replace('"DEEP"', deep)
    return _write(path, deep.encode())


def xml_entities(folder: Path, random: Random) -> str | None:
    """Entities that grow without end, or read other files."""
    path, content = _text(folder, random, ".xml")
    if path is None:
        return None
    content = re.sub(r"^\s*<\?xml[^>]*\?>", "", content)
    within = re.sub(r">([^<]*)</", ">&l9;</", content, count=random.choice((0, 1, 3)))
    return _write(path, (random.choice(ENTITIES) + within).encode())


def xml_tree(folder: Path, random: Random) -> str | None:
    """An element is gone, there twice, empty, called otherwise, or ten thousand deep."""
    path, content = _text(folder, random, ".xml")
    places = list(re.finditer(r"<(\w+)([^<>]*)>([^<>]*)</\1>|<\w+[^<>]*/>", content))
    if path is None or not places:
        return None
    place = random.choice(places)
    element = place[0]
    new = random.choice((
        "", element * 2, element * 1000, re.sub(r">[^<]*<", "><", element),
        "<x>" * 10_000 + "</x>" * 10_000, element.replace("<", "<x:").replace("<x:/", "</x:"),
        re.sub(r"=\"[^\"]*\"", f'="{random.choice(NUMBERS)}"', element),
        re.sub(r"\s\w+=\"[^\"]*\"", "", element, count=1), f"<![CDATA[{element}]]>",
    ))  # fmt: skip
    return _write(path, (content[: place.start()] + new + content[place.end() :]).encode())


def picture(folder: Path, random: Random) -> str | None:
    """A picture is huge by its header, cut off, empty, of no pixels, or something else."""
    path = _choose(folder, random, lambda p: p.suffix.lower() in PICTURES)
    if path is None:
        return None
    content = path.read_bytes()
    kinds = (
        b"", content[: len(content) // 2], content[:20], b"GIF89a\0\0\0\0", random.randbytes(200),
        *(png_header(width, height) for width, height in PNG_SIZES), b"BM" + bytes(60),
        b"II*\0\xff\xff\xff\xff", content[:-20] + random.randbytes(20),
    )  # fmt: skip
    return _write(path, random.choice(kinds))


def links(folder: Path, random: Random) -> str | None:
    """Links in a ring, to nowhere, to themselves; a pipe or a folder instead of a file."""
    path = _choose(folder, random, lambda _: True)
    if path is None:
        return None
    kind = random.randrange(6)
    if kind == 0:
        (path.parent / "again").symlink_to(folder, target_is_directory=True)
    elif kind == 1:
        path.unlink()
        path.symlink_to(path.name)
    elif kind == 2:
        path.unlink()
        path.symlink_to("nowhere")
    elif kind == 3:
        path.unlink()
        os.mkfifo(path)
    elif kind == 4:
        path.unlink()
        path.mkdir()
    else:
        first, second = folder / "ring1", folder / "ring2"
        first.symlink_to(second)
        second.symlink_to(first)
    return f"{path.name}: links, kind {kind}"


def removed(folder: Path, random: Random) -> str | None:
    """A file is gone, or called otherwise."""
    path = _choose(folder, random, lambda _: True)
    if path is None:
        return None
    if random.random() < 0.5:
        path.unlink()
        return f"{path.name}: removed"
    name = random.choice(("a b.txt", "é猫.json", path.stem, path.name + ".bak", path.name.upper(),
                          "x\udcff" + path.suffix, "\n" + path.name))  # fmt: skip
    path.rename(path.with_name(name))
    return f"{path.name}: called {name!r}"


def archive(folder: Path, random: Random) -> str | None:
    """Members of an archive lead out of it, or are far larger than they look."""
    ends = (".zip", ".npz", ".tar", ".tgz", ".gz")
    path = _choose(folder, random, lambda p: p.name.lower().endswith(ends))
    if path is None:
        return None
    names = (f"../../{PLANTED}", f"/tmp/{PLANTED}", "a" * 300, ".", "ann/../../x", "x.json")
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as file:
                old = random.choice(file.namelist())
                name = random.choice((*names, old))
                file.writestr(name, random.choice((b"{}", bytes(30_000_000), file.read(old))))
            return f"{path.name}: member {name!r}"
        with tarfile.open(path) as file:
            members = [(member, file.extractfile(member)) for member in file.getmembers()]
            stored = [(member, content and content.read()) for member, content in members]
    except (tarfile.TarError, zipfile.BadZipFile, OSError, EOFError, zlib.error, IndexError):
        return flipped(folder, random)
    with tarfile.open(path, "w") as file:
        for member, content in stored:
            if random.random() < 0.5:
                member.name = random.choice(names)
            if random.random() < 0.2:
                member.type, member.linkname = tarfile.SYMTYPE, f"/tmp/{PLANTED}"
            file.addfile(member, io.BytesIO(content) if content and member.isfile() else None)
    return f"{path.name}: members"


class _Evil:
    def __reduce__(self) -> tuple:
        return (os.system, (f"touch {PLANTED}",))


def pickled(folder: Path, random: Random) -> str | None:
    """A pickle that runs a command, or claims to be huge."""
    path = _choose(folder, random, lambda p: p.suffix.lower() in (".pkl", ".npy", ".npz", ""))
    if path is None or path.suffix.lower() in (".npz", ".npy"):
        return None
    kinds = (
        pickle.dumps(_Evil()), pickle.dumps({b"data": _Evil()}), pickle.dumps([1, 2]),
        b"\x80\x04\x95" + struct.pack("<Q", 2**62), b"\x80\x02X" + struct.pack("<I", 2**32 - 1),
        b"(" * 100_000, b"\x80\x02" + b"]" * 100_000 + b".",
    )  # fmt: skip
    return _write(path, random.choice(kinds))


# What finds most is there more than once.
KINDS: tuple[Damage, ...] = (
    truncated, flipped, flipped, spliced, emptied, encoded, line_ends, numbered, numbered, numbered,
    named, named, named, lines, lines, json_value, json_value, json_value, json_value, json_deep,
    xml_entities, xml_tree, xml_tree, picture, links, removed, archive, archive, pickled,
)  # fmt: skip


def do_damage(folder: Path, random: Random) -> list[str]:
    """One to three kinds of damage; what was done."""
    told: list[str] = []
    wanted = random.choice((1, 1, 1, 2, 3))
    for _ in range(50):
        kind = random.choice(KINDS)
        try:
            done = kind(folder, random)
        except (
            OSError,
            ValueError,
            RecursionError,
        ):  # damage to what was damaged before: a name too long, a link there twice
            continue
        if done:
            told.append(f"{kind.__name__}: {done}")
        if len(told) == wanted:
            break
    return told


def _files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*")) if path.is_file()]


def _choose(folder: Path, random: Random, wanted: Callable[[Path], bool]) -> Path | None:
    found = [path for path in _files(folder) if wanted(path)]
    return random.choice(found) if found else None


def _label(folder: Path, random: Random) -> tuple[Path | None, bytes]:
    path = _choose(folder, random, lambda p: p.suffix.lower() not in PICTURES)
    path = path or _choose(folder, random, lambda _: True)
    return path, path.read_bytes() if path else b""


def _text(folder: Path, random: Random, suffix: str = "") -> tuple[Path | None, str]:
    path, content = None, b""
    for _ in range(5):
        path, content = _label(folder, random)
        if path is not None and path.suffix.lower() in (suffix or path.suffix.lower(),):
            try:
                return path, content.decode()
            except UnicodeDecodeError:
                continue
    return None, ""


def _json(folder: Path, random: Random) -> tuple[Path | None, Any]:
    path = _choose(folder, random, lambda p: p.suffix.lower() not in PICTURES)
    try:
        return (path, json.loads(path.read_bytes())) if path else (None, None)
    except (ValueError, RecursionError):
        return None, None


def _places(value: Any) -> Any:
    """Every (list or dict, index or key) within a JSON value."""
    if isinstance(value, list | dict):
        keys = range(len(value)) if isinstance(value, list) else list(value)
        for key in keys:
            yield value, key
            yield from _places(value[key])


def _write(path: Path | None, content: bytes) -> str | None:
    if path is None:
        return None
    path.write_bytes(content)
    return path.name


@cache
def png_header(width: int, height: int) -> bytes:
    """A PNG of few bytes that says it is that large."""

    def chunk(name: bytes, data: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(name + data))
        return struct.pack(">I", len(data)) + name + data + checksum

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(min(3 * width * height, 30_000_000)))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )
