"""LVIS JSON: COCO's, with lists of what was looked for in an image.

As https://www.lvisdataset.org/dataset says: an image has `neg_category_ids` (categories that are
certainly not in it) and `not_exhaustive_category_ids` (of which not every object is labelled);
version 1 has `coco_url` instead of `file_name`. The reader of COCO takes all that, and so does
`auto`: it names it coco.
"""

from __future__ import annotations

from dataclasses import replace

from dataset_tools.formats import coco

FORMAT = replace(
    coco.FORMAT,
    name="lvis",
    title="LVIS JSON (v0.5, v1)",
    layout="a JSON file, or a folder with one for each split (lvis_v1_train.json, …), beside "
    "train2017/ and val2017/",
    carries=("boxes", "masks", "attributes", "splits"),
    loses="",
    recognise=lambda glimpse: None,  # it is COCO's, and recognised as such
    conventions="As coco. A file name that is missing is the end of coco_url "
    "(train2017/000000391895.jpg). neg_category_ids and not_exhaustive_category_ids become the "
    "attributes neg_categories and not_exhaustive_categories of the image, lists of names, which "
    "stay right when categories get other ids. synset, frequency and so on stay with the category.",
    options=tuple(option for option in coco.FORMAT.options if option.flag == "--ids"),
)
