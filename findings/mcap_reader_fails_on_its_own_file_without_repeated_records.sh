#!/usr/bin/env bash
# mcap 1.6.0 (Python): a file that its own Writer makes with repeat_channels=False or
# repeat_schemas=False is valid, for the records in the chunks tell all. Its StreamReader reads
# every message; the reader that make_reader() returns ends in a KeyError instead.
# Seen: default 10 of 10; repeat_channels=False KeyError(1), stream 10; repeat_schemas=False
# KeyError(1), stream 10.
# Matters to: whoever reads recordings of others with the usual make_reader(...).iter_messages().
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q mcap==1.6.0
"$folder/venv/bin/python" - <<'PYTHON'
from io import BytesIO

from mcap.reader import make_reader
from mcap.records import Message
from mcap.stream_reader import StreamReader
from mcap.writer import Writer


def recording(**options):
    file = BytesIO()
    writer = Writer(file, **options)
    writer.start()
    schema = writer.register_schema('reading', 'jsonschema', b'{}')
    channel = writer.register_channel('/sensor', 'json', schema)
    for stamp in range(10):
        writer.add_message(channel, stamp, b'{}', stamp)
    writer.finish()
    return file.getvalue()


def by_reader(data):
    try:
        return sum(1 for _ in make_reader(BytesIO(data)).iter_messages())
    except KeyError as error:
        return repr(error)


def by_stream(data):
    return sum(isinstance(record, Message) for record in StreamReader(BytesIO(data)).records)


seen = {}
for options in ({}, {'repeat_channels': False}, {'repeat_schemas': False}):
    data = recording(**options)
    seen[str(options)] = by_reader(data), by_stream(data)
    print(options, 'make_reader:', by_reader(data), 'StreamReader:', by_stream(data))
assert list(seen.values()) == [(10, 10), ('KeyError(1)', 10), ('KeyError(1)', 10)], seen
PYTHON
echo 'as seen'
