"""Days as clumsy or hostile sources give them: the reader of a small model, and what becomes of each of its days.

`SOURCE` is the model's source.py; a case is an expression in it, of ``day``.
"""

from __future__ import annotations

SOURCE = '''
import asyncio, csv, datetime, enum, gzip, io, json, os, pickle, struct, sys, threading, urllib.error, zipfile
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

HERE = Path(__file__).parent
UTC = datetime.UTC
HEAD = "name,size,count,flag,born,at\\n"


def noon(day, days=0):
    return datetime.datetime.combine(day, datetime.time(12), UTC) + datetime.timedelta(days=days)

def good(day, rows=4):
    return pd.DataFrame({
        "name": [f"n{row}" for row in range(rows)], "size": [float(row) for row in range(rows)],
        "count": list(range(rows)), "flag": [True] * rows, "born": [datetime.date(2000, 1, 1)] * rows,
        "at": [noon(day)] * rows,
    })

def put(day, column, value):
    """The second of four rows has this value, in a column of objects."""
    frame = good(day)
    column_of = [value if row == 1 else kept for row, kept in enumerate(frame[column])]
    return frame.assign(**{column: pd.Series(column_of, dtype=object)})

def col(day, column, values):
    return good(day).assign(**{column: values})

def line(day, row=0, **changes):
    values = {"name": f"n{row}", "size": f"{row}.5", "count": str(row), "flag": "true", "born": "2000-01-01",
              "at": f"{day}T12:00:00Z"} | changes
    return ",".join(values.values()) + "\\n"

def text(content, **options):
    content = content if isinstance(content, bytes) else content.encode()
    frame = pd.read_csv(io.BytesIO(content), **options)
    return frame.assign(at=pd.to_datetime(frame["at"], utc=True))

def parquet(day, spoil=None, **columns):
    table = pa.Table.from_pandas(good(day).assign(at=pd.to_datetime([noon(day)] * 4)))
    for name, values in columns.items():
        table = table.set_column(table.column_names.index(name), name, values)
    path = HERE / ".day.parquet"
    pq.write_table(table, path)
    path.write_bytes(spoil(path.read_bytes()) if spoil else path.read_bytes())
    return pd.read_parquet(path)

def fail(error):
    raise error

def named(columns, day):
    frame = good(day)
    frame.columns = columns
    return frame

def archive(*names):
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as target:
        for name in names:
            target.writestr(name, HEAD)
    return io.BytesIO(sink.getvalue())

def loop():
    path = HERE / ".loop"
    path.is_symlink() or path.symlink_to(path)
    return path

def forever():
    return forever()

def folder():
    (HERE / ".folder").mkdir(exist_ok=True)
    return HERE / ".folder"

def deep(levels):
    found = []
    for _ in range(levels):
        found = [found]
    return found

class Mute:
    def __repr__(self): raise RuntimeError("no words")
class Exit:
    def __repr__(self): raise SystemExit(0)
class Own(BaseException): pass
class OwnRepr:
    def __repr__(self): raise Own
class Greedy:
    def __array__(self, *a, **k): raise SystemExit(1)
    __len__ = __iter__ = __float__ = __array__
class Liar:
    @property
    def __class__(self): return pd.DataFrame
class Twin:
    def __eq__(self, other): raise RuntimeError("no comparison")
    def __hash__(self): return hash("count")
class Dumb(Exception):
    def __str__(self): raise RuntimeError
class DumbExit(Exception):
    def __str__(self): raise SystemExit(0)
class Frame(pd.DataFrame):
    def __len__(self): raise RuntimeError("nothing")
class Number(int):
    def __int__(self): raise SystemExit
class Color(enum.Enum):
    red = 1

SELF = []
SELF.append(SELF)
SHARED = {}

def shared(day):
    """One frame, changed for the next day."""
    frame = SHARED.setdefault("frame", good(day))
    frame["size"] = float("inf") if "used" in SHARED else frame["size"]
    SHARED["used"] = frame["at"] = [noon(day)] * 4
    return frame
'''

DOUBLE, STRING, INT, STAMP = "is not a double", "is not a string", "is not a int64", "is not a timestamp"
UNSEEN = "characters in a key that nobody sees"

