"""A run that stopped, or ran in parts, ends with the figures of one that did neither."""

from dataclasses import replace
import json
import re
import shutil

import numpy as np
import pytest

from segzero_ros.cli.main import main
from segzero_ros.config import load_pipeline, read_profile
from segzero_ros.evaluation.datasets import open_dataset
from segzero_ros.evaluation.gallery import write_gallery
from segzero_ros.evaluation.measurements import Failure
from segzero_ros.evaluation.metrics import CONVENTIONS, figures
from segzero_ros.evaluation.records import from_line, make_record, to_line
from segzero_ros.evaluation.report import markdown, summarise
from segzero_ros.evaluation.runner import MAX_CRASHES, run, RunError, RunFolder, Shard
from segzero_ros.evaluation.samples import Sample
from segzero_ros.evaluation.tabletop import Tabletop
from segzero_ros.pipeline import Pipeline
from segzero_ros.reasoning.attribute_reasoner import AttributeReasoner
from segzero_ros.reasoning.base import ignore, never
from segzero_ros.segmentation.grabcut_segmenter import GrabCutSegmenter
from segzero_ros.types import (
    Answer,
    GroundedObject,
    MalformedAnswer,
    Query,
    ReasonerTimeout,
    ReasonerUnavailable,
    Roi,
    Segment,
    SegmenterUnavailable,
    Stage,
    Status,
)


def evaluate(source, output, *further) -> int:
    words = ['evaluate', str(source), '-o', str(output), '--profile', 'offline', '-q']
    return main([*words, *map(str, further)])


def summary_of(folder) -> dict:
    summary = json.loads((folder / 'summary.json').read_text())
    del summary['timing']
    return summary


def lines_of(folder) -> list[dict]:
    rows = [json.loads(line) for line in (folder / 'items.jsonl').read_text().splitlines()]
    for row in rows:
        row.pop('seconds', None)
    return rows


@pytest.fixture(scope='module')
def whole(parquet_file, tmp_path_factory):
    """The folder of a run without interruption."""
    folder = tmp_path_factory.mktemp('whole')
    assert evaluate(parquet_file, folder) == 0
    return folder


@pytest.mark.slow
def test_a_set_of_the_hub_is_evaluated_end_to_end(whole, rows):
    summary = summary_of(whole)
    assert summary['complete'] and sum(summary['statuses'].values()) == len(rows)
    found = summary['conventions']['vision_reasoner']['figures']
    assert found['scored'] == len(rows) and found['failed'] == 0
    assert found['giou'] > 0.4
    low, high = summary['conventions']['vision_reasoner']['intervals_95']['giou']
    assert low < found['giou'] < high
    kept, ended = RunFolder(whole).rows()
    assert ended
    assert figures([row.item for row in kept], CONVENTIONS['lisa'])['giou'] == pytest.approx(
        summary['conventions']['lisa']['figures']['giou'], abs=1e-12
    )


@pytest.mark.slow
def test_the_gallery_needs_nothing_besides_itself_and_begins_with_the_worst(whole, rows):
    page = (whole / 'gallery.html').read_text()
    assert page.count('data:image/jpeg;base64,') == len(rows)
    assert not re.search(r'(src|href)="(?!data:)', page)
    ious = [float(value) for value in re.findall(r'IoU ([\d.]+)<', page)]
    assert len(ious) == len(rows) and ious == sorted(ious)


def test_what_a_model_wrote_is_text_in_the_gallery_and_nothing_else(whole, tmp_path):
    evil = '<script>alert(1)</script><img src=x onerror=alert(1)>" onload="alert(1)'
    row = RunFolder(whole).rows()[0][0]
    words = dict.fromkeys(('text', 'message', 'reasoning', 'raw_answer', 'image_id'), evil)
    page = tmp_path / 'gallery.html'
    evil_row = replace(row, group=(evil,), **words)
    write_gallery(page, evil, [evil_row], CONVENTIONS['lisa'], lambda _: page)
    text = page.read_text()
    assert text.count('<script') == 1  # Its own.
    assert text.count('alert(1)') >= 5
    assert '<img src' not in text
    assert '" onload' not in text


@pytest.mark.slow
def test_an_interrupted_run_goes_on_to_the_same_figures(parquet_file, whole, tmp_path):
    dataset = open_dataset(str(parquet_file))
    folder = RunFolder(tmp_path / 'run')
    manifest = RunFolder(whole).manifest()
    manifest.pop('format')
    folder.begin(manifest)
    asked = []

    def stop(done, row):
        asked.append(row.index)
        if done == 4:
            raise KeyboardInterrupt

    pipeline = load_pipeline(read_profile('offline'))
    with pytest.raises(KeyboardInterrupt):
        run(dataset, [pipeline], folder, on_row=stop)
    # The machine went down while a line was written.
    with (folder.path / 'items.jsonl').open('ab') as lines:
        lines.write(b'{"index": 4, "reasoning": "' + 100_000 * b'x')
    assert evaluate(parquet_file, folder.path) == 0
    assert asked == [0, 1, 2, 3]
    assert summary_of(folder.path) == summary_of(whole)
    assert lines_of(folder.path) == lines_of(whole)


