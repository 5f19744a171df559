import re
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from text2sql.data.repair import KINDS, repair
from text2sql.data.synthetic import generate_rows
from text2sql.errors import ExecutionError
from text2sql.sql.database import build_database, fill_database, quote, retyped
from text2sql.sql.ddl import TableText, join_tables, split_tables
from text2sql.sql.execute import run_query
from text2sql.sql.hints import read_hints
from text2sql.sql.parse import parse
from text2sql.sql.schema import Schema, Table, parse_schema

CASES = yaml.safe_load((Path(__file__).parents[1] / "fixtures" / "repair.yaml").read_text())
ROWS = generate_rows(600, seed=3)


@pytest.mark.parametrize("name", CASES)
def test_case(name):
    case = CASES[name]
    expected = {"context": case["context"], "answer": case["answer"], "repairs": [], **case.get("becomes", {})}
    found = repair(case["context"], case["answer"])
    assert {"context": found.context, "answer": found.answer, "repairs": list(found.repairs)} == expected


@pytest.mark.parametrize("name", CASES)
def test_repairing_again_changes_nothing(name):
    once = repair(CASES[name]["context"], CASES[name]["answer"])
    again = repair(once.context, once.answer)
    assert (again.context, again.answer, again.repairs) == (once.context, once.answer, ())


def test_every_kind_has_a_case():
    assert {kind for case in CASES.values() for kind in case.get("becomes", {}).get("repairs", [])} == set(KINDS)


def test_rows_without_a_fault_come_back_byte_for_byte():
    for row in ROWS:
        found = repair(row["context"], row["answer"])
        assert (found.context, found.answer, found.repairs) == (row["context"], row["answer"], ())


def values_for(row, seed):
    """Rows that tell the answer of a row from its near misses: table → columns and tuples, in lower case."""
    hints = read_hints(parse(row["answer"]), parse_schema(row["context"]))
    schema = retyped(parse_schema(row["context"]), hints)
    database = build_database(schema)
    try:
        fill_database(database, schema, hints, seed)
        return {
            table.name.lower(): (names_of(table), database.execute(f"SELECT * FROM {quote(table.name)}").fetchall())
            for table in schema.tables
        }
    finally:
        database.close()


def names_of(table):
    return [column.name.lower() for column in table.columns]


def answered(context, answer, values, forgiving=False):
    """What a query returns, in any order, on the tables that a context declares, with values where both have a column.

    Raises:
        ExecutionError: it does not run.
    """
    database = build_database(parse_schema(context), forgiving)
    try:
        for table in parse_schema(context).tables:
            columns, rows = values[table.name.lower()]
            both = [name for name in columns if table.column(name)]
            places = [columns.index(name) for name in both]
            database.executemany(
                f"INSERT INTO {quote(table.name)} ({', '.join(map(quote, both))}) "
                f"VALUES ({', '.join('?' * len(both))})",
                [[row[place] for place in places] for row in rows],
            )
        return sorted(run_query(database, answer, 5.0).rows, key=repr)
    finally:
        database.close()


SPELLINGS = {
    "as it is": str,
    "capitals": str.upper,
    "double quotes": '"{}"'.format,
    "other case in double quotes": lambda name: f'"{name.upper()}"',
    "backticks": "`{}`".format,
    "brackets": "[{}]".format,
}
BLANKS = [" ", "\n", "  \n\t", ' /* the "so-called" */ ']
ENDS = ["", ";", " ;  ", '\n-- "done"']
PIECE = re.compile(r"('(?:[^']|'')*')|(\w+)|( )")


def respelt(row, draw):
    """A row in another spelling that SQLite takes at its word: names quoted or in other case, blanks, comments."""
    names = {name for table in parse_schema(row["context"]).tables for name in (table.name.lower(), *names_of(table))}
    spelling = {name: SPELLINGS[draw(st.sampled_from(sorted(SPELLINGS)))] for name in sorted(names)}
    blank = draw(st.sampled_from(BLANKS))

    def spell(match):
        text, name, space = match.groups()
        return text or (blank if space else spelling.get(name.lower(), str)(name))

    context, answer = (PIECE.sub(spell, row[text]) for text in ("context", "answer"))
    return context, answer + draw(st.sampled_from(ENDS))


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(ROWS), st.integers(0, 7), st.data())
def test_no_repair_changes_the_result_of_a_query_that_ran(row, seed, data):
    """Rows of the generator in any spelling: run under strict quotes, they answer the same before and after."""
    values = values_for(row, seed)
    context, answer = respelt(row, data.draw)
    before = answered(context, answer, values)
    assert before == answered(row["context"], row["answer"], values)
    found = repair(context, answer)
    assert found.conflicts == ()
    assert answered(found.context, found.answer, values) == before
    assert (found.context, found.answer, found.repairs) == (context, answer, ())


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([row for row in ROWS if "'" in row["answer"]]), st.integers(0, 7))
def test_nor_that_of_a_query_that_ran_because_quotes_are_forgiven(row, seed):
    values, quoted = values_for(row, seed), row["answer"].replace("'", '"')
    found = repair(row["context"], quoted)
    assert answered(found.context, found.answer, values) == answered(row["context"], quoted, values, forgiving=True)
    assert found.repairs == ("quoted_text",)


