"""A query gets the newest image whose own depth is here, however the two streams arrive."""

from __future__ import annotations

from dataclasses import dataclass
import random
import struct

from hypothesis import given, settings
from hypothesis import strategies as st
import pytest

from segzero_ros.rgbd import buffer
from segzero_ros.rgbd.buffer import DEPTH_WAIT_NS, RgbdBuffer

MS = 1_000_000
SECOND = 1_000_000_000
START = 1_700_000_000 * SECOND
LASTS = 8.0


def message(stamp_ns: int, size: int = 0) -> bytes:
    """Return a serialised header with a stamp, and so many bytes behind it."""
    return b'\x00\x01\x00\x00' + struct.pack('<iI', *divmod(stamp_ns, SECOND)) + bytes(size)


@dataclass(frozen=True)
class Pattern:
    """How colour and depth come; rates in Hz, all else in milliseconds.

    Attributes:
        apart: the depth's stamp minus the image's.
        stamp_jitter: how much later than that it may be.
        jitter: how much later than usual a message may arrive.
        dropped: the share of messages that never arrive.
        burst: how many depth images arrive together.
    """

    colour_hz: float
    depth_hz: float
    colour_late: float = 10
    depth_late: float = 10
    apart: float = 0
    stamp_jitter: float = 0
    jitter: float = 0
    dropped: float = 0
    burst: int = 1

    def arrivals(self) -> list[tuple[int, str, int]]:
        """Return (arrival, topic, stamp) of all messages, by their arrival."""
        chance = random.Random(7)
        events = []
        for topic, hz, late in (
            ('image', self.colour_hz, self.colour_late),
            ('depth', self.depth_hz, self.depth_late),
        ):
            arrived = 0
            for number in range(round(LASTS * hz)):
                stamp = START + round(number * SECOND / hz)
                together = 0
                if topic == 'depth':
                    stamp += round((self.apart + chance.uniform(0, self.stamp_jitter)) * MS)
                    together = (self.burst - 1 - number % self.burst) * round(SECOND / hz)
                arrival = stamp + round((late + chance.uniform(0, self.jitter)) * MS) + together
                # What is sent in order on one topic arrives in order.
                arrived = max(arrival, arrived + 1)
                if chance.random() >= self.dropped:
                    events.append((arrived, topic, stamp))
        return sorted(events)


def outcome(pattern: Pattern) -> tuple[float, float]:
    """Return the share of queries with depth, and of those with the image's own depth."""
    store = RgbdBuffer(50 * MS)
    asking = [
        (START + 2 * SECOND + round(k * 7.3 * MS), 'ask', 0) for k in range(round(5500 / 7.3))
    ]
    asked = given = own = 0
    for now, what, stamp in sorted([*pattern.arrivals(), *asking]):
        if what == 'image':
            store.put_image(message(stamp), now)
        elif what == 'depth':
            store.put_depth(message(stamp), now)
        else:
            rgbd = store.latest()
            asked += 1
            if rgbd is not None and rgbd.depth is not None:
                given += 1
                apart = (rgbd.depth.time_ns - rgbd.image.time_ns) / MS - pattern.apart
                own += -1e-3 < apart < pattern.stamp_jitter + 1e-3
    return given / asked, own / asked


