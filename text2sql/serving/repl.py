"""Ask on this terminal: `python -m text2sql serve --mode local`.

In a pipe, questions come from standard input and queries go to standard output, each with its `;`; the exit code is 1
where one of them has no valid answer.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from text2sql.errors import DataError, OutputError, SqlError, Text2SQLError
from text2sql.serving.cells import to_csv
from text2sql.serving.databases import caution, shown
from text2sql.serving.explain import explain
from text2sql.serving.lines import Lines
from text2sql.serving.messages import MAX_CANDIDATES, GenerateResponse, Question
from text2sql.serving.problems import Problem, invalid_fields
from text2sql.serving.recipe import Served
from text2sql.serving.screen import Screen
from text2sql.serving.session import Session
from text2sql.sql.render import dialect_named

if TYPE_CHECKING:
    from text2sql.serving.engine import Engine
    from text2sql.serving.settings import ServerSettings

HELP = """\
Type a question, or:
  CREATE TABLE …;    add a table to the schema
  /schema [FILE]     take the schema of a .sql, CSV or SQLite file; alone: show it
  /db [FILE]         run answers, read-only, on a SQLite file or a database URL,
                     and take its schema; /db off: stop
  /csv FILE          save the last rows; what a spreadsheet would run is made text
  /explain           say in words what the last query does
  /n [NUMBER]        choose among so many candidates (1 to {most})
  /dialect [NAME]    write answers for another database: postgres, mysql, …
  /help  /quit       Ctrl-C stops an answer, Ctrl-D ends"""
_DDL = re.compile(r"\s*CREATE\s+(?:TEMP(?:ORARY)?\s+)?TABLE\b", re.IGNORECASE)


def run(settings: ServerSettings, engine: Engine | None = None) -> int:
    """Load the model, and answer until the input ends; the exit code.

    Raises:
        ModelError, EngineDead: the model cannot be loaded.
        DatabaseError, SqlError: the settings' database cannot be used; told before the model is loaded.
    """
    served = Served(engine) if engine is not None else _served(settings)
    interactive = sys.stdin.isatty()
    screen = Screen(sys.stdout, sys.stderr, os.environ, streams=interactive)
    try:
        with contextlib.ExitStack() as stack:
            session = Session(settings, served)
            with screen.working(f"Loading {settings.model} …"):
                stack.enter_context(session)
            with Lines(screen, interactive) as lines:
                return Repl(session, screen, lines, interactive).run()
    except BrokenPipeError:  # whoever read has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _served(settings: ServerSettings) -> Served:
    from text2sql.serving.engines import build_served

    return build_served(settings)


class Repl:
    """Questions and commands, one a line."""

    def __init__(self, session: Session, screen: Screen, lines: Iterator[str], interactive: bool) -> None:
        self._session, self._screen, self._lines, self._interactive = session, screen, lines, interactive
        self._schema = ""
        self._n, self._dialect = 1, "sqlite"
        self._last: GenerateResponse | None = None
        self._failures = 0
        self._over = False
        self._commands: dict[str, Callable[[str], None]] = {
            "schema": self._read_schema,
            "db": self._use_database,
            "csv": self._save_rows,
            "explain": self._explain,
            "n": self._choose_n,
            "dialect": self._choose_dialect,
            "help": self._help,
            "quit": self._quit,
            "exit": self._quit,
        }

    def run(self) -> int:
        """Until the input ends. Ctrl-C ends what is under way; in a pipe, everything."""
        if self._interactive:
            self._screen.say(f"{self._session.model} is ready. /help lists what can be done.")
        if self._session.database:
            self._attempt(lambda: self._use_database(self._session.database or ""))
        while not self._over:
            try:
                line = next(self._lines, None)
                if line is None:
                    break
                self._attempt(lambda line=line: self._take(line))  # type: ignore[misc]
            except KeyboardInterrupt:
                if not self._interactive:
                    raise
                self._screen.say("stopped; Ctrl-D ends", "dim")
        return 1 if self._failures and not self._interactive else 0

    def _attempt(self, work: Callable[[], None]) -> None:
        try:
            work()
        except (Text2SQLError, Problem) as error:
            self._failures += 1
            self._screen.complain(str(error))
        except ValidationError as error:
            self._failures += 1
            self._screen.complain(str(invalid_fields(error)))

    def _take(self, line: str) -> None:
        line = line.strip()
        if not line or (line.startswith("--") and not self._interactive):
            return
        if line.startswith("/"):
            self._command(line)
        elif _DDL.match(line):
            self._add_table(line)
        else:
            self._ask(line)

    def _command(self, line: str) -> None:
        name, _, rest = line[1:].partition(" ")
        work = self._commands.get(name.lower())
        if work is None:
            self._failures += 1
            self._screen.complain(f"no command /{name[:40]}; /help lists them")
            return
        work(rest.strip())

    def _ask(self, question: str) -> None:
        if not self._schema:
            raise SqlError("there is no schema yet; give one: /schema FILE, /db FILE, or CREATE TABLE statements")
        asked = Question(
            question=question,
            schema_text=self._schema,
            n=self._n,
            dialect=self._dialect,
            execute=self._session.database is not None,
        )
        with self._screen.growing() as tell:
            response = self._session.ask(asked, tell)
        self._last = response
        self._failures += not self._screen.answer(response)

    def _add_table(self, line: str) -> None:
        while not _is_whole(line) and (more := next(self._lines, None)) is not None:
            line = f"{line}\n{more}"
        self._take_schema(self._session.checked_schema(f"{self._schema}\n{line}"))

    def _read_schema(self, name: str) -> None:
        if not name:
            self._screen.say(self._schema or "there is no schema yet: /schema FILE")
            return
        self._take_schema(self._session.schema_of(_path(name)))

    def _use_database(self, where: str) -> None:
        if not where:
            self._screen.say(f"answers are run on {shown(now) if (now := self._session.database) else 'no database'}")
        elif where == "off":
            self._session.use_database(None)
            self._screen.say("answers are run nowhere")
        else:
            where = where if "://" in where else str(_path(where))
            self._take_schema(self._session.use_database(where))
            self._screen.say(f"answers are run on {shown(where)}, read-only")
            if said := caution(where):
                self._screen.say(said)

    def _take_schema(self, text: str) -> None:
        if not text:
            raise SqlError("there are no tables in it")
        self._schema = text
        count = text.count("\n") + 1  # describe.schema_text: a statement a line
        self._screen.say(f"schema: {count} table{'' if count == 1 else 's'}, {len(text)} characters")

    def _save_rows(self, name: str) -> None:
        result = self._last.result if self._last else None
        if result is None:
            raise SqlError("there are no rows to save yet; give a database, /db FILE, and ask a question")
        if not name:
            raise SqlError("/csv takes the file to write, such as /csv rows.csv")
        path = _path(name)
        try:
            with path.open("x", encoding="utf-8-sig", newline="") as file:  # the mark is for Excel
                file.write(to_csv(result.columns, result.rows))
        except OSError as error:
            raise OutputError(f"{path}: {error.strerror or error}; name a new file in a folder of yours") from None
        self._screen.say(f"{len(result.rows)} rows written to {path}")

    def _explain(self, _: str) -> None:
        if self._last is None or not self._last.sql:
            raise SqlError("there is no query to explain yet; ask a question first")
        for line in explain(self._last.sql, self._last.dialect):
            self._screen.say(line)

    def _choose_n(self, number: str) -> None:
        if number:
            if not number.isdecimal() or len(number) > 9 or not 1 <= int(number) <= MAX_CANDIDATES:
                raise SqlError(f"/n takes a number from 1 to {MAX_CANDIDATES}, not {number[:40]!r}")
            self._n = int(number)
        self._screen.say(f"candidates: {self._n}")

    def _choose_dialect(self, name: str) -> None:
        if name:
            self._dialect = dialect_named(name)
        self._screen.say(f"dialect: {self._dialect}")

    def _help(self, _: str) -> None:
        self._screen.say(HELP.format(most=MAX_CANDIDATES))

    def _quit(self, _: str) -> None:
        self._over = True


def _is_whole(ddl: str) -> bool:
    """Whether a statement that came line by line is at its end."""
    return ddl.rstrip().endswith(";") or 0 < ddl.count("(") <= ddl.count(")")


def _path(text: str) -> Path:
    """A file name as typed: quoted or not, with blanks or without, from a home folder (~) or not.

    Raises:
        DataError: there can be no such file.
    """
    try:
        parts = shlex.split(text)
    except ValueError:
        parts = []
    name = parts[0] if len(parts) == 1 else text
    if "\0" in name:
        raise DataError(f"no file can be called {name[:80]!r}; leave the NUL out")
    try:
        return Path(name).expanduser()
    except RuntimeError:  # ~nobody/…
        raise DataError(f"{name[:80]}: nobody has such a home folder here; write the path out") from None