@pytest.mark.slow
def test_a_finished_run_asks_nothing_again(parquet_file, whole, tmp_path):
    shutil.copytree(whole, tmp_path / 'run')
    before = (tmp_path / 'run' / 'items.jsonl').read_bytes()
    assert evaluate(parquet_file, tmp_path / 'run') == 0
    assert (tmp_path / 'run' / 'items.jsonl').read_bytes() == before


@pytest.mark.slow
def test_shards_joined_are_the_whole(parquet_file, whole, tmp_path, capsys):
    folders = [tmp_path / str(number) for number in (1, 2, 3)]
    for number, folder in enumerate(folders, start=1):
        assert evaluate(parquet_file, folder, '--shard', f'{number}/3') == 1
    assert main(['evaluate', 'merge', *map(str, folders[:2]), '-o', str(tmp_path / 'all')]) == 2
    assert 'shards are missing' in capsys.readouterr().err
    words = ['evaluate', 'merge', *map(str, folders), '-o', str(tmp_path / 'all'), '-q']
    assert main(words) == 0
    assert summary_of(tmp_path / 'all') == summary_of(whole)


@pytest.mark.slow
def test_shards_share_a_folder_and_the_last_one_finishes_it(parquet_file, whole, tmp_path):
    assert evaluate(parquet_file, tmp_path, '--shard', '2/2') == 1
    assert evaluate(parquet_file, tmp_path, '--shard', '1/2') == 0
    assert summary_of(tmp_path) == summary_of(whole)


@pytest.mark.parametrize('total', [0, 1, 7, 779])
@pytest.mark.parametrize('parts', [1, 2, 8])
def test_shards_hold_each_index_once(total, parts):
    found = [i for n in range(1, parts + 1) for i in Shard(n, parts).indices(total)]
    assert found == list(range(total))


@pytest.mark.slow
def test_a_folder_of_another_run_is_not_continued(parquet_file, whole, tmp_path, capsys):
    shutil.copytree(whole, tmp_path / 'run')
    assert evaluate(parquet_file, tmp_path / 'run', '-p', 'reasoner.max_new_tokens:=9') == 2
    assert '--restart' in capsys.readouterr().err
    assert (
        evaluate(parquet_file, tmp_path / 'run', '-p', 'reasoner.max_new_tokens:=9', '--restart')
        == 0
    )


@pytest.mark.parametrize(
    'words',
    [('--shard', '0/2'), ('--shard', '3/2'), ('--shard', 'x'), ('--limit', '0'), ('a', 'b')],
)
def test_arguments_that_mean_nothing_are_refused(parquet_file, tmp_path, words):
    assert main(['evaluate', str(parquet_file), *words, '-o', str(tmp_path)]) == 2


def test_a_row_is_the_same_after_writing_and_reading(whole):
    for row in RunFolder(whole).rows()[0]:
        assert from_line(to_line(row)) == row


class Moody(AttributeReasoner):
    """The real reasoner, which fails as told: by the number of the query."""

    def __init__(self, malformed=(), gone=()):
        super().__init__()
        self._malformed, self._gone = malformed, gone

    def reason(self, frame, query, *further):
        if int(query.id) in self._malformed:
            raise MalformedAnswer('no list', 'I am not sure')
        if int(query.id) in self._gone:
            raise ReasonerUnavailable('The server is gone.')
        return super().reason(frame, query, *further)


def begun(path, whole):
    folder = RunFolder(path)
    manifest = RunFolder(whole).manifest()
    manifest.pop('format')
    folder.begin(manifest)
    return folder


@pytest.mark.slow
def test_failures_are_counted_and_told_apart(parquet_file, whole, tmp_path, rows):
    folder = begun(tmp_path / 'run', whole)
    pipeline = Pipeline(Moody(malformed=(2,), gone=(5, 6)), GrabCutSegmenter())
    run(open_dataset(str(parquet_file)), [pipeline], folder)
    kept, ended = folder.rows()
    assert ended and len(kept) == len(rows)
    assert kept[2].status is Status.MALFORMED_ANSWER and kept[2].raw_answer == 'I am not sure'
    assert kept[2].item.failure is Failure.ANSWER and kept[5].item.failure is Failure.CRASH
    manifest = folder.manifest()
    summary = {'complete': True, **summarise(kept, manifest)}
    for one in summary['conventions'].values():
        assert one['figures']['failed'] == 3
    assert '1 MALFORMED_ANSWER' in markdown(summary, manifest)


