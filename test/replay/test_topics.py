"""The camera in a bag is found by type, contents and name; what is not clear is asked."""

from __future__ import annotations

from itertools import count

import cv2
import numpy as np
import pytest
from recordings import Recording, scene_frame, STEP

from segzero_ros.replay.bag import BagReader
from segzero_ros.replay.topics import find_topics, NoTopic, Topics

FRAME = scene_frame(3)


@pytest.fixture
def find(tmp_path):
    numbers = count()

    def find(recording: Recording, *names: str) -> Topics:
        with BagReader(recording.write(tmp_path / f'bag{next(numbers)}')) as bag:
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


@pytest.mark.slow
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
    assert any('no poses' in warning for warning in found.warnings)


def test_depth_of_another_size_is_left_out_and_said(find):
    recording = Recording()
    recording.picture('/color/image', FRAME, 0)
    small = type(FRAME)(FRAME.image[::2, ::2].copy(), depth=FRAME.depth[::2, ::2].copy())
    recording.picture('/depth/image', small, 0, encoding='32FC1')
    found = find(recording)
    assert found.depth == ''
    assert any('160x120' in warning and '320x240' in warning for warning in found.warnings)


@pytest.mark.slow
def test_what_an_answer_showed_is_no_camera(find, tmp_path):
    from segzero_ros.config import read_profile
    from segzero_ros.replay.query_file import QueryPlan
    from segzero_ros.replay.replay import replay, ReplayOptions

    path = Recording().camera([FRAME]).write(tmp_path / 'live')
    replay_options = ReplayOptions(
        QueryPlan(texts=('the cup',)), overlay_topic=True, without=frozenset({'video'})
    )
    folder = replay(path, tmp_path / 'out', read_profile('offline'), replay_options)
    with BagReader(folder.bag) as bag:
        assert '/segzero/overlay' in bag.topics
        assert find_topics(bag).image == '/camera/color/image_raw'


