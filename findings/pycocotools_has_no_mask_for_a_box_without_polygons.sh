#!/usr/bin/env bash
# pycocotools 2.0.11: an annotation with a box and an empty list of polygons, as tools that only draw
# boxes export it, is loaded without a word; asking for its mask ends in a bare IndexError from inside
# the library, neither an empty mask nor the box.
# Seen: polygon 9 pixels; segmentation [] IndexError('list index out of range').
# Matters to: whoever turns data sets of others into masks, and takes no mask for "nothing there".
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q pycocotools==2.0.11 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
from pycocotools.coco import COCO


def pixels(coco, number):
    try:
        return int(coco.annToMask(coco.anns[number]).sum())
    except IndexError as error:
        return repr(error)


def annotation(number, polygons):
    box = {'id': number, 'image_id': 1, 'category_id': 1, 'bbox': [1, 1, 3, 3], 'area': 9}
    return box | {'iscrowd': 0, 'segmentation': polygons}


coco = COCO()
coco.dataset = {
    'images': [{'id': 1, 'width': 10, 'height': 8, 'file_name': 'a.png'}],
    'categories': [{'id': 1, 'name': 'cup'}],
    'annotations': [annotation(1, [[1, 1, 4, 1, 4, 4, 1, 4]]), annotation(2, [])],
}
coco.createIndex()
polygon, box = pixels(coco, 1), pixels(coco, 2)
print('polygon:', polygon, 'box alone:', box)
assert polygon == 9
assert box == "IndexError('list index out of range')"
PYTHON
echo 'as seen'