class BrokenOff(AttributeReasoner):
    """Tells one object and then fails, about the queries that it is told."""

    def __init__(self, failures):
        super().__init__()
        self._failures = failures

    def reason(self, frame, query, on_text=ignore, cancelled=never, on_object=ignore):
        failure = self._failures.get(int(query.id))
        if failure is None:
            return super().reason(frame, query, on_text, cancelled, on_object)
        on_object(GroundedObject((2.0, 2.0, 20.0, 20.0), ((5.0, 5.0),)))
        raise failure


class Exhausted(GrabCutSegmenter):
    """Runs out of memory about one picture."""

    def segment(self, encoding, grounding):
        raise SegmenterUnavailable('No memory is left on the GPU.')


@pytest.mark.slow
def test_a_reasoner_that_fails_after_its_first_object_is_not_the_segmenter(
    parquet_file, whole, tmp_path, rows
):
    folder = begun(tmp_path / 'run', whole)
    failures = {
        1: ReasonerTimeout('30 s were not enough', 'half'),
        3: ReasonerUnavailable('The model ran out of memory.'),
        5: MalformedAnswer('it broke off', 'half'),
    }
    run(
        open_dataset(str(parquet_file)),
        [Pipeline(BrokenOff(failures), GrabCutSegmenter())],
        folder,
    )
    kept = folder.rows()[0]
    assert [kept[index].item.failure for index in failures] == [
        Failure.CRASH,
        Failure.CRASH,
        Failure.ANSWER,
    ]
    for index in failures:
        assert kept[index].item.boxes == kept[index].item.points == 0 and not kept[index].boxes
        assert not kept[index].item.box_hit
    meant = sum(any(map(any, row['mask'])) for row in rows)
    for name, convention in CONVENTIONS.items():
        found = figures([row.item for row in kept], convention)
        before = figures([row.item for row in RunFolder(whole).rows()[0]], convention)
        assert found['failed'] == 3, name
        assert found['scored'] == before['scored'] >= meant, name
        assert found['dropped'] == before['dropped'], name


def test_what_the_segmenter_cannot_do_is_dropped_where_it_is_published_so(
    parquet_file, whole, tmp_path, rows
):
    folder = begun(tmp_path / 'run', whole)
    run(open_dataset(str(parquet_file)), [Pipeline(AttributeReasoner(), Exhausted())], folder)
    kept = folder.rows()[0]
    failed = [row for row in kept if row.item.failure is Failure.SEGMENTER]
    assert failed and all(row.status is Status.ERROR and row.item.boxes for row in failed)
    items = [row.item for row in failed]
    assert figures(items, CONVENTIONS['seg_zero_multi'])['dropped'] == len(failed)
    for name in ('seg_zero', 'vision_reasoner', 'lisa'):
        found = figures(items, CONVENTIONS[name])
        assert (found['scored'], found['giou']) == (len(failed), 0)


def test_one_right_answer_and_one_that_came_too_late_are_worth_a_half(tmp_path):
    left = np.zeros((40, 60), np.bool_)
    left[:, :20] = True
    sample = Sample(np.zeros((40, 60, 3), np.uint8), 'x', mask=left)
    segment = Segment(1, 'x', 1.0, Roi(0, 0, 20, 40), (), Roi(0, 0, 20, 40), left[:, :20])
    told = [GroundedObject((0.0, 0.0, 20.0, 40.0))]
    right = Answer(Query('x'), Status.OK, segments=(segment,))
    late = Answer(Query('x'), Status.TIMEOUT, 'too late', failed_in=Stage.REASONING)
    items = [make_record(at, sample, one, told)[0].item for at, one in enumerate((right, late))]
    for convention in CONVENTIONS.values():
        found = figures(items, convention)
        assert (found['scored'], found['failed']) == (2, 1)
        assert found['giou'] == pytest.approx(0.5, abs=1e-5)


def test_timeouts_that_named_a_box_stop_a_run_as_others_do(parquet_file, whole, tmp_path):
    folder = begun(tmp_path / 'run', whole)
    failures = {index: ReasonerTimeout('30 s were not enough') for index in range(MAX_CRASHES)}
    with pytest.raises(RunError, match='30 s were not enough'):
        run(
            open_dataset(str(parquet_file)),
            [Pipeline(BrokenOff(failures), GrabCutSegmenter())],
            folder,
        )


