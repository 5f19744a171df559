"""A real MariaDB is asked, as MySQL's driver asks it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest

from tests.serving.servers import PASSWORD, mariadb
from text2sql.errors import DatabaseError, ExecutionError, QueryTimeoutError
from text2sql.serving.databases import Limits, ServerSource, Source, open_source

QUICK = Limits(seconds=2, rows=100)
SHOP = """
    CREATE DATABASE shop CHARACTER SET utf8mb4; USE shop;
    CREATE TABLE singer (id INT PRIMARY KEY, name VARCHAR(20), `Age` INT UNSIGNED, mood ENUM('sad', 'happy'),
        paid DECIMAL(10, 2), born DATE, seen DATETIME, photo BLOB, note JSON);
    CREATE TABLE concert (singer_id INT, budget DOUBLE, FOREIGN KEY (singer_id) REFERENCES singer (id));
    CREATE VIEW happy AS SELECT name FROM singer WHERE mood = 'happy';
    INSERT INTO singer VALUES (1, 'Joé', 52, 'happy', 12.50, '1970-01-02', '2020-01-01 10:00', x'00ff', '{"a": 1}');
    INSERT INTO singer (id, name, Age) SELECT seq, CONCAT('50% ', seq), seq FROM seq_2_to_5000;
    CREATE FUNCTION sells(x INT) RETURNS INT BEGIN INSERT INTO concert VALUES (1, 1); RETURN 1; END;
    CREATE TABLE gone (a INT); CREATE VIEW broken AS SELECT a FROM gone; DROP TABLE gone;
    CREATE VIEW writes AS SELECT sells(id) AS x FROM singer;
"""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with mariadb(SHOP) as port:  # its owner may do everything: nothing but our transaction keeps it from writing
        yield f"mysql://owner:{quote(PASSWORD, safe='')}@127.0.0.1:{port}/shop"


@pytest.fixture(params=["mysql", "mariadb+pymysql"])
def server(url: str, request: pytest.FixtureRequest) -> Iterator[ServerSource]:
    source = open_source(url.replace("mysql", request.param, 1))
    assert isinstance(source, ServerSource)
    yield source
    source.close()


def test_it_is_described(server: Source):
    assert server.describe() == (
        "CREATE TABLE concert (singer_id INTEGER(11), budget DOUBLE, FOREIGN KEY (singer_id) REFERENCES singer (id));\n"
        "CREATE TABLE singer (id INTEGER(11) PRIMARY KEY, name VARCHAR(20), Age INTEGER(10), mood TEXT, "
        "paid DECIMAL(10, 2), born DATE, seen DATETIME, photo BLOB, note LONGTEXT);\n"
        "CREATE TABLE happy (name VARCHAR(20));"
    )


@pytest.mark.parametrize(
    ("sql", "rows"),
    [
        ("SELECT name, age FROM singer WHERE id = 1", [["Joé", 52]]),
        ('SELECT name FROM singer WHERE name = "Joé"', [["Joé"]]),
        ("SELECT COUNT(*) FROM singer WHERE name LIKE '50%' AND id < 12", [[10]]),
        ("SELECT paid, born, photo FROM singer WHERE id = 1", [[12.5, "1970-01-02", "x'00ff'"]]),
        ("SELECT seen, note FROM singer WHERE id = 1", [["2020-01-01T10:00:00", '{"a": 1}']]),
        ("SELECT name FROM happy", [["Joé"]]),
        ("SELECT 'back\\slash', ':x', '%s'", [["back\\slash", ":x", "%s"]]),
        ("SELECT name || '!' FROM singer WHERE id = 1", [["Joé!"]]),
        ("SELECT age / 10, 7 / 2, 7 / 2.0 FROM singer WHERE id = 1", [[5, 3, 3.5]]),
        ("SELECT s.id FROM singer s FULL OUTER JOIN concert c ON singer_id = id ORDER BY id LIMIT 1", [[1]]),
    ],
)  # fmt: skip
def test_it_answers_sqlite_queries(server: Source, sql: str, rows: list[Any]):
    assert server.run(sql, QUICK).rows == rows


def test_rows_are_capped(server: Source):
    result = server.run("SELECT id FROM singer", Limits(rows=7))
    assert (len(result.rows), result.truncated) == (7, True)
    assert not server.run("SELECT id FROM singer WHERE id < 4", Limits(rows=3)).truncated


def test_a_query_ends_at_its_deadline(server: Source):
    started = time.perf_counter()
    with pytest.raises(QueryTimeoutError, match=r"longer than 0\.3 s"):
        server.run("SELECT COUNT(*) FROM singer a, singer b, singer c WHERE a.name < b.name", Limits(seconds=0.3))
    assert time.perf_counter() - started < 5
    assert server.run("SELECT COUNT(*) FROM concert", QUICK).rows == [[0]]


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("SELECT SLEEP(10)", "no such function: SLEEP"),
        ("SELECT LOAD_FILE('/etc/passwd')", "no such function"),
        ("SELECT * FROM mysql.user", "named with a database"),
        ("SELECT name FROM singer; DROP TABLE concert", "DROP follows"),
        ("SELECT nmae FROM singer", "nearest name"),
        ("SELECT sells(id) FROM singer", "no such function"),
        ("SELECT a FROM broken", "no table broken"),
        ("SELECT x FROM writes", "no table writes"),
    ],
)
def test_it_is_asked_nothing_that_the_guard_or_its_own_transaction_forbids(server: Source, sql: str, words: str):
    with pytest.raises(ExecutionError, match=words) as caught:
        server.run(sql, QUICK)
    assert "\n" not in str(caught.value)
    assert server.run("SELECT COUNT(*) FROM concert", QUICK).rows == [[0]]


def test_its_transaction_alone_keeps_it_from_writing(server: ServerSource):
    with (
        pytest.raises(ExecutionError, match="READ ONLY transaction"),
        server._transaction(QUICK) as connection,  # past the guard, which knows no such query
    ):
        connection.exec_driver_sql("SELECT x FROM writes")
    assert server.run("SELECT COUNT(*) FROM concert", QUICK).rows == [[0]]


def test_a_wrong_password_is_not_shown(url: str):
    with pytest.raises(DatabaseError, match="Access denied") as caught:
        open_source(url.replace("s3cret", "hunter2")).run("SELECT 1", QUICK)
    assert "hunter2" not in str(caught.value)
