"""Splits without leaks: rows whose schemas are the same, or nearly so, never part.

A random split of text-to-SQL rows leaves nearly every test row with its schema in training, so that the test measures
memory. Here rows are clustered by the tables of their contexts, and a cluster goes whole to one split.
"""

from __future__ import annotations

import random
from collections import defaultdict
from typing import TYPE_CHECKING

from text2sql.config import DataSection
from text2sql.data import SPLITS
from text2sql.data.alike import Groups, Overlaps, TableKey, table_keys
from text2sql.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict


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


def cluster_by_schema(contexts: list[str], least_overlap: float | None = None) -> list[list[int]]:
    """Positions of the contexts, in clusters that share no table with one another, by first position.

    Args:
        least_overlap: tables of one name count as the same from this overlap of their columns; only equal ones if None.
    """
    numbers: dict[TableKey, int] = {}
    first_table: dict[str, int] = {}
    together = Groups()
    for context in dict.fromkeys(contexts):
        tables = [numbers.setdefault(key, len(numbers)) for key in table_keys(context)]
        for table in tables:
            together.join(table, tables[0])
        first_table[context] = tables[0]
    if least_overlap is not None:
        _join_overlapping(numbers, together, least_overlap)
    clusters: defaultdict[int, list[int]] = defaultdict(list)
    for position, context in enumerate(contexts):
        clusters[together.root(first_table[context])].append(position)
    return list(clusters.values())


def _join_overlapping(numbers: dict[TableKey, int], together: Groups, least: float) -> None:
    named: defaultdict[str, list[tuple[frozenset[str], int]]] = defaultdict(list)
    for (name, columns), number in numbers.items():
        named[name].append((columns, number))
    for tables in named.values():
        tables.sort(key=lambda table: len(table[0]), reverse=True)
        near = Groups()
        known = Overlaps([columns for columns, _ in tables], least, near.root)
        for position, (_, number) in enumerate(tables):
            for other in known.find(position):
                near.join(position, other)
                together.join(number, tables[other][1])
            known.add(position)


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
