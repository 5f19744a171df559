from __future__ import annotations

import pytest
import sqlglot

from text2sql.errors import SqlError, UnsafeSqlError
from text2sql.sql.render import DIALECTS, dialect_named, render_sql
from text2sql.sql.schema import parse_schema

SCHEMA = parse_schema('CREATE TABLE singer (id INTEGER, name VARCHAR, "Age" INTEGER); CREATE TABLE "My Table" (a INT)')


@pytest.mark.parametrize(
    ("sql", "dialect", "text"),
    [
        ("SELECT name FROM singer LIMIT 5", "tsql", "SELECT TOP 5 name FROM singer"),
        ("SELECT name FROM singer LIMIT 5", "SQLServer", "SELECT TOP 5 name FROM singer"),
        ("SELECT name FROM singer -- x", "postgresql", "SELECT name FROM singer"),
        ("SELECT name FROM singer /*!50000 INTO OUTFILE 'x' */", "mysql", "SELECT name FROM singer"),
        ("SELECT name FROM singer  -- as it is", "sqlite", "SELECT name FROM singer  -- as it is"),
        ('SELECT name FROM singer WHERE name = "Joe"', "postgres", "SELECT name FROM singer WHERE name = 'Joe'"),
        ("SELECT s.AGE FROM Singer AS s", "postgres", 'SELECT s."Age" FROM singer AS s'),
        ("SELECT id AS age FROM SINGER ORDER BY age", "mysql", "SELECT id AS age FROM singer ORDER BY age"),
        ("SELECT a FROM [my table]", "bigquery", "SELECT a FROM `My Table`"),
        ("SELECT name FROM singer WHERE name LIKE 'j%'", "postgres", "SELECT name FROM singer WHERE name ILIKE 'j%'"),
        ("SELECT name FROM singer WHERE name LIKE 'j%'", "mysql", "SELECT name FROM singer WHERE name LIKE 'j%'"),
        ("SELECT '\\', '; DROP TABLE t; -- '", "mysql", "SELECT '\\\\', '; DROP TABLE t; -- '"),
        ("SELECT STRFTIME('%Y', name)", "mysql", "SELECT DATE_FORMAT(name, '%Y')"),
        ("SELECT 7 / 2, age / id, name / 2", "mysql", "SELECT 7 DIV 2, `Age` DIV id, name / 2"),
        ("SELECT (s.id + 1) / 2 FROM singer AS s", "duckdb", "SELECT (s.id + 1) // 2 FROM singer AS s"),
        ("SELECT age / id FROM singer", "bigquery", "SELECT DIV(`Age`, NULLIF(id, 0)) FROM singer"),
        ("SELECT MAX(id) / 2 FROM singer", "bigquery", "SELECT DIV(MAX(id), 2) FROM singer"),
        ("SELECT id / 2 / 3 FROM singer", "mysql", "SELECT (id DIV 2) DIV 3 FROM singer"),
        ("SELECT id / 2 FROM singer", "postgres", "SELECT id / NULLIF(2, 0) FROM singer"),
    ],
)  # fmt: skip
def test_rendered(sql: str, dialect: str, text: str):
    assert render_sql(sql, dialect, SCHEMA) == text


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_dialect_reads_what_was_written_for_it(dialect: str):
    sql = "SELECT name, COUNT(*) FROM singer WHERE id > 3 AND name <> 'x' GROUP BY name ORDER BY COUNT(*) DESC LIMIT 2"
    text = render_sql(sql, dialect, SCHEMA)
    [tree] = sqlglot.parse(text, dialect=dialect)
    assert isinstance(tree, sqlglot.exp.Query)
    assert not tree.find(sqlglot.exp.DML, sqlglot.exp.DDL, sqlglot.exp.Command)


@pytest.mark.parametrize(
    ("sql", "dialect", "words"),
    [
        ("SELECT 1", "postgras", "no dialect 'postgras'; did you mean postgres? known are athena, bigquery"),
        ("SELECT 1", "", "no dialect ''; known are"),
        ("SELECT JULIANDAY(name) FROM singer", "postgres", "function julianday is SQLite's own"),
        ("SELECT name FROM singer WHERE name GLOB 'x*'", "duckdb", "GLOB is SQLite's own"),
        ("SELECT name FROM singer ORDER BY name COLLATE NOCASE", "mysql", "COLLATE NOCASE"),
        ("SELECT DATE('now')", "mysql", "the date 'now'"),
        ("hello", "mysql", "not SQL"),
    ],
)
def test_what_would_be_lost_is_refused(sql: str, dialect: str, words: str):
    with pytest.raises(SqlError) as caught:
        render_sql(sql, dialect, SCHEMA)
    assert words in str(caught.value)


@pytest.mark.parametrize("sql", ["DROP TABLE singer", "SELECT 1; DELETE FROM singer", "SELECT * INTO x FROM singer"])
def test_only_reads_are_rendered(sql: str):
    with pytest.raises(UnsafeSqlError):
        render_sql(sql, "postgres")


def test_names_of_dialects():
    assert {dialect_named(dialect) for dialect in DIALECTS} == set(DIALECTS)
    assert dialect_named(" MSSQL ") == "tsql"
