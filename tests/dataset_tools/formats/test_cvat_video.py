import numpy as np
import pytest

from dataset_tools.errors import InputError
from tests.dataset_tools.makers import converted, picture, text


def xml(
    *tracks,
    size=5,
    more="",
    original="<original_size><width>20</width><height>10</height></original_size>",
):
    frames = "" if size is None else f"<size>{size}</size>"
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n<annotations><version>1.1</version><meta><task>'
        f"<name>clip</name>{frames}<mode>interpolation</mode>{more}{original}"
        "<labels><label><name>car</name><attributes><attribute><name>lit</name><input_type>checkbox"
        "</input_type></attribute></attributes></label><label><name>man</name></label>"
        "<label><name>head</name><type>points</type><parent>man</parent></label></labels>"
        f"</task></meta>\n{''.join(tracks)}</annotations>"
    )


def track(*shapes, number=0, label="car"):
    return f'<track id="{number}" label="{label}" source="manual">\n{"".join(shapes)}</track>\n'


def box(frame, corners=(0, 0, 4, 2), outside=0, keyframe=1, inner="", **more):
    said = dict(zip(("xtl", "ytl", "xbr", "ybr"), corners, strict=True)) | more
    return shape("box", frame, outside, keyframe, inner, **said)


def shape(tag, frame, outside=0, keyframe=1, inner="", **said):
    said = {"frame": frame, "outside": outside, "keyframe": keyframe, "occluded": 0} | said
    words = " ".join(f'{key}="{value}"' for key, value in said.items())
    return f"<{tag} {words}>{inner}</{tag}>\n"


def frames(tmp_path, *tracks, **more):
    text(tmp_path / "annotations.xml", xml(*tracks, **more))
    conversion, splits = converted("cvat-video", tmp_path / "annotations.xml", tmp_path / "out")
    found = {
        image["entry"]["attributes"]["frame"]: [entry for *_, entry in image["objects"]]
        for image in splits["all"].values()
    }
    return conversion, found, splits["all"]


def test_boxes_move_evenly_between_shapes_and_hold_to_the_end(tmp_path):
    lit = '<attribute name="lit">true</attribute>'
    conversion, found, images = frames(
        tmp_path,
        track(box(1, (0, 0, 4, 2), inner=lit), box(3, (8, 2, 16, 8)), number=7),
    )
    assert {frame: [entry["bbox"] for entry in entries] for frame, entries in found.items()} == {
        0: [],
        1: [[0, 0, 4, 2]],
        2: [[4, 1, 6, 4]],
        3: [[8, 2, 8, 6]],
        4: [[8, 2, 8, 6]],
    }
    assert found[1][0]["attributes"] == {"lit": True, "track_id": 7, "keyframe": True}
    assert found[2][0]["attributes"] == {"lit": True, "track_id": 7}
    assert list(images)[2] == "frame_000002.jpg"
    assert images["frame_000002.jpg"]["entry"]["attributes"] == {"video": "clip", "frame": 2}
    assert "there are no images" in conversion.plan.remarks[0]


def test_outside_ends_an_object_until_it_is_back(tmp_path):
    _, found, _ = frames(
        tmp_path, track(box(0), box(2, (4, 0, 8, 2), outside=1), box(4, (9, 0, 10, 1)))
    )
    # On the way to the shape that is outside it goes on moving, as in CVAT.
    boxes = [[entry["bbox"] for entry in entries] for entries in found.values()]
    assert boxes == [[[0, 0, 4, 2]], [[2, 0, 4, 2]], [], [], [[9, 0, 1, 1]]]


def test_rotation_goes_the_shorter_way(tmp_path):
    _, found, _ = frames(
        tmp_path,
        track(box(0, rotation=350), box(4, rotation=30)),
        track(box(0), box(4, rotation=90)),
    )
    angles = [[e["attributes"].get("rbox", [0])[-1] for e in found[n]] for n in range(5)]
    # Clockwise in CVAT, counter-clockwise here: 350, 0, 10, 20, 30 degrees.
    assert [one for one, _ in angles] == [10, 0, -10, -20, -30]
    assert [other for _, other in angles] == [0, -22.5, -45, -67.5, -90]


def test_polygons_of_as_many_corners_move_others_stand_still(tmp_path):
    conversion, found, _ = frames(
        tmp_path,
        track(
            shape("polygon", 0, points="0,0;4,0;4,4"),
            shape("polygon", 2, points="2,0;8,0;8,8"),
            shape("polygon", 4, points="0,0;4,0;4,4;0,4"),
        ),
        track(shape("polyline", 0, points="0,0;4,0"), shape("polyline", 4, points="8,0;4,4")),
        track(
            shape("ellipse", 0, cx=4, cy=4, rx=2, ry=2), shape("ellipse", 2, cx=8, cy=4, rx=4, ry=2)
        ),
    )
    assert found[1][0]["segmentation"] == [[1, 0, 6, 0, 6, 6]]
    assert found[3][0]["segmentation"] == [[2, 0, 8, 0, 8, 8]]
    assert found[1][1]["attributes"]["points"] == [2, 0, 4, 1]
    assert found[1][2]["bbox"] == pytest.approx([3, 2, 6, 4])
    (note,) = (n for n in conversion.notes.suspicious.values() if "corners" in n.kind)
    assert note.count == 1