PUBLISHED: dict[str, dict[int, str]] = {
    # files
    "text(HEAD + line(day, 1) + line(day, 2))": {},
    "text('\\ufeff' + HEAD + line(day))": {},
    "text((HEAD + line(day)).replace('\\n', '\\r\\n'))": {},
    "text((HEAD + line(day)).replace('\\n', '\\r'))": {},
    "text(HEAD + line(day) + '\\n\\n   \\n')": {},
    "text(HEAD + line(day) + ',,,,,\\n')": {1: "a key column is null (name)"},
    "text(HEAD + line(day) + 'n1,1\\n')": {1: "the event has no time (at)"},
    "text(HEAD + line(day) + 'TOTAL,9,9,,,\\n')": {1: "the event has no time (at)"},
    "text(HEAD + line(day, 0) + line(day, 1, size='\"1,234.5\"'))": {1: f"size: '1,234.5' {DOUBLE}"},
    "text(HEAD + line(day, 0) + line(day, 1, size='\"1234,5\"'))": {1: f"size: '1234,5' {DOUBLE}"},
    "text(HEAD + line(day, 0) + line(day, 1, size='9' * 400))": {1: "size: inf is not a finite number"},
    "text(HEAD + line(day, 0) + line(day, 1, size='x' * 10_000_000))": {1: "… (10,000,002 characters)"},
    "text(HEAD + line(day, 0) + line(day, 1, count='1e3'))": {},
    "text(HEAD + line(day, 0) + line(day, 1, count='9' * 30))": {1: f"count: '{'9' * 30}' {INT}"},
    "text(HEAD + line(day, 0) + line(day, 1, born='2000-02-30'))": {1: "born: '2000-02-30' is not a date"},
    "text(HEAD + line(day, 0) + line(day, 1, name='NA'))": {1: "a key column is null (name)"},
    "pd.read_csv(io.BytesIO(gzip.compress((HEAD + line(day)).encode())), compression='gzip', parse_dates=['at'])": {},
    "pd.read_csv(io.StringIO(HEAD + line(day, 0) + line(day, 1, at=f'{day}T12:00:00')))": {1: STAMP},
    "parquet(day)": {},
    "parquet(day, name=pa.array(list('abcd')).dictionary_encode())": {},
    "parquet(day, name=pa.array([b'a', b'\\xff', b'c', b'd']))": {1: f"name: b'\\xff' {STRING}"},
    "parquet(day, size=pa.array([Decimal('1.5')] * 4))": {},
    "parquet(day, count=pa.array([0, 2**64 - 1, 2, 3], pa.uint64()))": {1: f"count: 18446744073709551615 {INT}"},
    # numbers
    "put(day, 'count', True)": {},
    "put(day, 'flag', 1)": {1: "flag: 1 is not a boolean"},
    "put(day, 'flag', 'true')": {1: "flag: 'true' is not a boolean"},
    "put(day, 'size', Decimal('NaN'))": {},
    "put(day, 'size', Decimal('Infinity'))": {1: f"size: Decimal('Infinity') {DOUBLE}"},
    "put(day, 'count', Decimal('2.5'))": {1: f"count: Decimal('2.5') {INT}"},
    "put(day, 'count', 2**63)": {1: f"count: 9223372036854775808 {INT}"},
    "put(day, 'count', 10**5000)": {1: f"count: a int that cannot be shown (ValueError) {INT}"},
    "put(day, 'count', Number(5))": {},
    "put(day, 'size', 2**53 + 1)": {1: f"size: 9007199254740993 {DOUBLE}"},
    "col(day, 'count', [0.0, 2.5, np.nan, 3.0])": {1: f"count: 2.5 {INT}"},
    "col(day, 'count', [0.0, np.inf, 2.0, 3.0])": {1: f"count: inf {INT}"},
    "col(day, 'count', [0.0, 1e300, 2.0, 3.0])": {1: f"count: 1e+300 {INT}"},
    "put(day, 'size', 1j)": {1: f"size: 1j {DOUBLE}"},
    "put(day, 'size', np.float32(1.5))": {},
    "put(day, 'size', np.array(5.0))": {1: f"size: array(5.) {DOUBLE}"},
    "put(day, 'size', float('inf'))": {1: "size: inf is not a finite number"},
    "put(day, 'size', '-Infinity')": {1: "size: -inf is not a finite number"},
    "put(day, 'size', 'nan')": {1: "size: nan is not a finite number"},
    "put(day, 'size', -0.0)": {},
    "put(day, 'size', ' 1.5 ')": {1: f"size: ' 1.5 ' {DOUBLE}"},
    "put(day, 'size', '1_000')": {1: f"size: '1_000' {DOUBLE}"},
    "put(day, 'size', '\\u0661')": {1: f"size: '\u0661' {DOUBLE}"},
    # nothing, in every spelling
    "col(day, 'size', pd.Series([None, 1.5, pd.NA, pd.NaT], dtype=object))": {},
    "col(day, 'count', pd.array([1, None, 3, 4], dtype='Int64'))": {},
    "col(day, 'flag', pd.array([True, None, True, False], dtype='boolean'))": {},
    "put(day, 'name', pd.NA)": {1: "a key column is null (name)"},
    "put(day, 'name', pd.NaT)": {1: "a key column is null (name)"},
    "put(day, 'at', pd.NaT)": {1: "the event has no time (at)"},
    # times
    "col(day, 'at', pd.to_datetime([noon(day)] * 4).tz_convert('America/New_York'))": {},
    "col(day, 'at', [f'{day}T12:00:00.123456Z'] * 4)": {},
    "put(day, 'at', datetime.datetime.combine(day, datetime.time(12)))": {1: STAMP},
    "put(day, 'at', day)": {1: STAMP},
    "put(day, 'at', '03/01/2013 12:00')": {1: f"at: '03/01/2013 12:00' {STAMP}"},
    "put(day, 'at', noon(day, 1))": {},
    "put(day, 'at', noon(day, 2))": {1: "the event lies in another day (at: "},
    "put(day, 'at', datetime.datetime(1, 1, 1, tzinfo=UTC))": {1: "(at: 0001-01-01 00:00:00+00:00)"},
    "put(day, 'at', datetime.datetime(9999, 12, 31, tzinfo=UTC))": {1: "(at: 9999-12-31 00:00:00+00:00)"},
    "put(day, 'at', datetime.datetime(1, 1, 1, tzinfo=datetime.timezone(datetime.timedelta(hours=14))))": {1: STAMP},
    "put(day, 'born', datetime.datetime(2000, 1, 1, 5))": {1: "is not a date"},
    "put(day, 'born', datetime.date(1, 1, 1))": {},
    "col(day, 'born', pd.to_datetime(['2000-01-01'] * 4))": {},
    "good(day).convert_dtypes(dtype_backend='pyarrow').assign(at=pd.Series([noon(day)] * 4, "
    "dtype=pd.ArrowDtype(pa.timestamp('s', 'Asia/Tokyo'))))": {},
    # texts and keys
    "put(day, 'name', 'half \\ud800')": {1: f"name: 'half \\ud800' {STRING}"},
    "put(day, 'name', 'a\\x00b')": {1: f"name: 'a\\x00b' {STRING}"},
    "put(day, 'name', '\\u202en1')": {1: f"{UNSEEN} (name: '\\u202en1')"},
    "put(day, 'name', 'n\\u200b1')": {1: f"{UNSEEN} (name: 'n\\u200b1')"},
    "put(day, 'name', '\\ufeffn1')": {1: f"{UNSEEN} (name: '\\ufeffn1')"},
    "put(day, 'name', '\\x1b[31mred')": {1: f"{UNSEEN} (name: '\\x1b[31mred')"},
    "put(day, 'name', 'n1\\u00a0')": {1: "blanks around a key (name: 'n1\\xa0')"},
    "put(day, 'name', '\\u0645\\u06cc\\u200c\\u062e')": {},  # a joiner within a Persian word
    "put(day, 'name', '\\U0001f468\\u200d\\U0001f469')": {},  # and within a picture
    "put(day, 'name', ['a'])": {1: f"name: ['a'] {STRING}"},
    "put(day, 'name', Color.red)": {1: f"name: <Color.red: 1> {STRING}"},
    "col(day, 'name', [1, 2, 3, 4])": {},
    "col(day, 'name', list('aacd'))": {0: "different rows claim the same key", 1: "different rows claim the same key"},
    "pd.concat([good(day, 1)] * 2)": {1: "an exact copy of another row"},
    "col(day, 'name', pd.Categorical(['a', None, 'c', 'd']))": {1: "a key column is null (name)"},
    "col(day, 'size', pd.Categorical(['1', 'x', '1', '2']))": {1: f"size: 'x' {DOUBLE}"},
    # objects with code of their own
    "put(day, 'size', Mute())": {1: "size: a Mute that cannot be shown (RuntimeError)"},
    "put(day, 'size', Exit())": {1: "size: a Exit that cannot be shown (SystemExit)"},
    "put(day, 'size', OwnRepr())": {1: "size: a OwnRepr that cannot be shown (Own)"},
    "put(day, 'size', Greedy())": {1: "Greedy object> is not a double"},  # without its place in memory
    "put(day, 'size', SELF)": {1: f"size: [[...]] {DOUBLE}"},
    "put(day, 'size', deep(100_000))": {1: "size: a list that cannot be shown (RecursionError)"},
    "put(day, 'size', {'a': 1})": {1: f"size: {{'a': 1}} {DOUBLE}"},
    "put(day, 'size', good(day))": {1: DOUBLE},
    # frames
    "good(day)[['at', 'born', 'flag', 'count', 'size', 'name']]": {},
    "good(day).set_axis([0, 0, 0, 0])": {},
    "good(day).rename_axis('name')": {},
    "good(day).set_axis(pd.CategoricalIndex(good(day).columns), axis=1)": {},
    "shared(day)": {},
    "(shared(day), shared(day))[1].assign(size=1.0)": {},
    "good(day, 1)": {},
    "None": {},
    "good(day, 0)": {},
    "pd.read_csv(io.StringIO(HEAD))": {},
}
"""Which rows of a day go to quarantine, and what the reason says; all others are published."""

