"""Sound becomes sentences: files, utterances, words, and what is meant for the robot."""

from __future__ import annotations

import resource
import struct
import wave

import numpy as np
import pytest

pytest.importorskip('pocketsphinx', reason='needs pocketsphinx')

from speaking import speech, write_wav

from segzero_ros.speech.base import RATE, SECOND, SpeechError, Utterance
from segzero_ros.speech.commands import Commands
from segzero_ros.speech.language_model import arpa
from segzero_ros.speech.pcm import Converter, Encoding
from segzero_ros.speech.pocketsphinx_recogniser import (
    PocketsphinxDetector,
    PocketsphinxRecogniser,
)
from segzero_ros.speech.pushed_source import MAX_BUFFERED, PushedSource
from segzero_ros.speech.recogniser_loop import RecogniserLoop, SpeechCallbacks, WakePhrase
from segzero_ros.speech.voice_activity import UtteranceSegmenter
from segzero_ros.speech.wav_source import WavSource
from segzero_ros.speech.whisper_recogniser import SileroDetector


@pytest.fixture(params=[PocketsphinxDetector, SileroDetector])
def detector(request):
    if request.param is SileroDetector:
        pytest.importorskip('faster_whisper', reason='needs faster-whisper')
    return request.param()


@pytest.fixture(scope='module')
def recogniser():
    return PocketsphinxRecogniser('commands', ['teddy bear', 'flower', 'xyzzy'])


def heard(recogniser, path, wake=None, **options):
    """Return the queries, what was said on the way, and what was ignored."""
    queries, partial, ignored = [], [], []
    callbacks = SpeechCallbacks(queries.append, partial.append, lambda *why: ignored.append(why))
    RecogniserLoop(recogniser, wake or WakePhrase(), **options).run(
        WavSource(path, real_time=False), callbacks
    )
    return queries, partial, ignored


def spoken(path, *texts, **options):
    parts = [speech(text, seed=number, **options) for number, text in enumerate(texts)]
    return write_wav(path, np.concatenate([samples for samples, _ in parts]), parts[0][1])


@pytest.mark.slow
def test_each_sentence_of_a_recording_becomes_a_query_with_its_words_on_the_way(
    recogniser, tmp_path
):
    texts = ('the yellow plate', 'both yellow plates', 'can you see the flower')
    queries, partial, _ = heard(recogniser, spoken(tmp_path / 'a.wav', *texts))
    assert queries == list(texts)
    assert partial[-1].startswith('can you')
    assert len(partial) > len(texts)


@pytest.mark.slow
def test_names_of_ones_own_are_heard_and_unpronounceable_ones_are_told(recogniser, tmp_path):
    path = spoken(tmp_path / 'a.wav', 'where is the teddy bear')
    assert heard(recogniser, path)[0] == ['where is the teddy bear']
    assert recogniser.unpronounceable == ('xyzzy',)


@pytest.mark.slow
def test_after_the_wake_phrase_and_only_then(tmp_path):
    hearing = PocketsphinxRecogniser('commands', wake_phrase='Hello Robot')
    texts = ('the yellow plate', 'hello robot the yellow plate', 'hello robot', 'both mugs')
    path = spoken(tmp_path / 'a.wav', *texts)
    queries, _, ignored = heard(hearing, path, WakePhrase('Hello Robot', 8.0))
    # Which article it is_speech depends on the last bit of what the machine computes.
    assert [query.split()[-1] for query in queries] == ['plate', 'mugs']
    assert len(ignored) == 2
    assert ignored[0][0].endswith('plate')
    assert ignored[1][0] == 'hello robot'


def test_the_wake_phrase_alone_counts_for_so_long_and_once():
    wake = WakePhrase('hey you', 5.0)
    assert wake.query('the red ball', 0, 1) == ''
    assert wake.query('hey you', 1, 2) == ''
    assert wake.query('the red ball', 6, 8) == 'the red ball'
    assert wake.query('the red ball', 8, 9) == ''
    assert wake.query('hey you', 10, 11) == ''
    assert wake.query('the red ball', 16.5, 18) == ''
    assert wake.query('hey you the ball', 20, 22) == 'the ball'
    assert WakePhrase().query('anything', 0, 1) == 'anything'


