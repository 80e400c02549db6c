"""A bag with accepted answers is a data set: the same models get full marks, others do not."""

import json
from pathlib import Path
import shutil

from foreign import Channel, Message, write_mcap
import numpy as np
import pytest
from recordings import Recording, scene_frame, START, STEP

from segzero_ros.cli.main import main
from segzero_ros.evaluation.datasets import open_dataset
from segzero_ros.evaluation.samples import DataError
from segzero_ros.replay.coco_rle import from_rle, to_rle

ASKED = ('the largest thing', 'the purple banana')


@pytest.fixture(scope='module')
def bag(tmp_path_factory) -> Path:
    frames = [scene_frame(seed) for seed in (3, 4, 5)]
    return Recording().camera(frames).write(tmp_path_factory.mktemp('bag') / 'kitchen')


@pytest.fixture(scope='module')
def accepted(bag, tmp_path_factory) -> Path:
    """What the offline profile answers, accepted."""
    folder = tmp_path_factory.mktemp('accepted')
    words = ['replay', str(bag), '-o', str(folder / 'run'), '--profile', 'offline', '--quiet']
    for text in ASKED:
        words += ['--query', text]
    assert main([*words, '--accept', str(folder / 'accepted.jsonl')]) == 0
    return folder / 'accepted.jsonl'


def evaluate(bag: Path, truth: Path, output: Path) -> dict:
    words = ['evaluate', str(bag), '--truth', str(truth), '-o', str(output)]
    assert main([*words, '--profile', 'offline', '--quiet']) == 0
    return json.loads((output / 'summary.json').read_text())


def corrected(truth: Path, path: Path) -> Path:
    """Write the truth with the left half of the first mask taken away."""
    lines = [json.loads(line) for line in truth.read_text().splitlines()]
    found = next(line['objects'][0] for line in lines if line['objects'])
    height, width = found['mask']['size']
    mask = from_rle(found['mask']['counts'], height, width)
    x, y, w, h = found['mask_roi']
    mask[:, : x + w // 2] = False
    found['mask']['counts'] = to_rle(mask)
    found['mask_roi'] = [x + w // 2, y, w - w // 2, h]
    path.write_text(''.join(json.dumps(line) + '\n' for line in lines))
    return path


@pytest.mark.slow
def test_samples_carry_the_bags_pictures_with_depth_and_the_accepted_masks(bag, accepted):
    data = open_dataset(str(bag), truth=accepted)
    lines = [json.loads(line) for line in accepted.read_text().splitlines()]
    assert len(data) == len(lines) == 6
    samples = dict(data.read(range(1, 6)))
    assert list(samples) == [1, 2, 3, 4, 5]
    for index, sample in samples.items():
        line = lines[index]
        assert (sample.text, int(sample.image_id)) == (line['query'], line['stamp_ns'])
        frame = scene_frame((3, 4, 5)[(line['stamp_ns'] - START) // STEP])
        assert np.array_equal(sample.image, frame.image)
        assert np.nanmax(np.abs(sample.depth - frame.depth)) < 0.001
        assert sample.intrinsics is not None
        together = np.zeros(sample.image.shape[:2], bool)
        for found in line['objects']:
            together |= from_rle(found['mask']['counts'], *found['mask']['size'])
        assert np.array_equal(sample.mask, together)
        assert sample.count == len(line['objects'])


@pytest.mark.slow
def test_the_models_that_gave_the_truth_get_full_marks_and_corrections_cost(
    bag, accepted, tmp_path
):
    same = evaluate(bag, accepted, tmp_path / 'same')
    figures = same['conventions']['lisa']['figures']
    assert figures['giou'] == pytest.approx(1.0, abs=1e-4)
    changed = evaluate(bag, corrected(accepted, tmp_path / 'c.jsonl'), tmp_path / 'changed')
    assert changed['conventions']['lisa']['figures']['giou'] < 0.97


@pytest.mark.slow
def test_what_does_not_fit_says_so(bag, accepted, tmp_path):
    with pytest.raises(DataError, match=r'is a bag: .*--truth'):
        open_dataset(str(bag))
    with pytest.raises(DataError, match='does not exist'):
        open_dataset(str(bag), truth=tmp_path / 'none.jsonl')
    lines = [json.loads(line) for line in accepted.read_text().splitlines()]
    lines[0]['stamp_ns'] += 1
    other = tmp_path / 'other.jsonl'
    other.write_text(json.dumps(lines[0]) + '\n')
    with pytest.raises(DataError, match='no image with the stamp'):
        list(open_dataset(str(bag), truth=other).read(range(1)))
    other.write_text(json.dumps({**lines[1], 'image_size': [10, 10]}) + '\n')
    with pytest.raises(DataError, match='10x10 pixels; in the bag it has 320x240'):
        list(open_dataset(str(bag), truth=other).read(range(1)))
    other.write_text(json.dumps({**lines[1], 'status': 'ERROR'}) + '\n')
    with pytest.raises(DataError, match='has no answer about an image'):
        open_dataset(str(bag), truth=other)


@pytest.mark.slow
def test_a_foreign_bag_is_a_data_set_too(bag, accepted, tmp_path, caplog):
    """Without metadata, with a topic that is none of ROS, and with two that hold queries."""
    foreign = tmp_path / 'foreign'
    foreign.mkdir()
    shutil.copy(bag / 'kitchen.mcap', foreign)
    text = Channel('std_msgs/msg/String', 'ros2msg', b'string data\n')
    json_channel = Channel('battery', 'jsonschema', b'{}', 'json')
    topics = {'/a/query': text, '/b/query': text, '/battery': json_channel}
    messages = [Message(topic, START, b'\0\1\0\0\2\0\0\0x\0') for topic in topics]
    write_mcap(foreign / 'more.mcap', list(topics.items()), messages)
    found = evaluate(foreign, accepted, tmp_path / 'measured')
    assert found['conventions']['lisa']['figures']['giou'] == pytest.approx(1.0, abs=1e-4)
    assert caplog.text.count('metadata.yaml is missing') == 1
    words = ['annotate', str(foreign), '--truth', str(accepted), '-o', str(tmp_path / 'rows')]
    assert main([*words, '--unchecked']) == 0
    assert (tmp_path / 'rows' / 'train.parquet').is_file()
