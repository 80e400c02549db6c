"""Files of the hub: room first, progress while they come, and a sentence when they do not.

The hub's client takes its address when it is imported, so each test fetches in a process of its
own, from a server that speaks the hub's API.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
import json
import os
from pathlib import Path
import re
import subprocess
import sys
from typing import Any

from hub_server import hub_server, HubServer
import pytest

pytest.importorskip('huggingface_hub')

from segzero_ros import hub
from segzero_ros.evaluation.hub import HubDataset, open_hub
from segzero_ros.reasoning import checkpoints
from segzero_ros.segmentation.sam2_checkpoint import find_checkpoint
from segzero_ros.types import SegZeroError

NAME = 'somebody/model'
FILES = {
    'config.json': b'{"model_type": "qwen2_5_vl"}',
    'model-00001-of-00002.safetensors': bytes(3_000_000),
    'model-00002-of-00002.safetensors': os.urandom(25_000_000),
    'notes.md': b'not wanted',
}
WANTED = ('*.json', '*.safetensors')


@pytest.fixture
def server() -> Iterator[HubServer]:
    with hub_server(NAME, dict(FILES)) as running:
        yield running


def run(
    code: str, home: Path, endpoint: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run code that has `hub` at hand; what it prints and logs comes back.

    The hub's client does not wait between its attempts, which else takes it up to half a minute.
    """
    begin = 'import json, logging, time\nfrom segzero_ros import hub\nlogging.basicConfig()\n'
    begin += 'time.sleep = lambda _: None\n'
    given = {**os.environ, 'HF_ENDPOINT': endpoint, 'HF_HOME': str(home), **environment}
    if 'HF_HUB_OFFLINE' not in environment:
        given.pop('HF_HUB_OFFLINE', None)
    given.pop('HF_HUB_CACHE', None)
    return subprocess.run(
        [sys.executable, '-c', begin + code], capture_output=True, text=True, env=given
    )


FETCH = f"""
try:
    print(hub.fetch({NAME!r}, {WANTED!r}))
except hub.DownloadError as error:
    print(type(error).__name__, error)
"""


@pytest.mark.slow
def test_wanted_files_come_once_and_are_then_found_without_the_hub(
    server: HubServer, tmp_path: Path
) -> None:
    done = run(FETCH, tmp_path, server.url)
    folder = Path(done.stdout.strip())
    assert {path.name for path in folder.iterdir()} == set(FILES) - {'notes.md'}, done.stderr
    for path in folder.iterdir():
        assert path.read_bytes() == FILES[path.name]
    assert len(server.sent) == 3
    again = run(
        'from huggingface_hub import snapshot_download\n'
        f'print(snapshot_download({NAME!r}, allow_patterns={WANTED!r}, local_files_only=True))',
        tmp_path,
        server.url,
        HF_HUB_OFFLINE='1',
    )
    assert again.stdout == done.stdout, again.stderr
    assert len(server.sent) == 3


@pytest.mark.slow
def test_a_few_lines_of_the_log_tell_how_far_it_is(server: HubServer, tmp_path: Path) -> None:
    done = run(FETCH, tmp_path, server.url)
    lines = [line for line in done.stderr.splitlines() if f'Downloading {NAME}: ' in line]
    assert 2 < len(lines) < 14
    assert lines[0].endswith(': 0% of 28.0 MB')
    assert '100% of 28.0 MB, 0 s left' in lines[-1]


@pytest.mark.slow
def test_a_reporter_takes_the_place_of_the_log_and_progress_is_there_to_ask_for(
    server: HubServer, tmp_path: Path
) -> None:
    code = f"""
seen = []
def note(reached):
    assert hub.progress() is reached
    seen.append([reached.done, reached.total, str(reached)])
with hub.reporting(note):
    hub.fetch({NAME!r}, {WANTED!r})
print(json.dumps([seen, hub.progress()]))
"""
    done = run(code, tmp_path, server.url)
    seen, at_the_end = json.loads(done.stdout)
    total = sum(len(FILES[name]) for name in FILES if name != 'notes.md')
    assert seen[0][:2] == [0, total]
    assert seen[-1][:2] == [total, total]
    assert [done for done, *_ in seen] == sorted(done for done, *_ in seen)
    assert at_the_end is None
    assert 'Downloading' not in done.stderr