@pytest.mark.parametrize(
    ('phrase', 'text', 'query'),
    [
        ('hello robot', 'Hello, robot. Where is the red cup?', 'Where is the red cup?'),
        ('hello robot', 'hello robot, where is the red cup?', 'where is the red cup?'),
        ('Hello Robot!', ' Hello robot \u2013 the mug.', 'the mug.'),
        ('hello robot', '"Hello, Robot", the mug', 'the mug'),
        ('hello robot', '- Hello... robot: “the mug”', 'the mug”'),
        ('hello robot', "HELLO-ROBOT what's that?", "what's that?"),
        ('hey robobot', 'Hey, Robo-Bot! The mug.', 'The mug.'),
        ('hey robo-bot', 'hey robo bot the mug', 'the mug'),
        ('okay r2-d2', 'Okay, R2D2, the mug', 'the mug'),
        ("what's up robot", 'What\u2019s up, robot? The mug', 'The mug'),
        ("what's up robot", 'whats up robot the mug', 'the mug'),
        ('hé robot', 'He robot, the mug', 'the mug'),
        ('he robot', 'He\u0301, robot, the mug', 'the mug'),
        ('hallo groß', 'Hallo GROSS, die Tasse', 'die Tasse'),
        ('ロボット', 'ロボット、赤いカップ', '赤いカップ'),
        ('hello robot', 'Hello robots, come here', ''),
        ('hello robot', "Hello robot's arm", ''),
        ('hello robot', 'Well hello robot, the mug', ''),
        ('hello robot', 'Hello', ''),
        ('hello robot', '', ''),
        ('!?', 'anything, at all', 'anything, at all'),
    ],
)
def test_the_wake_phrase_is_found_as_recognisers_write_it(phrase, text, query):
    assert WakePhrase(phrase).query(text, 0, 1) == query


@pytest.mark.parametrize('alone', ['Hello, robot.', 'Hello robot!', 'hello robot…'])
def test_the_wake_phrase_alone_with_its_full_stop_wakes(alone):
    wake = WakePhrase('hello robot', 5.0)
    assert wake.query(alone, 0, 1) == ''
    assert wake.query('The red cup?', 3, 4) == 'The red cup?'


@pytest.mark.slow
@pytest.mark.parametrize('phrase', ['hey xyzzy', 'robotron'])
def test_a_wake_phrase_that_cannot_be_heard_is_refused(phrase):
    with pytest.raises(SpeechError, match=phrase.split()[-1]):
        PocketsphinxRecogniser(wake_phrase=phrase)


def test_noise_and_silence_are_no_queries(recogniser, tmp_path):
    rng = np.random.default_rng(0)
    noise = np.concatenate([np.zeros(RATE), rng.normal(0, 2000, RATE), np.zeros(2 * RATE)])
    path = write_wav(tmp_path / 'noise.wav', noise.astype(np.int16), RATE)
    assert heard(recogniser, path)[0] == []


@pytest.mark.slow
def test_utterances_have_their_beginning_and_their_time(detector):
    samples, rate = speech('the red ball', pause=2.0)
    path_free = np.interp(
        np.arange(0, len(samples), rate / RATE), np.arange(len(samples)), samples
    ).astype(np.int16)
    ends = UtteranceSegmenter(detector)
    pieces = list(ends.feed(path_free.tobytes()))
    pieces += list(ends.end())
    (utterance,) = [piece for piece in pieces if isinstance(piece, Utterance)]
    assert b''.join(p for p in pieces if isinstance(p, bytes)) == utterance.sound
    assert 1.2 < utterance.start < 2.1
    assert 0.8 < utterance.seconds < 2.4


def test_noise_and_silence_are_not_taken_for_speech(detector):
    rng = np.random.default_rng(0)
    noise = np.concatenate([np.zeros(RATE), rng.normal(0, 300, 2 * RATE)]).astype(np.int16)
    ends = UtteranceSegmenter(detector)
    assert [*ends.feed(noise.tobytes()), *ends.end()] == []


@pytest.mark.slow
def test_a_pause_ends_an_utterance_and_a_moment_does_not(detector):
    def at_16k(text):
        samples, rate = speech(text, pause=0.0)
        places = np.arange(0, len(samples), rate / RATE)
        return np.interp(places, np.arange(len(samples)), samples).astype(np.int16)

    def utterances(pause):
        between = np.zeros(round(pause * RATE), np.int16)
        sound = [between, at_16k('the red ball'), between, at_16k('the green plate')]
        ends = UtteranceSegmenter(type(detector)())
        pieces = [*ends.feed(np.concatenate([*sound, between]).tobytes()), *ends.end()]
        return [piece for piece in pieces if isinstance(piece, Utterance)]

    assert len(utterances(0.25)) == 1
    assert len(utterances(1.5)) == 2


