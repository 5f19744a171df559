"""Splits without leaks: rows that share a table never part.

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


def split_rows(rows: Dataset, data: DataSection) -> DatasetDict:
    """train, validation and test in the configured ratios, as near as whole clusters allow; deterministic by data.seed.

    Raises:
        DataError: the rows form too few clusters for a train and a test split.
    """
    from datasets import DatasetDict

    ratios = dict(zip(SPLITS, (data.train_ratio, data.val_ratio, data.test_ratio), strict=True))
    clusters = cluster_by_schema(rows["context"][:])
    chosen = assign(clusters, ratios, data.seed)
    for name in SPLITS:
        if ratios[name] and not chosen[name]:
            raise DataError(
                f"{len(rows)} rows on {len(clusters)} unrelated schemas leave the {name} split empty: every schema "
                "must stand in one split only; give rows on more schemas"
            )
    return DatasetDict({name: rows.select(chosen[name]) for name in SPLITS})


def table_key(table: Table) -> str:
    """What makes two tables the same: name and set of column names, without case or order."""
    return f"{table.name.lower()}({','.join(sorted(column.name.lower() for column in table.columns))})"


def cluster_by_schema(contexts: list[str]) -> list[list[int]]:
    """Positions of the contexts, in clusters that share no table with one another, by first position."""
    parent: dict[str, str] = {}

    def root(key: str) -> str:
        while parent[key] != key:
            parent[key] = parent[parent[key]]
            key = parent[key]
        return key

    first_table: dict[str, str] = {}
    for context in dict.fromkeys(contexts):
        keys = [table_key(table) for table in parse_schema(context).tables]
        for key in keys:
            parent.setdefault(key, key)
            parent[root(key)] = root(keys[0])
        first_table[context] = keys[0]
    clusters: defaultdict[str, list[int]] = defaultdict(list)
    for position, context in enumerate(contexts):
        clusters[root(first_table[context])].append(position)
    return list(clusters.values())


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
