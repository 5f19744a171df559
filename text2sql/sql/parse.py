"""SQL text to a tree, with limits that keep hostile text from hurting the parser."""

from __future__ import annotations

import re
from collections.abc import Iterator

from sqlglot import exp
from sqlglot.dialects.dialect import Dialect
from sqlglot.errors import SqlglotError
from sqlglot.parsers.sqlite import SQLiteParser
from sqlglot.tokenizer_core import Token

from text2sql.errors import ParseError, UnsafeSqlError

DIALECT = "sqlite"
MAX_QUERY_CHARS = 50_000
MAX_NESTING = 400
_MAX_EXPANSIONS = 1_000
_MAX_CTE_DEPTH = 200

_READS = ("SELECT", "WITH", "VALUES")
_STATEMENTS = frozenset(
    """ALTER ANALYZE ATTACH BEGIN CALL COMMIT COPY CREATE DELETE DESCRIBE DETACH DO DROP END EXEC EXECUTE EXPLAIN GRANT
    INSERT LOAD MERGE PRAGMA REINDEX RELEASE REPLACE REVOKE ROLLBACK SAVEPOINT SET SHOW TRUNCATE UPDATE USE VACUUM
    """.split()  # noqa: SIM905
)
_LEADING = re.compile(r"(?:[\s;\ufeff]|--[^\n]*(?:\n|$)|/\*.*?(?:\*/|$)|\()*([A-Za-z_]*)", re.DOTALL)
# Strings, quoted names and comments, in which no character means anything else; then the characters that nest.
_TOKEN = re.compile(
    r"'(?:[^']|'')*(?:'|$)|\"(?:[^\"]|\"\")*(?:\"|$)|`(?:[^`]|``)*(?:`|$)|\[[^\]]*(?:\]|$)"
    r"|--[^\n]*|/\*.*?(?:\*/|$)|[()]|\b(?:CASE|END)\b",
    re.DOTALL | re.IGNORECASE,
)
# The same texts, each with a group that tells whether its end is missing, and what ends a statement.
_STATEMENT_END = re.compile(
    r"```|'(?:[^']|'')*+(?:'|(\Z))|\"(?:[^\"]|\"\")*+(?:\"|(\Z))|`[^`]*+(?:`|(\Z))|\[[^\]]*+(?:\]|(\Z))"
    r"|--[^\n]*|/\*(?:[^*]|\*(?!/))*+(?:\*/|(\Z))|;|\n[ \t\r]*\n|[()]|\bSELECT\b",
    re.IGNORECASE,
)
_BLANK_LINE = re.compile(r"\n[ \t\r]*\n")
_FENCE = re.compile(r"```[ \t]*\w*[ \t]*(?:\r?\n|(?=SELECT\b|WITH\b)|$)", re.IGNORECASE)
_WRITES: tuple[type[exp.Expr], ...] = (
    exp.DML,
    exp.DDL,
    exp.Into,
    exp.Drop,
    exp.Alter,
    exp.TruncateTable,
    exp.Command,
    exp.Pragma,
    exp.Attach,
    exp.Detach,
    exp.Set,
    exp.Use,
    exp.Analyze,
    exp.Transaction,
    exp.Commit,
    exp.Rollback,
    exp.Copy,
    exp.LoadData,
    exp.Lock,
    exp.Describe,
    exp.Kill,
)
_SYSTEM_TABLE = re.compile(r"sqlite_|pragma_|dbstat$", re.IGNORECASE)


def tokens(sql: str) -> Iterator[re.Match[str]]:
    """Strings, quoted names, comments, parentheses, CASE and END of a query, in order; the rest is skipped."""
    return _TOKEN.finditer(sql)


def check_text(sql: str, limit: int = MAX_QUERY_CHARS) -> None:
    """Refuse what no parser should be given: over-long text, NUL bytes, lone surrogates, too deep a nesting.

    Raises:
        ParseError: with the reason.
    """
    if len(sql) > limit:
        raise ParseError(f"the text has {len(sql)} characters; at most {limit} are read")
    if "\0" in sql:
        raise ParseError(f"the text holds a NUL byte at character {sql.index(chr(0))}; remove it")
    try:
        sql.encode()
    except UnicodeEncodeError as error:
        raise ParseError(f"the text is not valid Unicode at character {error.start}; decode it as UTF-8") from None
    depth = 0
    for match in tokens(sql):
        token = match.group().upper()
        if token in ("(", "CASE"):
            depth += 1
            if depth > MAX_NESTING:
                raise ParseError(f"the text nests deeper than {MAX_NESTING} levels; flatten it")
        elif token in (")", "END"):
            depth = max(depth - 1, 0)