@pytest.mark.slow
def test_who_never_stops_is_cut_off(detector):
    samples, _ = speech('the red ball next to the green plate', pause=0.0)
    endless = np.tile(samples, 8)
    ends = UtteranceSegmenter(detector, max_utterance=3.0)
    found = [p for p in ends.feed(endless.tobytes()) if isinstance(p, Utterance)]
    assert len(found) > 2
    assert all(piece.seconds <= 3.1 for piece in found)


@pytest.mark.parametrize('width', [1, 2, 3, 4])
@pytest.mark.parametrize(('rate', 'channels'), [(8000, 1), (44100, 2), (16000, 1), (48000, 6)])
def test_every_kind_of_pcm_gives_the_same_tone(tmp_path, width, rate, channels):
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(rate) / rate)
    wide = (tone * (2**31 - 1)).astype('<i4').view(np.uint8).reshape(-1, 4)[:, 4 - width :]
    raw = (wide[:, 0] ^ 128)[:, None] if width == 1 else wide
    path = tmp_path / 'tone.wav'
    with wave.open(str(path), 'wb') as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(np.repeat(raw, channels, axis=0).astype(np.uint8).tobytes())
    made = b''.join(WavSource(path, real_time=False).blocks())
    sound = np.frombuffer(made, np.int16) / 32767
    assert abs(len(sound) - RATE) < RATE * 0.01
    true = 0.5 * np.sin(2 * np.pi * 440 * np.arange(len(sound)) / RATE)
    inner = slice(800, -800)
    assert np.abs(sound[inner] - true[inner]).max() < (0.02 if width == 1 else 0.005)


@pytest.mark.parametrize(
    'content', [b'', b'RIFF', b'not a wav file at all', b'RIFF\x24\0\0\0WAVEfmt \x10\0\0\0\3\0']
)
def test_what_is_no_recording_says_so(tmp_path, content):
    path = tmp_path / 'x.wav'
    path.write_bytes(content)
    with pytest.raises(SpeechError, match=r'x\.wav is not a PCM WAV file'):
        WavSource(path)
    with pytest.raises(SpeechError, match=r'not a PCM WAV file'):
        WavSource(tmp_path / 'nowhere.wav')


@pytest.mark.parametrize(('width', 'rate'), [(8, RATE), (5, RATE), (2, 1), (2, 400_000_000)])
def test_a_header_that_no_recording_has_is_refused(tmp_path, width, rate):
    block = struct.pack('<HHIIHH', 1, 1, rate, (rate * width) % 2**32, width, 8 * width)
    body = (
        b'WAVEfmt ' + struct.pack('<I', 16) + block + b'data' + struct.pack('<I', 80) + bytes(80)
    )
    path = tmp_path / 'odd.wav'
    path.write_bytes(b'RIFF' + struct.pack('<I', len(body)) + body)
    with pytest.raises(SpeechError, match='supported are'):
        WavSource(path)