REFUSED = {
    "col(day, 'at', [noon(day, 40)] * 4)": "lies in another day or has no time, e.g. the event lies in another day",
    "col(day, 'at', [datetime.datetime(1, 1, 1, tzinfo=UTC)] * 4)": "(at: 0001-01-01 00:00:00+00:00)",
    "col(day, 'at', pd.period_range(day, periods=4))": "is unreadable, e.g. at: Period(",
    "col(day, 'at', [1_362_139_200] * 4)": "is unreadable, e.g. at: 1362139200",
    "col(day, 'name', ['a'] * 4)": "has a key that is null, repeated or padded, e.g. different rows",
    "good(day).assign(name=None)": "has a key that is null",
    "col(day, 'count', [None] * 4)": "completeness(count)",
    "col(day, 'size', pd.Series([None, np.nan, pd.NA, pd.NaT], dtype=object))": "completeness(size)",
    "col(day, 'born', np.array(['99999-12-31'] * 4, 'datetime64[s]'))": "is unreadable, e.g. born: Timestamp('99999",
    "col(day, 'born', pd.to_datetime(['2000-01-01 23:30'] * 4).tz_localize('America/New_York'))": "is unreadable",
    "pd.read_csv(io.StringIO(HEAD + line(day)), dtype=str)": "is unreadable, e.g. flag: 'true'",
    "parquet(day, size=pa.array([[1.0]] * 4))": "is unreadable, e.g. size: array([1.])",
    "put(day, 'name', None).assign(at=[noon(day, 9)] * 4)": "has something wrong, e.g.",
}
"""What `validate` says of a day that it refuses whole."""