PATTERNS = {
    'on time': Pattern(30, 30, 10, 20),
    'depth first': Pattern(30, 30, 20, 10),
    'depth 60 ms late': Pattern(30, 30, 10, 60),
    'depth 200 ms late': Pattern(30, 30, 10, 200),
    'depth 260 ms late': Pattern(30, 30, 10, 260),
    'depth 400 ms late': Pattern(30, 30, 10, 400),
    'depth 400 ms late at 15 Hz': Pattern(15, 15, 10, 400),
    'depth 380 ms late at 60 Hz': Pattern(60, 60, 5, 380),
    'colour at 60, depth at 15': Pattern(60, 15, 10, 130),
    'colour at 60, depth at 20': Pattern(60, 20, 10, 130),
    'colour at 60, depth at 15, later': Pattern(60, 15, 10, 300),
    'colour at 30, depth at 6': Pattern(30, 6, 10, 150),
    'colour at 30, depth at 10': Pattern(30, 10, 10, 250),
    'colour at 1': Pattern(1, 30, 10, 20),
    'colour at 2': Pattern(2, 30, 10, 200),
    'colour at 3': Pattern(3, 30, 10, 30),
    'colour at 5': Pattern(5, 30, 10, 20),
    'colour at 6': Pattern(6, 30, 10, 120),
    'colour at 1, later than depth': Pattern(1, 30, 300, 10),
    'colour at 5, later than depth': Pattern(5, 30, 300, 10),
    'colour 160 ms late': Pattern(30, 30, 160, 10),
    'colour 300 ms late': Pattern(30, 30, 300, 10),
    'colour 450 ms late': Pattern(30, 30, 450, 10),
    'stamps 1 ms apart': Pattern(30, 30, 10, 60, apart=1),
    'stamps 1 ms apart at 15 Hz': Pattern(15, 15, 10, 90, apart=1),
    'stamps 3 ms apart at 10 Hz': Pattern(10, 10, 10, 60, apart=3),
    'stamps 3 ms apart, 300 ms late': Pattern(30, 30, 10, 300, apart=3),
    'depth stamped 2 ms before': Pattern(30, 30, 10, 200, apart=-2),
    'depth stamped 9 ms before': Pattern(30, 30, 10, 150, apart=-9),
    'stamps 5 ms apart': Pattern(30, 30, 10, 100, apart=5),
    'stamps 12 ms apart': Pattern(30, 30, 10, 100, apart=12),
    'stamps 16 ms apart': Pattern(30, 30, 10, 200, apart=16),
    'stamps 40 ms apart at 10 Hz': Pattern(10, 10, 10, 60, apart=40),
    'stamps 1 to 3 ms apart': Pattern(30, 30, 10, 130, apart=1, stamp_jitter=2),
    'fast colour, stamps 2 ms apart': Pattern(60, 15, 10, 130, apart=2),
    'fast colour, stamps 7 ms apart': Pattern(60, 15, 10, 130, apart=7),
    'slow colour, stamps 3 ms apart': Pattern(5, 30, 10, 60, apart=3),
    'arrivals that jitter': Pattern(30, 30, 10, 100, jitter=60),
    'late colour that jitters': Pattern(30, 30, 150, 10, jitter=60),
    'one in ten dropped': Pattern(30, 30, 10, 150, dropped=0.1),
    'one in five dropped, fast colour': Pattern(60, 15, 10, 130, dropped=0.2),
    'one in ten dropped, stamps apart': Pattern(30, 30, 10, 150, apart=3, dropped=0.1),
    'depth in bursts': Pattern(30, 30, 10, 60, burst=4),
    'all at once': Pattern(30, 30, 10, 120, apart=2, jitter=30, dropped=0.05, burst=2),
}


@pytest.mark.parametrize('name', PATTERNS)
def test_queries_get_the_depth_of_their_frame(name: str) -> None:
    given, own = outcome(PATTERNS[name])
    assert given >= 0.95
    assert own >= 0.95


@pytest.mark.slow
@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(
    colour=st.sampled_from((10, 15, 30, 60)),
    times=st.sampled_from((1, 2, 3)),
    faster=st.booleans(),
    late=st.floats(0, 300),
    depth_is_late=st.booleans(),
    apart=st.floats(-0.25, 0.25),
)
def test_any_rates_delays_and_offsets_pair(
    colour: int, times: int, faster: bool, late: float, depth_is_late: bool, apart: float
) -> None:
    """Offsets go up to a quarter of the faster stream's period."""
    rates = (colour * times, colour) if faster else (colour, colour * times)
    delays = (10, 10 + late) if depth_is_late else (10 + late, 10)
    pattern = Pattern(*rates, *delays, apart=apart * 1000 / max(rates))
    given, own = outcome(pattern)
    assert (given, own) >= (0.95, 0.95), pattern


def test_it_is_the_newest_such_image() -> None:
    """With depth 200 ms late, the image is no older than it must be."""
    store = RgbdBuffer(50 * MS)
    worst = 0
    newest = 0
    for now, what, stamp in Pattern(30, 30, 10, 210).arrivals():
        if what == 'image':
            newest = stamp
            store.put_image(message(stamp), now)
        else:
            store.put_depth(message(stamp), now)
        rgbd = store.latest()
        if now > START + SECOND and rgbd is not None:
            worst = max(worst, newest - rgbd.image.time_ns)
    assert worst <= 240 * MS


def test_unrelated_streams_pair_within_the_allowed_offset() -> None:
    """Two free-running cameras: the nearest depth, and an image that is not old."""
    given, _ = outcome(Pattern(30, 25, 10, 60, apart=7))
    assert given == 1


FREE_RUNNING = (
    (30, 9.9, 120),
    (20, 9.7, 120),
    (30, 15.2, 90),
    (30, 14.9, 60),
    (15, 14.6, 90),
    (15, 14, 90),
    (30, 29.5, 90),
    (30, 30.5, 90),
    (29.5, 60, 90),
    (14.5, 30, 90),
    (10, 9.5, 90),
    (25, 12, 90),
    (30, 8, 90),
    (15, 7, 90),
    (30, 29.98, 120),
)


