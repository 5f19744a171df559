"""Splits without leaks: rows whose schemas are the same, or nearly so, never part.

A random split of text-to-SQL rows leaves nearly every test row with its schema in training, so that the test measures
memory. Here rows are clustered by the tables of their contexts, and a cluster goes whole to one split.
"""

from __future__ import annotations

import random
from collections import defaultdict
from typing import TYPE_CHECKING

from text2sql.config import DataSection
from text2sql.errors import DataError
from text2sql.sql.schema import Table, parse_schema

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

SPLITS = ("train", "validation", "test")

TableKey = tuple[str, frozenset[str]]
"""What makes two tables the same: name and set of column names, in lower case."""


def split_rows(rows: Dataset, data: DataSection) -> DatasetDict:
    """train, validation and test in the configured ratios; deterministic by data.seed. Prepared rows stay as they are.

    With data.split "schema" as near to the ratios as whole clusters allow; with "random" row by row, which leaks.

    Raises:
        DataError: the rows form too few clusters for a train and a test split.
    """
    from datasets import DatasetDict

    if "split" in rows.column_names:  # prepared rows are split already
        found = rows["split"][:]
        parts = {name: rows.select([i for i, split in enumerate(found) if split == name]) for name in SPLITS}
        return DatasetDict({name: part.remove_columns("split") for name, part in parts.items()})
    ratios = dict(zip(SPLITS, (data.train_ratio, data.val_ratio, data.test_ratio), strict=True))
    if data.split == "random":
        clusters = [[position] for position in range(len(rows))]
    else:
        clusters = cluster_by_schema(rows["context"][:], data.schema_overlap)
    chosen = assign(clusters, ratios, data.seed)
    for name in SPLITS:
        if ratios[name] and not chosen[name]:
            raise DataError(
                f"{len(rows)} rows on {len(clusters)} unrelated schemas leave the {name} split empty: every schema "
                "must stand in one split only; give rows on more schemas"
            )
    return DatasetDict({name: rows.select(chosen[name]) for name in SPLITS})


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


def cluster_by_schema(contexts: list[str], least_overlap: float | None = None) -> list[list[int]]:
    """Positions of the contexts, in clusters that share no table with one another, by first position.

    Args:
        least_overlap: tables of one name count as the same from this overlap of their columns; only equal ones if None.
    """
    parent: dict[TableKey, TableKey] = {}
    first_table: dict[str, TableKey] = {}
    for context in dict.fromkeys(contexts):
        keys = table_keys(context)
        for key in keys:
            parent.setdefault(key, key)
            parent[_root(parent, key)] = _root(parent, keys[0])
        first_table[context] = keys[0]
    if least_overlap is not None:
        _join_overlapping(parent, least_overlap)
    clusters: defaultdict[TableKey, list[int]] = defaultdict(list)
    for position, context in enumerate(contexts):
        clusters[_root(parent, first_table[context])].append(position)
    return list(clusters.values())


def _join_overlapping(parent: dict[TableKey, TableKey], least: float) -> None:
    named: defaultdict[str, list[TableKey]] = defaultdict(list)
    for key in parent:
        named[key[0]].append(key)
    for keys in named.values():
        for position, key in enumerate(keys):
            for other in keys[:position]:
                one, two = _root(parent, key), _root(parent, other)
                if one != two and overlap(key[1], other[1]) >= least:
                    parent[one] = two


def _root(parent: dict[TableKey, TableKey], key: TableKey) -> TableKey:
    while parent[key] != key:
        parent[key] = parent[parent[key]]
        key = parent[key]
    return key


def assign(clusters: list[list[int]], ratios: dict[str, float], seed: int) -> dict[str, list[int]]:
    """Sorted positions by split: the largest clusters first, each to the split that lacks most of its share.

    Clusters of a size are shuffled by seed. A split takes no cluster that overfills it while another has room for it.
    """
    order = sorted(clusters, key=lambda cluster: cluster[0])
    random.Random(seed).shuffle(order)
    order.sort(key=len, reverse=True)
    share = {name: ratio * sum(map(len, clusters)) for name, ratio in ratios.items() if ratio}
    room = dict(share)
    chosen: dict[str, list[int]] = {name: [] for name in ratios}
    for cluster in order:
        fitting = [name for name in room if room[name] >= len(cluster)]
        name = max(fitting or room, key=lambda name: (room[name] / share[name], room[name]))
        chosen[name] += cluster
        room[name] -= len(cluster)
    return {name: sorted(positions) for name, positions in chosen.items()}