def test_skeletons_move_and_masks_stand_still(tmp_path):
    def head(outside, place):
        return f'<points label="head" outside="{outside}" occluded="0" points="{place}"/>'

    _, found, _ = frames(
        tmp_path,
        track(
            shape("skeleton", 0, inner=head(0, "2,2")),
            shape("skeleton", 2, inner=head(0, "4,8")),
            shape("skeleton", 3, inner=head(1, "4,8")),
            label="man",
        ),
        track(shape("mask", 0, rle="0,4", left=1, top=1, width=2, height=2)),
    )
    assert [entries[0].get("keypoints") for entries in found.values()][:3] == [
        [2, 2, 2],
        [3, 5, 2],
        [4, 8, 2],
    ]
    assert [len(entries) for entries in found.values()] == [2, 2, 2, 1, 1]
    assert found[4][0]["bbox"] == [1, 1, 2, 2]


def test_all_shapes_listed_as_cvat_exports_them(tmp_path):
    listed = [box(n, (n, 0, n + 3, 2), keyframe=int(n in (0, 3))) for n in range(4)]
    _, found, _ = frames(tmp_path, track(*listed, box(4, outside=1)))
    assert [entry["bbox"][0] for entries in found.values() for entry in entries] == [0, 1, 2, 3]
    assert [e["attributes"].get("keyframe") for es in found.values() for e in es] == [
        True,
        None,
        None,
        True,
    ]


def test_only_every_nth_frame_and_no_size(tmp_path):
    more = "<start_frame>10</start_frame><frame_filter>step=5</frame_filter>"
    _, found, _ = frames(tmp_path, track(box(10), box(20, (8, 0, 12, 2))), size=3, more=more)
    assert {frame: es[0]["bbox"][0] for frame, es in found.items()} == {10: 0, 15: 4, 20: 8}
    _, found, _ = frames(tmp_path / "b", track(box(1), box(2)), size=None)
    assert list(found) == [0, 1, 2]


def test_frames_by_name_and_in_their_order(tmp_path):
    source = tmp_path / "in"
    text(source / "annotations.xml", xml(track(box(0), box(2)), size=3, original=""))
    for number in range(3):
        picture(source / f"images/frame_{number:06}.PNG", 30 + number)
    conversion, splits = converted("cvat-video", source, tmp_path / "out")
    assert list(splits["all"]) == [f"images/frame_{number:06}.PNG" for number in range(3)]
    assert splits["all"]["images/frame_000000.PNG"]["size"] == (30, 10)
    # ffmpeg counts from 1, and without leading zeros 10 would come before 9.
    other = tmp_path / "photos"
    for number in (9, 10, 11):
        picture(other / f"shot {number}.jpg")
    conversion, splits = converted("cvat-video", source, tmp_path / "out2", images=other)
    assert list(splits["all"]) == ["shot 9.jpg", "shot 10.jpg", "shot 11.jpg"]
    assert "shot 9.jpg is the first" in conversion.plan.remarks[0]


def test_several_videos_keep_apart(tmp_path):
    for name in ("one", "two"):
        text(tmp_path / f"in/{name}.xml", xml(track(box(0)), size=1).replace("clip", f"v/{name}"))
    _, splits = converted("cvat-video", tmp_path / "in", tmp_path / "out")
    assert list(splits["all"]) == ["v_one/frame_000000.jpg", "v_two/frame_000000.jpg"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (xml(track(box("x"))), r"frame of <box> is 'x', not a number"),
        (xml(track(box(-1))), r"a\.xml:\d+: frame -1 is not one of a video"),
        (xml(track(box(0), box(2, (1, "y", 2, 3)))), "ytl of <box> is 'y'"),
        (xml(track(box(0)), size=10**9), "1000000000 frames"),
        (xml(track(box(0)))[:-20], "broken XML"),
    ],
)
def test_broken_files_are_named_with_the_place(tmp_path, content, message):
    text(tmp_path / "a.xml", content)
    with pytest.raises(InputError, match=message):
        converted("cvat-video", tmp_path / "a.xml", tmp_path / "out")


def test_what_is_left_out_is_told(tmp_path):
    conversion, found, _ = frames(
        tmp_path, track(), track(box(0), shape("cone", 1)), '<image id="0" name="a.jpg"/>'
    )
    assert len(conversion.notes.dropped) == 3
    assert np.all([len(entries) == 1 for entries in found.values()])