@pytest.mark.slow
@pytest.mark.parametrize(('colour_hz', 'depth_hz', 'late'), FREE_RUNNING)
@pytest.mark.parametrize('apart', [0, 13])
def test_free_running_streams_get_mutually_nearest_pairs(
    colour_hz: float, depth_hz: float, late: float, apart: float
) -> None:
    """The offset drifts over the beat of the two rates; a pair is at most 50 ms apart."""
    arrivals = Pattern(colour_hz, depth_hz, 10, late, apart=apart).arrivals()
    images = [stamp for _, what, stamp in arrivals if what == 'image']
    depths = [stamp for _, what, stamp in arrivals if what == 'depth']
    store = RgbdBuffer(50 * MS)
    asking = [(START + round((2000 + k * 7.3) * MS), 'ask', 0) for k in range(750)]
    newest = asked = mutual = 0
    ages = []
    for now, what, stamp in sorted([*arrivals, *asking]):
        if what == 'image':
            newest = stamp
            store.put_image(message(stamp), now)
        elif what == 'depth':
            store.put_depth(message(stamp), now)
        else:
            asked += 1
            rgbd = store.latest_paired()
            assert rgbd is None or rgbd == store.latest()
            if rgbd is not None and rgbd.depth is not None:
                image, depth = rgbd.image.time_ns, rgbd.depth.time_ns
                apart_ns = abs(depth - image)
                mutual += apart_ns == min(abs(other - image) for other in depths) and (
                    apart_ns == min(abs(other - depth) for other in images)
                )
                ages.append(newest - image)
    assert mutual >= 0.95 * asked
    # Three pairs while a drift is not noticed yet, and then one until what is nearest is known.
    assert max(ages) <= min(DEPTH_WAIT_NS, (late + 4500 / min(colour_hz, depth_hz)) * MS)
    assert sorted(ages)[len(ages) // 2] <= (late + 2500 / min(colour_hz, depth_hz)) * MS


@pytest.mark.parametrize('dropped', [0.2, 0.3])
@pytest.mark.parametrize(('colour_hz', 'depth_hz'), [(60, 30), (90, 30), (30, 15), (15, 30)])
@pytest.mark.parametrize('apart', [0, 2, -2])
def test_a_triggered_stream_that_loses_frames_keeps_its_own_pairs(
    colour_hz: float, depth_hz: float, apart: float, dropped: float
) -> None:
    """Depth whose image was lost is a neighbour's nearest, and is not taken for its own."""
    _, own = outcome(Pattern(colour_hz, depth_hz, 10, 130, apart=apart, dropped=dropped))
    assert own >= 0.95


def kept_bytes(store: RgbdBuffer) -> int:
    return sum(len(one.data) for kept in (store._images, store._depths) for one in kept)


def play(store: RgbdBuffer, pattern: Pattern, image_bytes: int, depth_bytes: int) -> int:
    """Put all of a pattern's messages; return the most bytes that were kept."""
    most = 0
    # The same bytes behind every stamp, so that the test needs no more memory than the store.
    for now, what, stamp in pattern.arrivals():
        if what == 'image':
            store.put_image(message(stamp, image_bytes), now)
        else:
            store.put_depth(message(stamp, depth_bytes), now)
        most = max(most, kept_bytes(store))
    return most


def test_memory_is_bounded_in_bytes_and_late_depth_still_pairs(monkeypatch) -> None:
    """As a 4K camera at 60 Hz would fill it: ten images fit, and 24 come before their depth."""
    monkeypatch.setattr(buffer, 'MAX_BYTES', 10 * 24_000)
    store = RgbdBuffer(50 * MS)
    pattern = Pattern(60, 60, 10, 400)
    assert play(store, pattern, 24_000, 8_000) <= 2 * 10 * 24_000
    given = own = 0
    store.clear()
    for now, what, stamp in pattern.arrivals():
        if what == 'image':
            store.put_image(message(stamp, 24_000), now)
        else:
            store.put_depth(message(stamp, 8_000), now)
        if now > START + 2 * SECOND and (rgbd := store.latest()) is not None:
            given += 1
            own += rgbd.depth is not None and rgbd.depth.stamp_ns == rgbd.image.stamp_ns
    assert own >= 0.95 * given


def test_on_time_no_more_is_kept_than_before() -> None:
    """Of a camera with depth at once: fewer than the six images of before; without, no more."""
    store = RgbdBuffer(50 * MS)
    assert play(store, Pattern(30, 30, 10, 20), 62, 41) < 6 * 62
    store = RgbdBuffer(50 * MS)
    for number in range(100):
        store.put_image(message(START + number * 33 * MS), START + number * 33 * MS)
        assert len(store._images) <= 6
        assert store.newest().stamp_ns == START + number * 33 * MS


@pytest.mark.parametrize('late', [150, 250, 400])
def test_depth_pairs_as_soon_as_it_comes(late: int) -> None:
    """Images from before the first depth are there to be paired with it."""
    store = RgbdBuffer(50 * MS)
    for now, what, stamp in Pattern(30, 30, 10, late).arrivals():
        (store.put_image if what == 'image' else store.put_depth)(message(stamp), now)
        if what == 'depth' and now > START + (late + 150) * MS:
            break
    rgbd = store.latest()
    assert rgbd.depth is not None
    assert rgbd.depth.stamp_ns == rgbd.image.stamp_ns


@pytest.mark.parametrize(
    'pattern',
    [
        PATTERNS['on time'],
        PATTERNS['depth 200 ms late'],
        PATTERNS['colour at 60, depth at 15'],
        PATTERNS['colour at 5'],
        PATTERNS['colour 300 ms late'],
        PATTERNS['stamps 3 ms apart, 300 ms late'],
        PATTERNS['depth stamped 9 ms before'],
    ],
)
def test_a_listener_hears_each_image_once_in_order_with_the_nearest_depth(pattern) -> None:
    store = RgbdBuffer(50 * MS)
    heard: list[tuple[int, int | None, int]] = []
    now = START
    store.listen(
        lambda rgbd: heard.append(
            (rgbd.image.time_ns, None if rgbd.depth is None else rgbd.depth.time_ns, now)
        )
    )
    sent: list[int] = []
    depths: list[int] = []
    for now, what, stamp in pattern.arrivals():
        (sent if what == 'image' else depths).append(stamp)
        (store.put_image if what == 'image' else store.put_depth)(message(stamp), now)
    assert [image for image, *_ in heard] == sent[: len(heard)]
    assert len(sent) - len(heard) <= pattern.colour_hz * 0.51 + 1
    late = (max(pattern.depth_late, pattern.colour_late) + 1000 / pattern.depth_hz) * MS
    for image, depth, at in heard[round(pattern.colour_hz) : -round(pattern.colour_hz)]:
        near = [other for other in depths if abs(other - image) <= 50 * MS]
        assert depth is not None or not near
        if near:
            assert abs(depth - image) == min(abs(other - image) for other in near)
        assert at - image <= late


def test_a_listener_is_not_kept_waiting_by_depth_that_has_stopped() -> None:
    store = RgbdBuffer(50 * MS)
    delays: list[int] = []
    now = START
    store.listen(lambda rgbd: delays.append(now - rgbd.image.time_ns))
    for now, what, stamp in Pattern(30, 30, 10, 30).arrivals():
        if what == 'image':
            store.put_image(message(stamp), now)
        elif now < START + 3 * SECOND:
            store.put_depth(message(stamp), now)
    assert max(delays) <= DEPTH_WAIT_NS + 60 * MS
    assert max(delays[-60:]) == 10 * MS
    assert len(delays) == round(LASTS * 30)


def test_a_shot_without_depth_says_how_far_the_nearest_is() -> None:
    store = RgbdBuffer(50 * MS)
    store.put_image(message(START), START)
    assert store.latest().depth_gap_ns is None
    store.put_depth(message(START - 3 * SECOND), START)
    assert store.latest().depth is None
    assert store.latest().depth_gap_ns == -3 * SECOND
    store.put_depth(message(START + MS), START)
    assert store.latest().depth_gap_ns is None
    assert store.latest().depth is not None


def test_a_restart_keeps_the_newest_intrinsics_alone() -> None:
    store = RgbdBuffer(50 * MS)
    for number in range(3):
        store.put_info(message(START + number * SECOND), START)
    store.put_image(message(START), START)
    store.put_depth(message(START), START)
    store.restart()
    assert store.latest() is None
    store.put_image(message(START - 90 * SECOND), START)
    rgbd = store.latest()
    assert rgbd.depth is None
    assert rgbd.info.stamp_ns == START + 2 * SECOND


def test_a_recording_that_restarts_is_paired_again() -> None:
    """A bag played in a loop without a clock: stamps go back, the node's clock goes on."""
    store = RgbdBuffer(50 * MS)
    for play_number in range(2):
        for now, what, stamp in Pattern(30, 30, 10, 150).arrivals():
            put = store.put_image if what == 'image' else store.put_depth
            put(message(stamp), now + play_number * round(LASTS * SECOND))
            if play_number and now > START + SECOND:
                rgbd = store.latest()
                assert rgbd.depth is not None
                assert rgbd.depth.stamp_ns == rgbd.image.stamp_ns
