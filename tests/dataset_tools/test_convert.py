import json
import os
import signal
import subprocess
import sys
import time
import tracemalloc

import pytest

from dataset_tools import convert, parallel
from dataset_tools.cli import main
from dataset_tools.convert import convert_dataset
from dataset_tools.errors import EXIT_BAD_INPUT, EXIT_INTERRUPTED, InputError
from tests.dataset_tools.makers import picture, text


def yolo(folder, images=6):
    for number in range(images):
        picture(folder / f"images/{number:03}.jpg")
        text(folder / f"labels/{number:03}.txt", f"{number % 3} 0.5 0.5 0.{number % 9 + 1} 0.4\n")
    return folder


def test_the_command_says_all_that_a_user_needs(tmp_path, capsys):
    source = yolo(tmp_path / "my labels")
    (source / "labels/001.txt").unlink()
    assert main(["convert", "auto", str(source), "-o", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    file = tmp_path / "out/all.json"
    for expected in (
        "recognised as yolo: labels/000.txt has lines",
        "no class names found",
        "all         6              1            5",
        "dropped: nothing",
        "1 × image without a label file (kept, without objects): images/001.jpg",
        str(file),
        f"image root: {os.path.relpath(source)}",
        f"python -m dataset_tools check {file}",
    ):
        assert expected in printed, printed
    info = json.loads(file.read_text())["info"]
    assert info["image_root"] == info["source"] == "../my labels"
    assert info["format"] == "yolo"


def test_options_of_the_format_are_options_of_the_command(tmp_path, capsys):
    source = yolo(tmp_path / "in")
    names = text(tmp_path / "names.txt", "a\nb\nc")
    arguments = ["convert", "yolo", str(source), "-o", str(tmp_path / "out")]
    assert main([*arguments, "--names", str(names)]) == 0
    assert "class names are from" in capsys.readouterr().out
    info = json.loads((tmp_path / "out/all.json").read_text())["info"]
    assert info["options"] == {"names": str(names)}
    with pytest.raises(SystemExit) as stopped:
        main([*arguments, "--pixel-origin", "1"])
    assert stopped.value.code == EXIT_BAD_INPUT


def test_mistakes_end_in_one_paragraph(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    file = text(tmp_path / "file", "")
    source = yolo(tmp_path / "in")
    text(source / "labels.csv", "image,x1,y1,x2,y2,label\n")
    for arguments, message in (
        (["auto", "nowhere", "-o", "x"], "There is no file or folder nowhere"),
        (["auto", str(tmp_path / "empty"), "-o", "x"], "of no format that is known"),
        (["yolov5", str(source), "-o", "x"], "Did you mean 'yolo'"),
        (["yolo", str(source), "-o", str(file)], "is a file. Give a folder"),
        (["yolo", str(tmp_path / "empty"), "-o", "x"], "no images"),
        (["auto", str(source), "-o", "x"], "may be of several formats"),
    ):
        assert main(["convert", *arguments]) == EXIT_BAD_INPUT
        printed = " ".join(capsys.readouterr().err.split())
        assert message in printed and "Traceback" not in printed
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    "shares", ["train", "train=x", "train=0.5", "a=0.5,a=0.5", "=1", "a=2,b=-1"]
)
def test_shares_that_make_no_sense(tmp_path, shares):
    with pytest.raises(SystemExit) as stopped:
        main(["convert", "yolo", str(tmp_path), "-o", "x", "--split", shares])
    assert stopped.value.code == EXIT_BAD_INPUT


def test_dividing_anew(tmp_path):
    pytest.importorskip("dataset_tools.split")
    source = yolo(tmp_path / "in", 40)
    text(source / "data.yaml", "train: images\nval: images\nnames: [a, b, c]")
    for output in ("one", "two"):
        conversion = convert_dataset(
            "yolo", source, tmp_path / output, fractions={"train": 0.7, "val": 0.3}, seed=4
        )
    # Each image once, though it was in two splits, and each file has all categories.
    assert sum(summary.images for summary in conversion.files.values()) == 40
    assert list(conversion.files) == ["train", "val"]
    assert conversion.files["train"].images > conversion.files["val"].images > 0
    for split in conversion.files:
        one, two = ((tmp_path / n / f"{split}.json").read_text() for n in ("one", "two"))
        assert one == two
        assert len(json.loads(one)["categories"]) == 3


def voc(folder, images=150):
    for number in range(images):
        objects = "".join(
            f"<object><name>c{(number + i) % 5}</name><bndbox><xmin>{i}</xmin><ymin>1</ymin>"
            f"<xmax>{i + 2 + number % 7}</xmax><ymax>9.5</ymax></bndbox></object>"
            for i in range(number % 4)
        )
        size = "<size><width>64</width><height>48</height></size>"
        label = f"<annotation><filename>{number}.jpg</filename>{size}{objects}</annotation>"
        text(folder / f"Annotations/{number}.xml", label)
    return folder


def coco(folder, images=150):
    content = {
        "images": [
            {"id": n, "file_name": f"{n}.jpg", "width": 64, "height": 48} for n in range(images)
        ],
        "categories": [{"id": 1, "name": "a"}],
        "annotations": [
            {"id": n, "image_id": n * 7 % images, "category_id": 1, "bbox": [1, 2, n % 9 + 0.5, 3]}
            for n in range(2 * images)
        ],
    }
    return text(folder / "all.json", json.dumps(content))


def csv(folder, images=150):
    rows = (f"{n % images}.jpg,64,48,c{n % 3},{n % 9},1,{n % 9 + 5},7" for n in range(2 * images))
    header = "filename,width,height,class,xmin,ymin,xmax,ymax"
    return text(folder / "labels.csv", "\n".join([header, *rows]))


def voc_with_lists(folder, images):
    voc(folder, images)
    names = "".join(f"{number}\n" for number in range(images))
    text(folder / "ImageSets/Main/train.txt", names)
    return folder


def linked_yolo(folder, images):
    first = yolo(folder, 1) / "images/000.jpg"
    for number in range(1, images):
        os.link(first, folder / f"images/{number:06}.jpg")
        text(folder / f"labels/{number:06}.txt", "0 0.5 0.5 0.1 0.4\n")
    return folder


@pytest.mark.parametrize("make", [linked_yolo, voc_with_lists])
def test_an_image_more_takes_no_more_than_200_bytes(tmp_path, make):
    """The most that is held at once, by Python's own count."""
    name = make.__name__.split("_")[-1] if make is linked_yolo else "voc"
    peaks = []
    for images in (1, 500, 2500):  # the first one imports
        source = make(tmp_path / f"in{images}", images)
        tracemalloc.start()
        convert_dataset(name, source, tmp_path / f"out{images}")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] - peaks[1] < 200 * 2000, peaks


@pytest.mark.parametrize("make", [voc, coco, csv])
def test_the_number_of_processes_does_not_show(tmp_path, monkeypatch, make):
    source = make(tmp_path / "in")
    monkeypatch.setattr(parallel, "FEWEST_ITEMS", 10)
    written = []
    for workers in (1, 2):
        output = tmp_path / f"out{workers}"
        conversion = convert_dataset(make.__name__, source, output, workers=workers)
        notes = [(n.kind, n.count, n.places) for n in conversion.notes.suspicious.values()]
        written.append(((output / "all.json").read_bytes(), notes))
    assert written[0] == written[1]
    assert written[0][1][0][1] == 150  # images that are missing


def test_several_processes_write_the_same(tmp_path, monkeypatch):
    source = yolo(tmp_path / "in", 150)
    (source / "labels/100.txt").write_text("nonsense")
    monkeypatch.setattr(parallel, "FEWEST_ITEMS", 10)
    results = []
    for workers in (1, 2):
        output = tmp_path / f"out{workers}"
        conversion = convert_dataset("yolo", source, output, workers=workers, skip_errors=True)
        notes = [(n.kind, n.count, n.places) for n in conversion.notes.dropped.values()]
        results.append(((output / "all.json").read_text(), notes))
        with pytest.raises(InputError, match=r"100\.txt:1"):
            convert_dataset("yolo", source, tmp_path / "none", workers=workers)
    assert results[0] == results[1]
    assert list((tmp_path / "none").iterdir()) == []


def test_all_files_or_none(tmp_path, monkeypatch):
    for split in ("train", "val"):
        yolo(tmp_path / "in" / split, 2)
    output = tmp_path / "out"
    convert_dataset("yolo", tmp_path / "in", output)
    before = {file.name: file.read_text() for file in output.iterdir()}
    assert list(before) == ["train.json", "val.json"] or set(before) == {"train.json", "val.json"}
    text(tmp_path / "in/val/labels/000.txt", "0 .1 .1 .1 .1")
    write = convert.CocoWriter.write

    def full_disk(self, path, *more):
        if path.name.startswith(".val"):
            raise OSError(28, "No space left on device", str(path))
        return write(self, path, *more)

    monkeypatch.setattr(convert.CocoWriter, "write", full_disk)
    arguments = ["convert", "yolo", str(tmp_path / "in"), "-o", str(output)]
    assert main(arguments) == EXIT_BAD_INPUT
    assert {file.name: file.read_text() for file in output.iterdir()} == before


SLOW_READER = (
    "from dataset_tools.formats import yolo_lines\n"
    "size = yolo_lines.image_size\n"
    "yolo_lines.image_size = lambda p: time.sleep(60) if '099' in str(p) else size(p)\n"
)
SLOW_WRITER = (  # while readers are at work in processes of their own
    "from dataset_tools import convert, parallel\n"
    "parallel.FEWEST_ITEMS = 10\n"
    "add = convert.CocoWriter.add\n"
    "slow = lambda self, i: time.sleep(60) if '099' in str(i.names) else add(self, i)\n"
    "convert.CocoWriter.add = slow\n"
)


@pytest.mark.parametrize(("workers", "slow"), [(1, SLOW_READER), (2, SLOW_WRITER)])
def test_ctrl_c_leaves_nothing_behind(tmp_path, workers, slow):
    """When the last image but some is never done."""
    yolo(tmp_path / "in", 100 if workers == 1 else 400)
    code = (
        "import signal, sys, time\n"
        # A parent in the background has its children ignore Ctrl-C.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from dataset_tools import cli\n"
        + slow
        + "sys.exit(cli.main(['convert', 'yolo', *sys.argv[1:]]))\n"
    )
    arguments = [tmp_path / "in", "-o", tmp_path / "out", "-j", str(workers)]
    command = [sys.executable, "-c", code, *arguments]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 20
    while not (tmp_path / "out").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=20)
    assert process.returncode == EXIT_INTERRUPTED, told
    assert told == "interrupted\n"
    assert list((tmp_path / "out").iterdir()) == []