def first_statement(text: str) -> str:
    """The query that an answer starts with, or fences in: what comes before a `;`, a blank line or a closing ``` fence.

    A base model goes on after its query, and must not be judged on what it says then. A blank line within parentheses,
    or between CTEs and before the SELECT that they are for, ends nothing.
    """
    text = text.strip()
    if leading_word(text) not in _READS and (fence := _FENCE.search(text)):
        text = text[fence.end() :].strip()
    depth, complete = 0, leading_word(text) != "WITH"
    for match in _STATEMENT_END.finditer(text):
        end, found = match.start(), match.group()
        if match.lastindex:  # a quote that nobody closed: what follows it is no part of it beyond a blank line
            blank = _BLANK_LINE.search(text, end)
            return text[: blank.start()].rstrip() if blank else text
        depth += (found == "(") - (found == ")")
        complete = complete or (depth <= 0 and found.upper() == "SELECT")
        if found in (";", "```") or (found.isspace() and complete and depth <= 0 and leading_word(text[:end])):
            return text[:end].rstrip()
    return text


class _TooManySteps(Exception):
    """The parser looks at the same tokens again and again. No ParseError: the parser would swallow that and go on."""


class _BoundedParser(SQLiteParser):
    """Stops where sqlglot tries both readings of CHAR(CHAR(CHAR(…: as types and as calls, so 2^depth times."""

    _steps = 0
    _most = 0

    def parse(self, raw_tokens: list[Token], sql: str) -> list[exp.Expr | None]:
        self._steps, self._most = 0, 1_000 + 20 * len(raw_tokens)
        return super().parse(raw_tokens, sql)

    def _warn_unsupported(self) -> None:
        """sqlglot would log the text, which is not ours to keep; what it could not read is a Command, and refused."""

    def _advance(self, times: int = 1) -> None:
        self._steps += 1
        if self._steps > self._most:
            raise _TooManySteps
        super()._advance(times)


def parse_statements(sql: str, limit: int = MAX_QUERY_CHARS) -> list[exp.Expr]:
    """Every statement of a text, empty ones left out.

    sqlglot's pure-Python parser is assumed: where recursion runs out it raises, while its compiled variant would crash
    the process (sqlglot#7853).

    Raises:
        ParseError: the text is no SQL, or breaks a limit.
    """
    check_text(sql, limit)
    dialect = Dialect.get_or_raise(DIALECT)
    try:
        trees = _BoundedParser(dialect=dialect).parse(dialect.tokenize(sql), sql)
    except (RecursionError, _TooManySteps):
        raise ParseError("the text nests too deeply to be parsed; flatten it") from None
    except SqlglotError as error:
        raise ParseError(f"not SQL: {one_line(str(error))}") from None
    except (ValueError, TypeError, AttributeError, IndexError, KeyError) as error:  # bugs of the parser on odd input
        raise ParseError(f"not SQL: {type(error).__name__} in the parser: {one_line(str(error))}") from None
    return [tree for tree in trees if tree is not None and not isinstance(tree, exp.Semicolon)]


def parse(sql: str) -> exp.Expr:
    """The tree of one query.

    Raises:
        ParseError: empty, no SQL, too long or too deep.
        UnsafeSqlError: another kind of statement than a query, or more than one statement.
    """
    check_text(sql)
    if (word := leading_word(sql)) and word not in _READS:
        # Told before parsing: sqlglot logs untrusted text when it falls back to an opaque command.
        if word in _STATEMENTS:
            raise UnsafeSqlError(f"only SELECT is allowed, and the text starts with {word}")
        raise ParseError(f"not SQL: the text starts with {word[:30]!r}; a query starts with SELECT")
    statements = parse_statements(sql)
    if not statements:
        raise ParseError("the text holds no statement")
    if len(statements) > 1:
        raise UnsafeSqlError(f"one statement is allowed, and the text holds {len(statements)}")
    return statements[0]


def leading_word(sql: str) -> str:
    """The first word after what SQLite skips, in capitals: blanks, a BOM, comments, semicolons; parentheses too."""
    match = _LEADING.match(sql)
    return match.group(1).upper() if match else ""