@pytest.mark.slow
def test_a_full_disk_is_noticed_before_anything_is_fetched(
    server: HubServer, tmp_path: Path
) -> None:
    code = """
import shutil
from types import SimpleNamespace
shutil.disk_usage = lambda _: SimpleNamespace(free=105_000_000)
"""
    home = tmp_path / 'not' / 'there' / 'yet'
    done = run(code + FETCH, home, server.url)
    assert done.stdout.startswith(f'DiskFull {NAME} takes 28.0 MB more in {home / "hub"}, ')
    assert ' 23.0 MB are missing' in done.stdout
    assert 'set HF_HOME to a folder on a larger disk' in done.stdout
    assert server.sent == []


@pytest.mark.slow
def test_only_what_is_not_here_needs_room(server: HubServer, tmp_path: Path) -> None:
    code = """
import shutil
from types import SimpleNamespace
shutil.disk_usage = lambda _: SimpleNamespace(free=104_000_000)
"""
    run(f"hub.fetch({NAME!r}, ('*.json', '*1-of-*'))", tmp_path, server.url)
    done = run(code + FETCH, tmp_path, server.url)
    assert 'takes 25.0 MB more' in done.stdout, done.stderr


@pytest.mark.slow
def test_a_disk_that_fills_up_meanwhile_is_told_as_such(server: HubServer, tmp_path: Path) -> None:
    code = """
import errno, shutil
from types import SimpleNamespace
import huggingface_hub
free = [10**12]
shutil.disk_usage = lambda _: SimpleNamespace(free=free[0])
fetched = huggingface_hub.hf_hub_download
def fill(*given, **named):
    free[0] = 0
    raise OSError(errno.ENOSPC, 'No space left on device')
huggingface_hub.hf_hub_download = fill
"""
    done = run(code + FETCH, tmp_path, server.url)
    assert done.stdout.startswith(f'DiskFull {NAME} takes '), done.stdout + done.stderr
    assert 'HF_HOME' in done.stdout


@pytest.mark.slow
def test_a_connection_that_breaks_is_told_and_the_rest_comes_at_the_next_try(
    server: HubServer, tmp_path: Path
) -> None:
    second = 'model-00002-of-00002.safetensors'
    server.cut[second] = 12_000_000
    done = run(FETCH, tmp_path, server.url)
    assert done.stdout.startswith(
        f'BrokenOff The download of {NAME} was interrupted after 13.5 MB of '
    )
    assert 'Complete files are kept: try again' in done.stdout
    assert 'Traceback' not in done.stderr
    server.cut.clear()
    server.sent.clear()
    again = run(FETCH, tmp_path, server.url)
    assert (Path(again.stdout.strip()) / second).read_bytes() == FILES[second]
    assert server.sent == [(second, 0)]


@pytest.mark.slow
def test_a_connection_that_breaks_once_goes_on_where_it_was(
    server: HubServer, tmp_path: Path
) -> None:
    second = 'model-00002-of-00002.safetensors'

    class Once(dict[str, int]):
        def get(self, name: str, default: Any = None) -> Any:
            return self.pop(name, default)

    server.cut = Once({second: 12_000_000})
    done = run(FETCH, tmp_path, server.url)
    assert (Path(done.stdout.strip()) / second).read_bytes() == FILES[second]
    assert server.sent[-2:] == [(second, 0), (second, 10 * 2**20)]
    assert '100% of 28.0 MB' in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ('name', 'environment', 'said'),
    [
        ('somebody/other', {}, r'has no somebody/other, or it is private'),
        (NAME, {'HF_HUB_OFFLINE': '1'}, r'because HF_HUB_OFFLINE is set'),
        (NAME, {'HF_ENDPOINT': 'http://127.0.0.1:9'}, r'127\.0\.0\.1:9; .*check the network'),
    ],
)
def test_a_hub_that_gives_nothing_is_told_in_a_sentence(
    server: HubServer, tmp_path: Path, name: str, environment: dict[str, str], said: str
) -> None:
    for code in (FETCH.replace(NAME, name), FETCH.replace(f'{WANTED!r}', "(), file='model.pt'")):
        if name != NAME and "file='" in code:
            continue
        done = run(code, tmp_path, **{'endpoint': server.url, **environment})
        assert done.stdout.startswith('DownloadError '), done.stdout + done.stderr
        assert re.search(said, done.stdout), done.stdout
        assert done.stdout.count('\n') == 1
    assert server.sent == []


