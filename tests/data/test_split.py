import random
import time
from itertools import product

import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from text2sql.config import DataSection
from text2sql.data import SPLITS
from text2sql.data.alike import overlap, table_keys
from text2sql.data.split import cluster_by_schema, split_rows
from text2sql.data.synthetic import generate_rows
from text2sql.errors import DataError


def section(train=0.8, val=0.1, test=0.1, seed=1, **changes):
    changes = {"schema_overlap": None, **changes}
    return DataSection(train_ratio=train, val_ratio=val, test_ratio=test, seed=seed, **changes)


def rows_on(contexts):
    return Dataset.from_dict({"context": contexts, "row_id": list(range(len(contexts)))})


def tables(rows):
    return {key for context in rows["context"] for key in table_keys(context)}


def test_generated_rows_keep_the_ratios_and_share_no_table():
    rows = Dataset.from_list(generate_rows(1500, seed=2))
    splits = split_rows(rows, section())
    assert {name: len(splits[name]) / 1500 for name in SPLITS} == pytest.approx(
        {"train": 0.8, "validation": 0.1, "test": 0.1}, abs=0.01
    )
    for one, other in [("train", "validation"), ("train", "test"), ("validation", "test")]:
        assert not tables(splits[one]) & tables(splits[other])


NAMES = st.sampled_from(["singer", "Singer", "concert", "city", "pet"])
COLUMNS = st.lists(st.sampled_from(["id", "name", "Name", "age", "year"]), min_size=1, max_size=3, unique_by=str.lower)


@st.composite
def contexts(draw):
    names = draw(st.lists(NAMES, min_size=1, max_size=3))
    return "; ".join(f"CREATE TABLE {name} ({', '.join(f'{c} TEXT' for c in draw(COLUMNS))})" for name in names)


@settings(deadline=None, max_examples=40)
@given(st.lists(contexts(), min_size=3, max_size=40), st.integers(0, 5), st.sampled_from([None, 0.4, 0.75, 1.0]))
def test_no_table_stands_in_two_splits_whatever_the_rows(given_contexts, seed, least):
    rows = rows_on(given_contexts)
    try:
        splits = split_rows(rows, section(0.5, 0.2, 0.3, seed, schema_overlap=least))
    except DataError:
        assert len(cluster_by_schema(given_contexts, least)) < 10
        return
    for one, other in [("train", "validation"), ("train", "test"), ("validation", "test")]:
        for (name, columns), (other_name, others) in product(tables(splits[one]), tables(splits[other])):
            assert name != other_name or overlap(columns, others) < (least or 2)
    assert sorted(row for name in SPLITS for row in splits[name]["row_id"]) == list(range(len(given_contexts)))
    for one, other in [("train", "validation"), ("train", "test"), ("validation", "test")]:
        assert not tables(splits[one]) & tables(splits[other])


def test_same_seed_same_split():
    rows = Dataset.from_list(generate_rows(400, seed=3))
    first, again, other = (split_rows(rows, section(seed=seed))["test"]["question"] for seed in (1, 1, 2))
    assert first == again != other


def test_tables_are_the_same_whatever_case_order_and_types():
    one, other = "CREATE TABLE Pet (Name TEXT, age INTEGER)", "create table pet (age VARCHAR, name VARCHAR)"
    assert table_keys(one) == table_keys(other)


def test_one_shared_table_joins_two_contexts():
    singer, concert, pet = (f"CREATE TABLE {name} (id INTEGER)" for name in ("singer", "concert", "pet"))
    assert cluster_by_schema([singer, f"{singer}; {concert}", pet, concert]) == [[0, 1, 3], [2]]


def test_no_validation_split_when_its_ratio_is_zero():
    rows = Dataset.from_list(generate_rows(200, seed=3))
    splits = split_rows(rows, section(0.9, 0.0, 0.1))
    assert len(splits["validation"]) == 0
    assert len(splits["test"]) > 0


def test_one_schema_cannot_be_split():
    with pytest.raises(DataError, match="5 rows on 1 unrelated schemas leave the validation split empty"):
        split_rows(rows_on(["CREATE TABLE singer (id INTEGER)"] * 5), section())


def test_tables_of_one_name_with_most_columns_in_common_are_one_schema():
    part, whole, other = (
        f"CREATE TABLE singer ({c})" for c in ("name TEXT", "name TEXT, age INT", "name TEXT, pet TEXT")
    )
    assert cluster_by_schema([part, whole]) == [[0], [1]]
    assert cluster_by_schema([part, whole], 0.75) == [[0, 1]]
    assert cluster_by_schema([whole, other], 0.75) == [[0], [1]]
    assert cluster_by_schema([whole, other], 0.5) == [[0, 1]]


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.frozensets(st.sampled_from("abcdefghijkl"), min_size=1, max_size=7), min_size=2, max_size=60),
    st.sampled_from([0.3, 0.5, 0.75, 1.0]),
    st.sampled_from([0, 2, 1000]),
)
def test_clusters_are_those_of_comparing_each_with_each(sets, least, common):
    contexts = [f"CREATE TABLE t ({', '.join(f'{name} TEXT' for name in sorted(names))})" for names in sets]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("text2sql.data.alike._COMMON", common)
        found = cluster_by_schema(contexts, least)
    group = list(range(len(sets)))
    for i, one in enumerate(sets):
        for j, other in enumerate(sets[:i]):
            if overlap(one, other) >= least:
                group = [group[j] if member == group[i] else member for member in group]
    expected = [[i for i, member in enumerate(group) if member == g] for g in dict.fromkeys(group)]
    assert found == expected


def test_many_tables_of_one_name_take_no_time_for_each_pair():
    rng = random.Random(0)
    columns = [f"c{i}" for i in range(200)]
    made = ["CREATE TABLE t (" + ", ".join(f"{c} TEXT" for c in rng.sample(columns, 6)) + ")" for _ in range(6000)]
    started = time.perf_counter()
    clusters = cluster_by_schema(made, 0.75)
    assert time.perf_counter() - started < 5  # 18 million pairs would take a minute
    assert len(clusters) > 5000


def test_a_random_split_keeps_the_ratios_and_leaks():
    rows = Dataset.from_list(generate_rows(1000, seed=2))
    splits = split_rows(rows, section(split="random"))
    assert [len(splits[name]) for name in SPLITS] == [800, 100, 100]
    assert tables(splits["train"]) & tables(splits["test"])