def assert_read_only(tree: exp.Expr) -> None:
    """Walk the whole tree, so that a write in a CTE or a subquery is found too.

    Raises:
        UnsafeSqlError: it is no query, writes somewhere, or reads a system table.
    """
    if not isinstance(tree, exp.Query | exp.Values):
        raise UnsafeSqlError(f"only SELECT is allowed, not {tree.key.upper()}")
    _assert_few_expansions(tree)
    for node in tree.walk():
        if isinstance(node, _WRITES):
            raise UnsafeSqlError(f"only SELECT is allowed, and the query holds {node.key.upper()}")
        if isinstance(node, exp.Table):
            _assert_plain_table(node)


def write_in(tree: exp.Expr) -> exp.Expr | None:
    """The first node of a tree that does more than read."""
    return tree if not isinstance(tree, exp.Query | exp.Values) else tree.find(*_WRITES)


def _assert_few_expansions(tree: exp.Expr) -> None:
    """SQLite copies a CTE for each use while it prepares a query, which nothing interrupts: 30 doublings are a bomb."""
    visible: dict[int, dict[str, exp.CTE]] = {}
    for cte in tree.find_all(exp.CTE):
        if cte.parent is not None and cte.parent.parent is not None:
            visible.setdefault(id(cte.parent.parent), {}).setdefault(cte.alias.lower(), cte)
    if not visible:
        return
    uses: dict[int, list[exp.CTE]] = {}
    for table in tree.find_all(exp.Table):
        owner, used = _resolve_cte(table, visible)
        if used is not None:
            uses.setdefault(id(owner), []).append(used)
    sizes: dict[int, int] = {}

    def size(node: exp.CTE | None, depth: int) -> int:
        if depth > _MAX_CTE_DEPTH:
            raise UnsafeSqlError(f"CTEs name each other more than {_MAX_CTE_DEPTH} deep")
        if id(node) not in sizes:
            sizes[id(node)] = 1  # while it is being counted: a recursive CTE is copied once
            total = 1 + sum(size(used, depth + 1) for used in uses.get(id(node), []))
            if total > _MAX_EXPANSIONS:
                name = f"CTE {one_line(node.alias, 60)}" if node is not None else "the query"
                raise UnsafeSqlError(f"{name} expands to more than {_MAX_EXPANSIONS} queries")
            sizes[id(node)] = total
        return sizes[id(node)]

    size(None, 0)


def _resolve_cte(table: exp.Table, visible: dict[int, dict[str, exp.CTE]]) -> tuple[exp.CTE | None, exp.CTE | None]:
    """The CTE in whose body a table stands, and the CTE that it names: that of the innermost WITH, later ones too."""
    owner: exp.CTE | None = None
    used: exp.CTE | None = None
    node = table.parent
    while node is not None and (owner is None or used is None):
        if owner is None and isinstance(node, exp.CTE):
            owner = node
        used = used or visible.get(id(node), {}).get(table.name.lower())
        node = node.parent
    return owner, used


def _assert_plain_table(table: exp.Table) -> None:
    if not isinstance(table.this, exp.Identifier):
        raise UnsafeSqlError(f"only tables can be read, not {one_line(table.sql(dialect=DIALECT), 60)}")
    if _SYSTEM_TABLE.match(table.name):
        raise UnsafeSqlError(f"system table {one_line(table.name, 60)} cannot be read")
    if table.args.get("db"):
        raise UnsafeSqlError(f"table {one_line(table.name, 60)} is named with a database; name the table alone")


def table_names(sql: str) -> frozenset[str]:
    """Lower-case names of the tables that a query names, CTEs among them.

    Raises:
        SqlError: as parse.
    """
    return frozenset(table.name.lower() for table in parse(sql).find_all(exp.Table))


def orders_rows(tree: exp.Expr) -> bool:
    """Whether the query orders its result at top level; an ORDER BY in a subquery does not count."""
    while isinstance(tree, exp.Subquery | exp.Paren) and not tree.args.get("order"):
        tree = tree.this
    return bool(tree.args.get("order"))


def one_line(text: str, limit: int = 200) -> str:
    """For a message: short, without line breaks, terminal codes or characters that hide or reorder what follows."""
    text = " ".join(re.sub(r"\x1b\[[0-9;]*m", "", text[: 8 * limit]).split())  # sqlglot underlines with terminal codes
    text = text if len(text) <= limit else text[: limit - 1] + "…"
    return text if text.isprintable() else "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
