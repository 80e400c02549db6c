"""The camera in a bag is found by type, contents and name; what is not clear is asked."""

from __future__ import annotations

import pytest
from recordings import Recording, scene_frame

from segzero_ros.replay.bag import BagReader
from segzero_ros.replay.topics import find_topics, NoTopic, Topics

FRAME = scene_frame(3)


@pytest.fixture
def find(tmp_path):
    def find(recording: Recording, *names: str) -> Topics:
        with BagReader(recording.write(tmp_path / 'bag')) as bag:
            return find_topics(bag, *names)

    return find


def realsense(name: str = '/camera') -> Recording:
    """Record as a RealSense does: infrared pair, colour, depth twice."""
    recording = Recording()
    recording.picture(f'{name}/infra1/image_rect_raw', FRAME, 0, encoding='mono8')
    recording.picture(f'{name}/infra2/image_rect_raw', FRAME, 0, encoding='mono8')
    recording.picture(f'{name}/color/image_raw', FRAME, 0)
    recording.jpeg(f'{name}/color/image_raw/compressed', FRAME, 0)
    recording.picture(f'{name}/depth/image_rect_raw', FRAME, 0, encoding='16UC1')
    recording.picture(f'{name}/aligned_depth_to_color/image_raw', FRAME, 0, encoding='16UC1')
    for sensor in ('infra1', 'depth', 'color', 'aligned_depth_to_color'):
        recording.info(f'{name}/{sensor}/camera_info', FRAME, 0)
    return recording


def test_of_one_camera_the_raw_colour_and_the_aligned_depth_are_taken(find):
    assert find(realsense()) == Topics(
        '/camera/color/image_raw',
        '/camera/aligned_depth_to_color/image_raw',
        '/camera/color/camera_info',
    )


def test_of_several_cameras_none_is_chosen_but_all_are_named(find, tmp_path):
    recording = Recording()
    for side in ('left', 'right'):
        recording.picture(f'/{side}/image_raw', FRAME, 0)
        recording.info(f'/{side}/camera_info', FRAME, 0)
    path = recording.write(tmp_path / 'stereo')
    with BagReader(path) as bag:
        with pytest.raises(NoTopic, match=r'--image: /left/image_raw, /right/image_raw\.'):
            find_topics(bag)
        found = find_topics(bag, '/right/image_raw')
    assert (found.image, found.camera_info) == ('/right/image_raw', '/right/camera_info')


def test_a_grey_camera_is_taken_where_there_is_no_colour(find):
    recording = Recording()
    recording.picture('/mono/image_raw', FRAME, 0, encoding='mono8')
    found = find(recording)
    assert found.image == '/mono/image_raw'
    assert any('no poses' in remark for remark in found.remarks)


def test_depth_of_another_size_is_left_out_and_said(find):
    recording = Recording()
    recording.picture('/color/image', FRAME, 0)
    small = type(FRAME)(FRAME.image[::2, ::2].copy(), depth=FRAME.depth[::2, ::2].copy())
    recording.picture('/depth/image', small, 0, encoding='32FC1')
    found = find(recording)
    assert found.depth == ''
    assert any('160x120' in remark and '320x240' in remark for remark in found.remarks)


def test_what_an_answer_showed_is_no_camera(find, tmp_path):
    from segzero_ros.profiles import read_profile
    from segzero_ros.replay.queries import Plan
    from segzero_ros.replay.replay import replay, Wishes

    path = Recording().camera([FRAME]).write(tmp_path / 'live')
    wishes = Wishes(Plan(texts=('the cup',)), overlay_topic=True, without=frozenset({'video'}))
    folder = replay(path, tmp_path / 'out', read_profile('offline'), wishes)
    with BagReader(folder.bag) as bag:
        assert '/segzero/overlay' in bag.topics
        assert find_topics(bag).image == '/camera/color/image_raw'


@pytest.mark.parametrize(
    ('names', 'message'),
    [
        (('/nothing',), r"no images on '/nothing'; it has some on /camera/color/image_raw"),
        (('', '/camera/color/camera_info'), 'no depth images on'),
        (('', '', '/camera/color/image_raw'), 'no camera_info on'),
        (('', '', '', '/nothing'), 'no queries on'),
    ],
)
def test_a_topic_that_is_not_there_is_refused_with_those_that_are(find, names, message):
    with pytest.raises(NoTopic, match=message):
        find(realsense(), *names)


def test_depth_and_intrinsics_can_be_declined(find):
    found = find(realsense(), '', 'none', 'none')
    assert found.camera == {'/camera/color/image_raw'}


def test_recorded_queries_are_found_by_name(find):
    recording = realsense()
    recording.text('/segzero/query', 'the cup', 0)
    recording.text('/chatter', 'hello', 0)
    assert find(recording).queries == '/segzero/query'


def test_of_several_topics_with_queries_one_has_to_be_chosen(find):
    recording = realsense()
    recording.text('/a/query', 'the cup', 0)
    recording.text('/b/query', 'the cup', 0)
    with pytest.raises(NoTopic, match='--query-topic: /a/query, /b/query'):
        find(recording)
