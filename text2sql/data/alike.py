"""Tables of one name with most columns in common, found without comparing each with each."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from itertools import combinations
from math import ceil

from text2sql.sql.schema import Table, parse_schema

TableKey = tuple[str, frozenset[str]]
"""What makes two tables the same: name and set of column names, in lower case."""
_COMMON = 64
"""Tables in which a column must stand before pairs of columns are looked up in its place."""


def table_keys(context: str) -> list[TableKey]:
    """The keys of the tables of a context.

    Raises:
        ParseError: as parse_schema.
    """
    return [_key(table) for table in parse_schema(context).tables]


def _key(table: Table) -> TableKey:
    return table.name.lower(), frozenset(column.name.lower() for column in table.columns)


def overlap(one: frozenset[str], other: frozenset[str]) -> float:
    """Share of the smaller set that the larger has too (the overlap coefficient); 0 where one is empty.

    Contexts that were made from their queries hold a part of the real table each, so that one often holds the other.
    """
    return len(one & other) / min(len(one), len(other)) if one and other else 0.0


class Groups:
    """Numbers that belong together (union-find); each group is named by one of them."""

    def __init__(self) -> None:
        self._parent: dict[int, int] = {}

    def root(self, number: int) -> int:
        parent = self._parent
        while (above := parent.setdefault(number, number)) != number:
            parent[number] = number = parent[above]
        return number

    def join(self, one: int, other: int) -> None:
        self._parent[self.root(one)] = self.root(other)


class Overlaps:
    """Finds, among sets that are added from the largest to the smallest, those that overlap by a least share.

    A set of n columns that shares at least s = ⌈least · n⌉ of them with a larger one shares at least k with it out of
    any n - s + k: of those, the rarest are looked up (prefix filtering, Chaudhuri et al. 2006), singly (k = 1) where
    they are rare and in pairs (k = 2) where they are common. Sets of one group are skipped from the first that fits on.
    """

    def __init__(self, sets: Sequence[frozenset[str]], least: float, group_of: Callable[[int], int]) -> None:
        """`group_of` gives the group of a set by its position, and may come to put two groups together."""
        self._sets, self._least, self._group_of = sets, least, group_of
        self._counts = Counter(name for names in sets for name in names)
        self._places: defaultdict[Hashable, dict[int, list[int]]] = defaultdict(dict)

    def add(self, position: int) -> None:
        """Let a set be found by later, smaller ones."""
        names, group = self._sets[position], self._group_of(position)
        common = sorted(name for name in names if self._counts[name] > _COMMON)
        for place in (*names, *combinations(common, 2)):
            self._places[place].setdefault(group, []).append(position)

    def find(self, position: int) -> Iterator[int]:
        """Of each group of known sets, one that overlaps; its group may be joined before the next is asked for."""
        names, sets = self._sets[position], self._sets
        shared = self._least_shared(names)
        for place in self._look_up(names, shared):
            known = self._places.get(place, {})
            self._regroup(known)
            for group, members in known.items():
                if self._group_of(group) == self._group_of(position):
                    continue
                for other in members:
                    if len(names & sets[other]) >= shared:
                        yield other
                        break

    def _least_shared(self, names: frozenset[str]) -> int:
        return max(1, ceil(self._least * len(names) - 1e-9))

    def _look_up(self, names: frozenset[str], shared: int) -> list[Hashable]:
        ranked = sorted(names, key=lambda name: (self._counts[name], name))
        singles = ranked[: len(ranked) - shared + 1]
        if shared < 2 or self._counts[singles[-1]] <= _COMMON:
            return list(singles)
        pairs = ranked[: len(ranked) - shared + 2]
        rare = [name for name in pairs if self._counts[name] <= _COMMON]
        common = sorted(name for name in pairs if self._counts[name] > _COMMON)
        return [*rare, *combinations(common, 2)]

    def _regroup(self, known: dict[int, list[int]]) -> None:
        """Put sets together whose groups have become one."""
        for group in [group for group in known if self._group_of(group) != group]:
            moved = known.pop(group)
            here = known.setdefault(self._group_of(group), [])
            here += moved