def quoted_as_names(row, draw):
    return row["context"], row["answer"].replace("'", '"')


def created_twice(row, draw):
    """Every table in two parts, which have some columns in common."""
    parts = []
    for table in split_tables(row["context"]):
        cut = draw(st.integers(1, len(table.definitions)))
        shared = draw(st.integers(0, cut))
        for some in (table.definitions[:cut], table.definitions[cut - shared :]):
            parts += [TableText(table.head, some, table.tail)] if some else []
    return join_tables(parts), row["answer"]


def declared_twice(row, draw):
    tables = [
        table.with_columns((draw(st.sampled_from(table.definitions)).swapcase(),))
        for table in split_tables(row["context"])
    ]
    return join_tables(tables), row["answer"]


def all_text(row, draw):
    """Columns that the query uses as numbers, declared as text."""
    schema = parse_schema(row["context"])
    return ddl(schema.retype(dict.fromkeys(read_hints(parse(row["answer"]), schema).numeric, "VARCHAR"))), row["answer"]


def dropped(row, draw):
    """A column that the query uses, and whose type its uses tell, is missing."""
    schema = parse_schema(row["context"])
    numeric = read_hints(parse(row["answer"]), schema).numeric
    words = set(re.findall(r"\w+", row["answer"].lower()))
    known = [
        (table.name.lower(), column.name.lower())
        for table in schema.tables
        for column in table.columns
        if len(table.columns) > 1
        and column.name.lower() in words
        and (not column.numeric or (table.name.lower(), column.name.lower()) in numeric)
    ]
    gone = draw(st.sampled_from(known)) if known else None
    tables = (
        Table(table.name, tuple(c for c in table.columns if (table.name.lower(), c.name.lower()) != gone))
        for table in schema.tables
    )
    return ddl(Schema(tuple(tables))), row["answer"]


def ddl(schema):
    return "; ".join(
        f"CREATE TABLE {table.name} ({', '.join(f'{column.name} {column.type}' for column in table.columns)})"
        for table in schema.tables
    )


FAULTS = [quoted_as_names, created_twice, declared_twice, all_text, dropped]


@settings(max_examples=250, deadline=None)
@given(st.sampled_from(ROWS), st.integers(0, 3), st.lists(st.sampled_from(FAULTS), min_size=1, unique=True), st.data())
def test_what_is_repaired_means_what_it_meant(row, seed, faults, data):
    """Faults of real rows put into sound ones: the repaired row answers as the sound one, or does not run at all."""
    context, answer = row["context"], row["answer"]
    for fault in sorted(faults, key=FAULTS.index, reverse=True):  # columns go and lose types before they are doubled
        context, answer = fault({**row, "context": context, "answer": answer}, data.draw)
    found = repair(context, answer)
    values = values_for(row, seed)
    expected = answered(row["context"], row["answer"], values)
    try:
        assert answered(found.context, found.answer, values) == expected
    except ExecutionError:
        assert dropped in faults  # one that several tables could have


@pytest.mark.parametrize(
    ("answer", "conflicts"),
    [
        ("SELECT a FROM t WHERE a > 5 OR a = 'x'", ("t.a",)),
        ("SELECT a FROM t WHERE b = 'x' AND b > 2", ("t.b",)),
        ("SELECT a FROM t WHERE b = '3' AND b LIKE '1%' AND a = '5' AND d > 2010", ()),
    ],
)
def test_conflicts_of_number_and_text_are_named(answer, conflicts):
    assert repair("CREATE TABLE t (a VARCHAR, b INTEGER, d DATE)", answer).conflicts == conflicts
