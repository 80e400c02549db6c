"""Files of queries say what is asked when; what is wrong with one is said by entry."""

import pytest

from segzero_ros.replay.query_file import QueriesError, read_queries, TimedQuery


def test_a_list_of_queries_is_read(tmp_path):
    path = tmp_path / 'q.yaml'
    path.write_text(
        '- {at: 0, query: the cup}\n'
        '- {at: 1.5, query: das Häuschen, id: house, task: count}\n'
        '- {stamp: 1700000000123456789, query: "the bowl", id: 7}\n',
        encoding='utf-8',
    )
    assert read_queries(path) == (
        TimedQuery('the cup', '', 0),
        TimedQuery('das Häuschen', 'house', 1_500_000_000, task='count'),
        TimedQuery('the bowl', '7', None, 1700000000123456789),
    )


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('', 'must be a list'),
        ('query: the cup', 'must be a list'),
        ('[the cup]', r"entry 1: 'the cup' is no"),
        ('[{query: a, at: 0}, {query: a}]', 'entry 2: give either at'),
        ('[{query: a, at: 0, stamp: 1}]', 'entry 1: give either at'),
        ('[{query: a, at: -1}]', 'entry 1: at must be seconds'),
        ('[{query: a, at: true}]', 'entry 1: at must be seconds'),
        ('[{query: a, at: soon}]', 'entry 1: at must be seconds'),
        ('[{query: a, stamp: 1.5}]', 'entry 1: stamp must be integer'),
        ('[{at: 1}]', 'entry 1: query must be text'),
        ('[{at: 1, query: 5}]', 'entry 1: query must be text'),
        ('[{at: 1, query: a, topic: b}]', "entry 1: unknown 'topic'"),
        ('[{at: 1, query: a, task: dance}]', "entry 1: There is no task 'dance'"),
        ('[{at: 1, query: a, id: x}, {at: 1, query: a, id: x}]', "id 'x' is used 2 times"),
        ('[{', 'cannot be read'),
    ],
)
def test_what_is_no_list_of_queries_is_refused(tmp_path, text, message):
    path = tmp_path / 'q.yaml'
    path.write_text(text)
    with pytest.raises(QueriesError, match=message):
        read_queries(path)


@pytest.mark.parametrize('encoding', ['utf-8-sig', 'utf-16'])
def test_a_file_of_a_windows_editor_is_read(tmp_path, encoding):
    path = tmp_path / 'queries.yaml'
    path.write_text('[{at: 1.5, query: die größte Tasse}]', encoding)
    (ask,) = read_queries(path)
    assert ask.text == 'die größte Tasse'


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(QueriesError, match=r'gone\.yaml cannot be read'):
        read_queries(tmp_path / 'gone.yaml')
