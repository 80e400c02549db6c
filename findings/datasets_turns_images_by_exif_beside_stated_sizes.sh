#!/usr/bin/env bash
# datasets 5.2.0: its Image feature turns a picture as EXIF says when it is decoded, so the array has
# rows and columns exchanged against the file, while columns such as width, height and boxes, which
# were written about the file's pixels, stay as they are. Pillow's open leaves the same bytes as they
# are stored: which way is meant, only the stated size tells.
# Seen: stored 100x40 with orientation 6, columns 100x40: datasets gives 40x100, Pillow 100x40.
# Matters to: whoever evaluates grounding on phones' photographs out of a hub data set.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q datasets==5.2.0 pillow==12.3.0
HF_HUB_OFFLINE=1 HF_HOME="$folder" "$folder/venv/bin/python" - <<'PYTHON'
import io

from datasets import Dataset, Image
from PIL import Image as Pillow

picture = Pillow.new('RGB', (100, 40), 'white')
exif = picture.getexif()
exif[0x0112] = 6
file = io.BytesIO()
picture.save(file, 'jpeg', exif=exif)
columns = {
    'image': [{'bytes': file.getvalue(), 'path': None}],
    'width': [100],
    'height': [40],
}
row = Dataset.from_dict(columns).cast_column('image', Image())[0]
stored = Pillow.open(io.BytesIO(file.getvalue())).size
stated = row['width'], row['height']
print('stored', stored, 'stated', stated, 'datasets', row['image'].size)
assert stored == stated == (100, 40)
assert row['image'].size == (40, 100)
PYTHON
echo 'as seen'