@pytest.mark.parametrize(
    ('names', 'message'),
    [
        (('/nothing',), r"no images on '/nothing'; it has images on /camera/color/image_raw"),
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


SMALL = type(FRAME)(
    FRAME.image[::2, ::2].copy(),
    depth=FRAME.depth[::2, ::2].copy(),
    intrinsics=type(FRAME.intrinsics)(150.0, 150.0, 80.0, 60.0, 160, 120),
)
COLOUR, DEPTH = '/camera/color/image_raw', '/camera/depth/image_rect_raw'
MILLIMETRES = np.nan_to_num(FRAME.depth * 1000).astype(np.uint16)


def png(pixels: np.ndarray, header: bytes = b'') -> np.ndarray:
    return np.frombuffer(header + cv2.imencode('.png', pixels)[1].tobytes(), np.uint8)


def transports(recording: Recording, topic: str, *, depth: bool = False) -> None:
    """Add what image_transport's plugins publish beside a raw topic."""
    nothing = np.zeros(0, np.uint8)
    packed = np.frombuffer(bytes(range(200)), np.uint8)
    recording.compressed(f'{topic}/zstd', 'zstd', packed, 0)
    if depth:
        recording.compressed(f'{topic}/compressed', '16UC1; jpeg compressed ', nothing, 0)
        form, header = '16UC1; compressedDepth png', bytes(12)
        recording.compressed(f'{topic}/compressedDepth', form, png(MILLIMETRES, header), 0)
    else:
        recording.jpeg(f'{topic}/compressed', FRAME, 0)


def camera(colour: str = 'optical', depth: str = 'optical', depth_topic: str = DEPTH) -> Recording:
    """Record a camera whose colour and depth have optical frames of some names."""
    recording = Recording()
    recording.frame_id = colour
    recording.picture(COLOUR, FRAME, 0)
    recording.info('/camera/color/camera_info', FRAME, 0)
    recording.frame_id = depth
    recording.picture(depth_topic, FRAME, 0, encoding='16UC1')
    recording.info('/camera/depth/camera_info', FRAME, 0)
    return recording


def without(recording: Recording, *topics: str) -> Recording:
    recording.entries = [entry for entry in recording.entries if entry.topic not in topics]
    return recording


def test_all_transports_of_an_image_are_one_camera(find):
    recording = camera()
    transports(recording, COLOUR)
    transports(recording, DEPTH, depth=True)
    assert find(recording) == Topics(COLOUR, DEPTH, '/camera/color/camera_info')
    without(recording, COLOUR, DEPTH)
    assert find(recording) == Topics(
        f'{COLOUR}/compressed', f'{DEPTH}/compressedDepth', '/camera/color/camera_info'
    )


@pytest.mark.parametrize(
    ('form', 'pixels'),
    [
        ('16UC1; jpeg compressed ', None),
        ('16UC1; jpeg compressed ', 'grey'),
        ('16UC1; png compressed ', 'depth'),
        ('32FC1; png compressed ', None),
        ('mono16; png compressed ', 'depth'),
        ('jpeg', 'grey'),
        ('', None),
    ],
)
def test_what_a_transport_makes_of_depth_is_no_colour(find, form, pixels):
    recording = camera()
    grey = cv2.imencode('.jpg', (MILLIMETRES // 16).astype(np.uint8))[1].reshape(-1)
    data = {None: np.zeros(0, np.uint8), 'grey': grey, 'depth': png(MILLIMETRES)}[pixels]
    recording.compressed(f'{DEPTH}/compressed', form, data, 0)
    without(recording, DEPTH, COLOUR)
    recording.picture(COLOUR, FRAME, 0, encoding='mono8')
    found = find(recording)
    assert found.image == COLOUR
    assert found.depth == (f'{DEPTH}/compressed' if pixels == 'depth' else '')
    if not found.depth:
        assert any('cannot be decoded' in warning for warning in found.warnings)


def test_a_transport_of_raw_depth_is_depth_whatever_its_format_says(find):
    recording = camera(depth_topic='/camera/stereo/image')
    recording.jpeg('/camera/stereo/image/compressed', FRAME, 0)
    assert find(recording) == Topics(COLOUR, '/camera/stereo/image', '/camera/color/camera_info')


def test_an_empty_transport_of_depth_is_not_preferred(find):
    recording = camera()
    transports(recording, DEPTH, depth=True)
    without(recording, DEPTH)
    assert find(recording).depth == f'{DEPTH}/compressedDepth'


def test_a_camera_that_can_only_be_had_by_a_transport_not_read_here_is_said(find):
    recording = Recording()
    transports(recording, COLOUR)
    without(recording, f'{COLOUR}/compressed')
    with pytest.raises(NoTopic, match=r'no colour images that can be read \(.*image_raw/zstd: '):
        find(recording)


def test_a_raw_topic_that_was_recorded_by_chance_is_not_the_camera(find):
    recording = Recording()
    for number in range(5):
        recording.jpeg(f'{COLOUR}/compressed', FRAME, number * STEP)
    recording.picture(COLOUR, FRAME, 0)
    assert find(recording).image == f'{COLOUR}/compressed'


def test_depth_of_the_images_optical_frame_goes_before_any_other(find):
    recording = camera('colour', 'depth')
    recording.frame_id = 'colour'
    recording.picture('/camera/zzz/image', FRAME, 0, encoding='16UC1')
    found = find(recording)
    assert found.depth == '/camera/zzz/image'
    assert not any('optical frame' in warning for warning in found.warnings)


def test_depth_that_is_aligned_by_name_goes_before_other_depth(find):
    recording = camera('colour', 'depth')
    recording.picture('/camera/depth_registered/image', FRAME, 0, encoding='16UC1')
    assert find(recording).depth == '/camera/depth_registered/image'


def test_depth_of_another_optical_frame_is_taken_with_a_warning(find):
    found = find(camera('colour', 'depth'))
    assert found == Topics(COLOUR, DEPTH, '/camera/color/camera_info')
    (warning,) = found.warnings
    assert "'depth'" in warning
    assert "'colour'" in warning
    assert find(camera('/colour', 'colour')).warnings == ()


@pytest.mark.parametrize('frames', [('left', 'right'), ('same', 'same'), ('', '')])
def test_depth_and_intrinsics_of_another_camera_are_left_out(find, frames):
    recording = Recording()
    recording.frame_id = frames[0]
    recording.picture('/left/image_raw', FRAME, 0)
    recording.frame_id = frames[1]
    recording.picture('/right/image_raw', FRAME, 0)
    recording.picture('/right/depth/image_raw', FRAME, 0, encoding='16UC1')
    recording.info('/right/camera_info', FRAME, 0)
    assert find(recording, '/right/image_raw') == Topics(
        '/right/image_raw', '/right/depth/image_raw', '/right/camera_info'
    )
    found = find(recording, '/left/image_raw')
    assert found == Topics('/left/image_raw')
    assert any(r.startswith('/right/depth/image_raw is left out') for r in found.warnings)
    assert any(r.startswith('/right/camera_info is not used') for r in found.warnings)
    found = find(recording, '/left/image_raw', '/right/depth/image_raw', '/right/camera_info')
    assert (found.depth, found.camera_info) == ('/right/depth/image_raw', '/right/camera_info')


@pytest.mark.parametrize('frames', [('colour', 'depth'), ('', '')])
def test_intrinsics_of_the_depth_camera_are_not_the_images(find, frames):
    found = find(without(camera(*frames), '/camera/color/camera_info'))
    assert found.camera_info == ''
    assert any(r.startswith('/camera/depth/camera_info is not used') for r in found.warnings)
    assert any('no poses' in warning for warning in found.warnings)


def test_intrinsics_of_depth_that_is_registered_are_the_images(find):
    found = find(without(camera('colour', 'colour'), '/camera/color/camera_info'))
    assert found == Topics(COLOUR, DEPTH, '/camera/depth/camera_info')
    assert found.warnings == ()


def test_intrinsics_of_another_size_are_not_taken_silently(find):
    recording = camera()
    without(recording, '/camera/color/camera_info', '/camera/depth/camera_info')
    recording.frame_id = ''
    recording.info('/other/camera_info', SMALL, 0)
    found = find(recording)
    assert found.camera_info == ''
    assert any('160x120' in r and '320x240' in r and 'camera_info' in r for r in found.warnings)
    # An image that was made smaller as a whole keeps its camera's.
    recording = Recording()
    recording.picture(COLOUR, SMALL, 0)
    recording.info('/camera/color/camera_info', FRAME, 0)
    assert find(recording).camera_info == '/camera/color/camera_info'


def test_a_cameras_own_intrinsics_of_another_frame_are_taken_with_a_warning(find):
    recording = without(camera(), '/camera/color/camera_info', '/camera/depth/camera_info')
    recording.frame_id = 'lens'
    recording.info('/camera/color/camera_info', FRAME, 0)
    found = find(recording)
    assert found.camera_info == '/camera/color/camera_info'
    assert any("'lens'" in warning and "'optical'" in warning for warning in found.warnings)


GREY = cv2.cvtColor(FRAME.image, cv2.COLOR_RGB2GRAY)
SIXTEEN = GREY.astype(np.uint16) * 12 + 7000
NOTHING = np.zeros(0, np.uint8)


def jpeg(pixels: np.ndarray) -> np.ndarray:
    return cv2.imencode('.jpg', pixels)[1].reshape(-1)


@pytest.mark.parametrize(
    ('source', 'form', 'data', 'deep'),
    [
        ('mono16', 'png compressed mono16', png(SIXTEEN), png(SIXTEEN, bytes(12))),
        ('mono16', 'jpeg compressed mono8', jpeg(GREY), png(SIXTEEN, bytes(12))),
        ('mono16', 'jpeg compressed mono8', jpeg(GREY), NOTHING),
        ('bayer_rggb16', 'png compressed bayer_rggb16', png(SIXTEEN), png(SIXTEEN, bytes(12))),
        ('rgb8', 'jpeg compressed bgr8', jpeg(FRAME.image), NOTHING),
        ('mono8', 'jpeg compressed ', jpeg(GREY), NOTHING),
        ('', '', jpeg(FRAME.image), NOTHING),
    ],
)
@pytest.mark.parametrize('kind', ['png', 'rvl', ''])
def test_a_transport_called_depth_does_not_make_an_image_depth(
    find, source, form, data, deep, kind
):
    recording = Recording()
    recording.compressed('/thermal/image_raw/compressed', f'{source}; {form}', data, 0)
    called = f'{source}; compressedDepth {kind}'.rstrip()
    recording.compressed('/thermal/image_raw/compressedDepth', called, deep, 0)
    recording.info('/thermal/camera_info', FRAME, 0)
    assert find(recording) == Topics(
        '/thermal/image_raw/compressed', '', '/thermal/camera_info', warnings=()
    )


@pytest.mark.parametrize('form', ['16UC1; compressedDepth png', 'mono16; compressedDepth png', ''])
def test_a_transport_of_depth_alone_is_depth_where_nothing_speaks_against_it(find, form):
    recording = Recording()
    recording.jpeg('/camera/color/image_raw/compressed', FRAME, 0)
    topic = '/camera/stereo/image_raw/compressedDepth'
    recording.compressed(topic, form or 'compressedDepth', png(MILLIMETRES, bytes(12)), 0)
    assert find(recording).depth == topic


@pytest.mark.parametrize('name', ['/depth_camera/image_raw', '/depth/ir/image'])
@pytest.mark.parametrize(
    ('form', 'data'),
    [
        ('mono8; jpeg compressed ', jpeg(GREY)),
        ('mono8; png compressed ', png(GREY)),
        ('jpeg', jpeg(GREY)),
        ('png', png(GREY)),
        ('', jpeg(GREY)),
        ('bgr8; jpeg compressed bgr8', jpeg(np.full_like(FRAME.image, 120))),
    ],
)
def test_a_grey_picture_is_no_depth_whatever_its_topic_is_called(find, name, form, data):
    recording = Recording()
    recording.compressed(f'{name}/compressed', form, data, 0)
    assert find(recording).image == f'{name}/compressed'


@pytest.mark.parametrize('painted', ['/camera/depth/image_color', '/camera/depth_colored/image'])
def test_depth_that_was_painted_is_no_camera_beside_one(find, painted):
    recording = camera()
    recording.picture(painted, FRAME, 0)
    found = find(recording)
    assert (found.image, found.depth) == (COLOUR, DEPTH)
    (warning,) = found.warnings
    assert warning.startswith(f'{painted} is left out: its name says depth')
    assert '--image takes it' in warning
    assert find(recording, painted).image == painted
    assert find(without(recording, COLOUR)).image == painted


@pytest.mark.parametrize('name', ['/usb/image_raw', '/depth_camera/image_raw'])
@pytest.mark.parametrize('form', ['jpeg', 'mono8; jpeg compressed ', ''])
def test_a_camera_whose_first_images_are_broken_is_taken_for_its_later_ones(find, name, form):
    recording = Recording()
    for number in range(14):
        data = NOTHING if number < 13 else jpeg(GREY)
        recording.compressed(f'{name}/compressed', form, data, number * STEP)
    assert find(recording).image == f'{name}/compressed'
    recording.entries.pop()
    with pytest.raises(NoTopic, match='no colour images that can be read'):
        find(recording)


def test_depth_is_no_image_however_many_of_its_transports_are_looked_at(find):
    recording = without(camera(), COLOUR)
    for number in range(14):
        recording.jpeg(f'{DEPTH}/compressed', FRAME, number * STEP)
    with pytest.raises(NoTopic, match='no colour images that can be read'):
        find(recording)