UNREAD = {
    # files
    "text((HEAD + line(day)).encode('utf-16'))": "UnicodeDecodeError",
    "text(('\\ufeff' + HEAD + line(day)).encode(), encoding='latin-1')": "missing name; not declared ï»¿name",
    "text(HEAD + line(day) + 'a,b,c,d,e,f,g,h\\n')": "Expected 6 fields in line 3, saw 8",
    "text(HEAD + 'x,' + line(day))": "holds text that would be lost, e.g. 'x'",
    "text(HEAD + '\"n1' + line(day))": "EOF inside string",
    "text(HEAD + HEAD + line(day))": "reading things of 2013-03-01: ",
    "text(HEAD.replace('count', 'size') + line(day))": "missing count; not declared size.1",
    "text(HEAD.replace('count', '') + line(day))": "not declared Unnamed: 2",
    "text(HEAD.replace('count', ' count ') + line(day))": "not declared  count ",
    "text((HEAD + line(day)).replace(',', ';'))": "KeyError: 'at'",
    "text(b'')": "EmptyDataError",
    "text(b'\\x00' * 4096)": "KeyError",
    "pd.read_csv(io.BytesIO(gzip.compress(HEAD.encode()) + b'junk'), compression='gzip')": "BadGzipFile",
    "pd.read_csv(io.BytesIO(gzip.compress(HEAD.encode())[:-4]), compression='gzip')": "EOFError",
    "pd.read_csv(io.BytesIO(b'BZhjunk'), compression='bz2')": "Invalid data stream",
    "pd.read_csv(io.BytesIO(b'\\xfd7zXZ\\x00junk'), compression='xz')": "EOFError",
    "pd.read_csv(archive('a.csv', 'b.csv'), compression='zip')": "Multiple files",
    "parquet(day, lambda content: content[:-20])": "Parquet magic bytes",
    "parquet(day, lambda content: b'')": "Parquet file size is 0 bytes",
    "parquet(day, lambda content: content[:20] + b'\\xff' * 300 + content[320:])": "source.py",
    "pd.read_csv(loop())": "Too many levels of symbolic links",
    "pd.read_csv(folder())": "IsADirectoryError",
    "pd.read_csv(HERE / 'never_came.csv')": "FileNotFoundError",
    "pd.read_csv(HERE / ('x' * 300))": "File name too long",
    "pd.read_csv(str(HERE) + '/a\\0b')": "null byte",
    # columns
    "col(day, 'at', [noon(day).replace(tzinfo=None)] * 4)": "timestamps without a time zone",
    "good(day).drop(columns='count')": "missing count",
    "good(day).assign(extra=1)": "not declared extra",
    "good(day).assign(ds='2013-03-01')": "not declared ds",
    "good(day).set_index('name')": "missing name",
    "good(day).set_axis(list('wxyz'))": "holds text that would be lost, e.g. 'w'",
    "pd.concat([good(day), good(day)[['size']]], axis=1)": "there twice size",
    "pd.concat([good(day), pd.DataFrame(np.zeros((4, 10_000)))], axis=1)": "characters)",
    "pd.DataFrame(index=range(4))": "missing at, born, count",
    "named(pd.MultiIndex.from_tuples([(name, 1) for name in good(day)]), day)": "not declared ('name', 1)",
    "named(range(6), day)": "not declared 0, 1, 2",
    "named(['name', 'size', None, 'flag', 'born', 'at'], day)": "missing count; not declared None",
    "named(['name', 'size', b'count', 'flag', 'born', 'at'], day)": "not declared b'count'",
    "named(['name', 'size', Mute(), 'flag', 'born', 'at'], day)": "a Mute that cannot be shown",
    "named(['name', 'size', Twin(), 'flag', 'born', 'at'], day)": "Twin object>",
    "good(day).assign(**{'\\ud800': 1})": "not declared \\ud800",
    "Frame(good(day))": "cannot be read: RuntimeError",
    # what is no frame
    "{'name': ['a']}": "returned dict",
    "(row for row in [good(day)])": "returned generator",
    "pa.Table.from_pandas(good(day))": "returned Table",
    "good(day)['name']": "returned Series",
    "(good(day), 1)": "returned tuple",
    "float('nan')": "returned float",
    "pd.DataFrame": "returned type",
    "Liar()": "returned Liar",
    "type('x' * 5000, (), {})()": "characters) for",
    # what is raised
    "fail(SystemExit(0))": "SystemExit: 0",
    "sys.exit('bye')": "SystemExit: bye",
    "fail(Own('mine'))": "Own: mine",
    "fail(GeneratorExit())": "GeneratorExit",
    "fail(asyncio.CancelledError())": "CancelledError",
    "fail(StopIteration())": "StopIteration",
    "forever()": "RecursionError",
    "fail(Dumb())": "Dumb: (its message cannot be shown: RuntimeError)",
    "fail(DumbExit())": "DumbExit: (its message cannot be shown: SystemExit)",
    "fail(type('E' * 9999, (Exception,), {})('x'))": "characters): x",
    "fail(ValueError('\\x1b[2J\\x00' + 'x' * 100_000))": r"\x1b[2J\x00",
    "fail(ValueError('\\ud800'))": r"\ud800",
    "fail(ExceptionGroup('many', [OSError()]))": "ExceptionGroup: many",
    "fail(OSError(28, 'No space left on device'))": "Free space on that disk",
    "fail(urllib.error.HTTPError('http://x', 404, 'Not Found', {}, None))": "404: Not Found",
    "fail(urllib.error.HTTPError('http://x', 403, 'Forbidden', {}, None))": "Let the steps read it",
    "fail(__import__('evergreen.contract').contract.StepError('bare'))": "StepError: bare",
    "fail(__import__('evergreen.contract').contract.DataError(5, None))": "TypeError",
    "fail(pickle.UnpicklingError('x'))": "UnpicklingError",
    "struct.unpack('I', b'1')": "unpack requires",
    "list(csv.reader(['a' * 200_000]))": "field larger than field limit",
    "json.loads('{')": "JSONDecodeError",
    "pd.Timestamp('9999-01-01').as_unit('ns')": "OutOfBoundsDatetime",
    "pd.DatetimeIndex(['2013-03-10 02:30']).tz_localize('America/New_York')": "NonExistentTimeError",
    "__import__('nothing_such')": "ModuleNotFoundError",
    "pd.DataFrame({'a': [1, 2], 'b': [1]})": "All arrays must be of the same length",
}
"""What `ingest` says of a day that cannot be read: the data's fault, or the reader's."""
