"""Drawing a database: one table, or a chain of two or three joined by their keys."""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from dataclasses import dataclass

from text2sql.data.synthetic.catalogue import Entity, Kind, entities

BASE_SHARE = 4
"""One schema in so many is kept for training the embedded base model, and never drawn by the full profile."""


@dataclass(frozen=True)
class Column:
    """A column: its name in SQL, its name in a question, and what it holds."""

    name: str
    phrase: str
    kind: Kind


@dataclass(frozen=True)
class Table:
    """A table: its name in SQL, its nouns in a question, its columns, and the key columns that join it to others."""

    name: str
    singular: str
    plural: str
    columns: tuple[Column, ...]
    keys: tuple[str, ...]

    @property
    def ddl(self) -> str:
        keys = [f"{key} INTEGER" for key in self.keys]
        columns = [f"{c.name} {'INTEGER' if c.kind.is_number else 'VARCHAR'}" for c in self.columns]
        return f"CREATE TABLE {self.name} ({', '.join(keys + columns)})"

    @property
    def signature(self) -> str:
        """What makes two tables the same: the name and the set of columns."""
        return f"{self.name}({','.join(sorted([c.name for c in self.columns] + list(self.keys)))})"


@dataclass(frozen=True)
class Database:
    """Tables from the parent down to the grandchild: table i + 1 carries the key `keys[i]` of table i."""

    tables: tuple[Table, ...]
    keys: tuple[str, ...]
    context: str


def for_base(signature: str) -> bool:
    """Whether a table belongs to the base model's share: it depends on nothing but the table itself."""
    return hashlib.sha256(signature.encode()).digest()[0] % BASE_SHARE == 0


TRIES = 400
"""Draws of a table before its entity is called exhausted; what keeps the cost a row flat at any size."""


class Schemas:
    """Databases no two of which share a table, so that a split by schema can always be made.

    The two profiles draw from disjoint sets of tables: what the base model was trained on is never tested.
    """

    def __init__(self, rng: random.Random, profile: str) -> None:
        self._rng = rng
        self._base = profile != "full"
        self._seen: set[str] = set()
        self._number: Counter[str] = Counter()
        self._roots = list(entities().values())
        self._children = {name: [e for e in self._roots if e.parent == name] for name in entities()}

    def draw(self) -> Database:
        """A new database of one (half of them), two or three tables."""
        chain = self._chain(self._rng.choices((1, 2, 3), (50, 33, 17))[0])
        keys = tuple(f"{entity.name}_id" for entity in chain[:-1])
        tables: list[Table] = []
        for position, entity in enumerate(chain):
            own = tuple(dict.fromkeys([*keys[position : position + 1], *keys[max(position - 1, 0) : position]]))
            tables.append(self._table(entity, own, len(chain)))
        ddl = [table.ddl for table in tables]
        self._rng.shuffle(ddl)
        return Database(tuple(tables), keys, "; ".join(ddl))

    def _chain(self, length: int) -> list[Entity]:
        while True:
            chain = [self._rng.choice(self._roots)]
            while len(chain) < length and self._children[chain[-1].name]:
                chain.append(self._rng.choice(self._children[chain[-1].name]))
            if len(chain) == length:
                return chain

    def _table(self, entity: Entity, keys: tuple[str, ...], tables: int) -> Table:
        """A table that was not drawn before; an entity whose tables run out goes on with a number behind its name."""
        while True:
            number = self._number[entity.name]
            for _ in range(TRIES):
                table = self._try(entity, keys, tables, suffix=f"_{number}" if number else "")
                if table.signature not in self._seen and for_base(table.signature) == self._base:
                    self._seen.add(table.signature)
                    return table
            self._number[entity.name] += 1

    def _try(self, entity: Entity, keys: tuple[str, ...], tables: int, suffix: str) -> Table:
        rng = self._rng
        wanted = rng.choice((3, 3, 4, 5) if tables == 1 else (2, 3, 4))
        phrases = rng.sample(list(entity.columns), min(wanted, len(entity.columns)))
        kinds = [entity.columns[phrase] for phrase in phrases]
        if all(k.is_number for k in kinds) or not any(k.is_number for k in kinds):
            # a construct may want a text and a number: swap one column for one of the missing sort
            missing = not kinds[0].is_number
            phrases[-1] = rng.choice([p for p, k in entity.columns.items() if k.is_number == missing])
        prefix = f"{entity.name}_" if rng.random() < 0.15 else ""
        columns = tuple(Column(prefix + phrase.replace(" ", "_"), phrase, entity.columns[phrase]) for phrase in phrases)
        name = (entity.name if rng.random() < 0.6 else entity.plural) + suffix
        return Table(name, entity.name, entity.plural, columns, keys)