def test_boxes_alone_are_evaluated_and_said_to_be(tmp_path, rows, writing):
    path = writing(tmp_path / 'boxes.parquet', rows[:3], ('mask', 'count'))
    assert evaluate(path, tmp_path / 'run') == 0
    found = summary_of(tmp_path / 'run')['conventions']['vision_reasoner']['figures']
    assert (found['boxes_alone'], found['scored'], found['giou']) == (3, 0, None)
    assert found['bbox_ap'] > 0
    report = (tmp_path / 'run' / 'report.md').read_text()
    assert '3 samples have true boxes but no masks: they count only in bbox AP.' in report
    assert (
        '| vision_reasoner (VisionReasoner, evaluation_segmentation.py) | \N{EN DASH} |' in report
    )


@pytest.mark.slow
def test_models_that_are_gone_stop_the_run_and_leave_no_bad_lines(parquet_file, whole, tmp_path):
    folder = begun(tmp_path / 'run', whole)
    gone = range(3, 3 + MAX_CRASHES)
    dataset = open_dataset(str(parquet_file))
    with pytest.raises(RunError, match='The server is gone'):
        run(dataset, [Pipeline(Moody(gone=gone), GrabCutSegmenter())], folder)
    assert [row.index for row in folder.rows()[0]] == [0, 1, 2]
    assert evaluate(parquet_file, folder.path) == 0
    assert summary_of(folder.path) == summary_of(whole)


def test_two_processes_do_not_write_the_same_lines(parquet_file, whole, tmp_path):
    folder = begun(tmp_path / 'run', whole)
    dataset = open_dataset(str(parquet_file))
    pipeline = load_pipeline(read_profile('offline'))

    def meanwhile(*_):
        with pytest.raises(RunError, match='Another process'):
            run(dataset, [pipeline], RunFolder(folder.path))

    run(dataset, [pipeline], folder, limit=1, on_row=meanwhile)


@pytest.mark.slow
def test_published_figures_stand_beside_the_measured_ones_and_say_so(tmp_path, rows, writing):
    folder = tmp_path / 'ReasonSeg_test'
    writing(folder / 'test-00000-of-00001.parquet', rows[:2], ('bbox', 'count'))
    assert evaluate(folder, tmp_path / 'run') == 0
    report = (tmp_path / 'run' / 'report.md').read_text()
    assert '| Seg-Zero-7B | 57.5 | 52.0 | published: Seg-Zero' in report
    assert '**measured**' in report
    assert 'The papers use 779 samples' in report
    assert '| RL + CoT | 53.8 |' in report


@pytest.mark.slow
def test_the_tabletop_is_evaluated_by_kind_of_sentence(tmp_path):
    words = ['--profile', 'offline', '--scenes', '2', '--seed', '4', '-o', str(tmp_path), '-q']
    assert main(['evaluate', 'tabletop', *words]) == 0
    groups = summary_of(tmp_path)['groups']
    assert {'all', 'kind: colour', 'kind: none', 'difficulty: easy'} <= set(groups)
    assert groups['all']['giou'] > 0.5
    # What things are for is known of everyday shapes.
    assert groups['difficulty: knowledge']['missed'] < 0.5
    for row in groups.values():
        if row['giou'] is not None:
            assert row['giou_low'] <= row['giou'] <= row['giou_high']
    kinds = sum(row['sentences'] for name, row in groups.items() if name.startswith('kind'))
    assert kinds == groups['all']['sentences']


@pytest.mark.slow
def test_what_rightly_has_no_mask_is_not_among_the_worst(tmp_path):
    words = ['--profile', 'offline', '--scenes', '3', '--seed', '4', '-o', str(tmp_path), '-q']
    assert main(['evaluate', 'tabletop', *words]) == 0
    page = (tmp_path / 'gallery.html').read_text()
    worths = re.findall(r'class="n">([^<]+)<', page)
    right = [worth == 'correctly empty' for worth in worths]
    assert any(right) and right == sorted(right)


@pytest.mark.slow
def test_parts_of_the_tabletop_are_its_samples():
    dataset = Tabletop(scenes=2, seed=9, per_kind=2, depth=False)
    whole = [(index, sample.text) for index, sample in dataset.read(range(len(dataset)))]
    assert len({index for index, _ in whole}) == len(whole) > 20
    for first, last in ((0, 5), (5, 25), (25, len(dataset))):
        part = [(index, sample.text) for index, sample in dataset.read(range(first, last))]
        assert part == [pair for pair in whole if first <= pair[0] < last]
    sample = next(dataset.read(range(len(dataset))))[1]
    assert sample.depth is None and sample.frame.depth is None