def test_a_recording_cut_short_gives_what_is_there(recogniser, tmp_path):
    path = spoken(tmp_path / 'a.wav', 'both yellow plates')
    data = path.read_bytes()
    path.write_bytes(data[: -RATE // 2 + 1])
    assert heard(recogniser, path)[0] == ['both yellow plates']


@pytest.mark.slow
def test_an_hour_of_sound_takes_no_memory(tmp_path):
    path = tmp_path / 'hour.wav'
    with wave.open(str(path), 'wb') as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        second = np.zeros(60 * RATE, np.int16).tobytes()
        for _ in range(60):
            file.writeframes(second)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    count = sum(len(block) for block in WavSource(path, real_time=False).blocks())
    assert count == 3600 * SECOND
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000


@pytest.mark.parametrize(
    ('samples', 'kind', 'scale'),
    [('S8', np.int8, 127), ('F32LE', '<f4', 1), ('U8', np.uint8, 127)],
)
def test_samples_that_only_messages_have_give_the_same_tone(samples, kind, scale):
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(RATE) / RATE)
    written = (tone * scale + (128 if samples == 'U8' else 0)).astype(kind)
    sound = np.frombuffer(
        Converter(Encoding(samples, RATE, 1)).convert(written.tobytes()), np.int16
    )
    assert np.abs(sound / 32767 - tone[: len(sound)]).max() < 0.02


def test_numbers_that_are_none_are_silence():
    bad = np.array([np.nan, np.inf, -np.inf, 7, 0.5] * 100, '<f4')
    sound = np.frombuffer(Converter(Encoding('F32LE', RATE, 1)).convert(bad.tobytes()), np.int16)
    assert set(sound.tolist()) == {0, 32767, -32767, 16383}


@pytest.mark.parametrize(
    'encoding', [('MP3', RATE, 1), ('', RATE, 1), ('S16LE', 0, 1), ('S16LE', RATE, 0)]
)
def test_what_nobody_writes_like_this_is_refused(encoding):
    with pytest.raises(SpeechError, match='supported are'):
        Encoding(*encoding)


SIXTEEN = Encoding('S16LE', RATE, 1)


def test_what_is_pushed_comes_as_one_stream_with_silence_where_nothing_came():
    samples, rate = speech('both yellow plates')
    source, encoding = PushedSource(), Encoding('S16LE', rate, 2)
    data = np.repeat(samples, 2).tobytes()
    for at in range(0, len(data), 4 * 441):
        source.put(data[at : at + 4 * 441], encoding)
    taken = bytearray()
    for block in source.blocks():
        assert len(block) <= SECOND / 2
        if not any(block):
            break
        taken += block
    assert abs(len(taken) / SECOND - len(samples) / rate) < 0.05
    source.close()


def test_who_falls_silent_has_ended_the_sentence_but_not_the_sound(recogniser):
    samples, rate = speech('both yellow plates')
    source = PushedSource()
    source.put(samples[: -int(1.1 * rate)].tobytes(), Encoding('S16LE', rate, 1))
    queries = []

    def heard(query):
        queries.append(query)
        source.close()

    RecogniserLoop(recogniser, WakePhrase()).run(
        source, SpeechCallbacks(heard, lambda _: None, lambda *_: None)
    )
    assert queries == ['both yellow plates']


def test_of_sound_that_nobody_takes_the_oldest_is_dropped():
    source = PushedSource()
    for number in range(1, 301):
        source.put(np.full(RATE // 10, number, np.int16).tobytes(), SIXTEEN)
    assert source.dropped == pytest.approx(30 - MAX_BUFFERED)
    blocks = source.blocks()
    assert np.frombuffer(next(blocks), np.int16)[0] in (200, 201)
    source.close()
    source = PushedSource()
    source.put(bytes(60 * SECOND), SIXTEEN)
    assert source.dropped == 0, 'a whole recording in one message'


def test_a_source_that_fails_says_why():
    source = PushedSource()
    source.put(bytes(SECOND), SIXTEEN)
    source.fail('it is compressed')
    with pytest.raises(SpeechError, match='it is compressed'):
        next(source.blocks())


@pytest.mark.slow
def test_an_hour_of_pushed_sound_takes_no_memory():
    source = PushedSource()
    blocks = source.blocks()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(7200):
        source.put(bytes(SECOND // 2), SIXTEEN)
        next(blocks)
    assert source.dropped == 0
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000


def test_the_language_model_is_one():
    """What follows each context adds up to one, with what the shorter context gives."""
    text = arpa(['the red ball', 'the blue ball', 'the red box', 'both boxes'])
    rows: dict[int, dict[tuple[str, ...], tuple[float, float]]] = {1: {}, 2: {}, 3: {}}
    for line in text.splitlines():
        if line.startswith('-') and '\t' in line:
            probability, gram, *weight = line.split('\t')
            words = tuple(gram.split())
            rows[len(words)][words] = (float(probability), float(weight[0]) if weight else 0.0)
    vocabulary = [gram[0] for gram in rows[1] if gram != ('<s>',)]

    def probability(gram):
        if gram in rows[len(gram)]:
            return 10 ** rows[len(gram)][gram][0]
        weight = rows[len(gram) - 1].get(gram[:-1], (0.0, 0.0))[1]
        return 10**weight * probability(gram[1:])

    for context in [(), ('the',), ('<s>', 'the'), ('the', 'red'), ('both',), ('red', 'boxes')]:
        total = sum(probability((*context, word)) for word in vocabulary)
        assert total == pytest.approx(1.0, abs=0.002), context
    assert probability(('the', 'red', 'ball')) > probability(('the', 'red', 'boxes'))


def test_drawn_commands_are_read_by_the_reasoner_whose_words_they_are():
    from segzero_ros.reasoning.attributes.words import words

    known = {*words(), 'track', 'how', 'many', 'between', 'edge', 'side', 'picture', 'camera'}
    known |= {'far', 'than', 'behind', 'beside', 'next', 'near', 'close', 'above', 'below'}
    known |= {'under'}
    commands = Commands(lambda word: True)
    rng = np.random.default_rng(1)
    said = {word for _ in range(500) for word in commands.draw(rng).split()}
    assert said <= known