def test_files_that_are_given_on_request_are_told_as_such(
    server: HubServer, tmp_path: Path
) -> None:
    server.gated = True
    done = run(FETCH, tmp_path, server.url)
    assert re.fullmatch(r'Gated .*accepting its terms.*hf auth login\.\n', done.stdout), (
        done.stderr
    )
    assert not server.sent


@pytest.mark.slow
def test_a_terminal_shows_one_line_that_is_written_over(server: HubServer, tmp_path: Path) -> None:
    code = f"""
import logging
from segzero_ros import hub
from segzero_ros.cli.download_progress import shown_on_terminal
logging.basicConfig()
with shown_on_terminal():
    hub.fetch({NAME!r}, {WANTED!r})
    try:
        hub.fetch('somebody/other', {WANTED!r})
    except hub.DownloadError:
        pass
"""
    given = {**os.environ, 'HF_ENDPOINT': server.url, 'HF_HOME': str(tmp_path)}
    given.pop('HF_HUB_OFFLINE', None)
    ours, theirs = os.openpty()
    with os.fdopen(ours, 'rb', buffering=0) as terminal:
        process = subprocess.Popen([sys.executable, '-c', code], stderr=theirs, env=given)
        os.close(theirs)
        shown = b''
        # Linux reports the other end's close as an error.
        with suppress(OSError):
            while piece := terminal.read(65536):
                shown += piece
        assert process.wait() == 0
    lines = shown.decode().replace('\x1b[K', '').strip().split('\r')
    lines = [line for line in lines if line.strip()]
    assert len(lines) > 1
    assert all(line.startswith(f'Downloading {NAME}: ') for line in lines), shown
    assert '100% of 28.0 MB' in lines[-1]
    assert shown.count(b'\n') == 1


@pytest.mark.parametrize(
    ('reached', 'line'),
    [
        (hub.Progress('a/b', 0, 16_600_000_000), 'Downloading a/b: 0% of 16.6 GB'),
        (
            hub.Progress('a/b', 5_800_000_000, 16_600_000_000, 700.0),
            'Downloading a/b: 34% of 16.6 GB, 12 min left',
        ),
        (hub.Progress('a/b', 1, 3, 8000.0), 'Downloading a/b: 33% of 0.0 MB, 2 h 13 min left'),
        (hub.Progress('a/b', 0, 0), 'Downloading a/b: 0% of 0.0 MB'),
    ],
)
def test_progress_is_a_line(reached: hub.Progress, line: str) -> None:
    assert str(reached) == line


@pytest.mark.parametrize(
    'error',
    [
        hub.DiskFull('a/b takes 16.6 GB more in /small/hub, and 4.0 GB of that are missing.'),
        hub.BrokenOff('The download of a/b broke off after 3.2 GB of 16.6 GB. Try again.'),
        hub.DownloadError('The hub has no a/b.'),
    ],
    ids=['full', 'broken', 'refused'],
)
@pytest.mark.parametrize('what', ['reasoner', 'segmenter', 'data'])
def test_what_stops_a_download_is_told_by_all_who_download(
    what: str, error: hub.DownloadError, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(hub, 'fetch', stop)
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_CACHE', str(tmp_path))
    with pytest.raises(SegZeroError) as caught:
        if what == 'reasoner':
            checkpoints.download('a/b')
        elif what == 'segmenter':
            find_checkpoint('facebook/sam2-hiera-tiny')
        else:
            open_hub(HubDataset('a/b'))
    assert str(error) in str(caught.value)
    assert not isinstance(caught.value, hub.DownloadError)
