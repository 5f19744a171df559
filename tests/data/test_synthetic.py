import itertools
import re
import sqlite3
from collections import Counter

import pytest

from text2sql.data.synthetic import generate_rows
from text2sql.data.synthetic.catalogue import constructs
from text2sql.data.synthetic.schema import for_base


def tables(rows):
    return {statement for row in rows for statement in row["context"].split("; ")}


@pytest.fixture(scope="module")
def full():
    return generate_rows(4000, seed=1)


def test_same_seed_same_rows_and_a_smaller_size_is_their_beginning():
    assert generate_rows(300, seed=5) == generate_rows(500, seed=5)[:300]
    assert generate_rows(100, seed=5) != generate_rows(100, seed=6)


def test_every_gold_runs_on_its_own_context(full):
    for row in full:
        connection = sqlite3.connect(":memory:")
        connection.executescript(row["context"])
        connection.execute(row["answer"]).fetchall()
        connection.close()


def test_every_construct_is_drawn_and_none_rules(full):
    counts = Counter(row["construct"] for row in full)
    assert set(counts) == {construct.name for construct in constructs()}
    assert max(counts.values()) < 0.05 * len(full)


def test_no_question_stands_twice_on_one_context(full):
    assert len({(row["question"], row["context"]) for row in full}) == len(full)


def test_no_template_mark_is_left_over(full):
    for row in full:
        assert not set("[]{}|") & set(row["question"] + row["answer"]), row


def phrasings(construct):
    """Every phrasing with its choices written out, and slots replaced by what they show."""
    for template in construct.base + construct.more:
        parts = re.split(r"\[([^\]]*)\]", template)
        choices = [part.split("|") if position % 2 else [part] for position, part in enumerate(parts)]
        for pieces in itertools.product(*choices):
            yield re.sub(r"\{[abx]\}", "{column}", re.sub(r"\{[abx]\.(\w+)\}", r"{\1}", "".join(pieces)))


def test_no_phrasing_serves_two_constructs():
    """Else one question would have two answers, and exact match would be a matter of luck."""
    seen: dict[str, str] = {}
    for construct in constructs():
        for phrasing in phrasings(construct):
            assert seen.setdefault(phrasing, construct.name) == construct.name, phrasing


def test_no_two_databases_share_a_table(full):
    seen: dict[str, str] = {}
    for row in full:
        for statement in row["context"].split("; "):
            name, _, columns = statement.removeprefix("CREATE TABLE ").partition(" (")
            key = f"{name}({sorted(columns.rstrip(')').split(', '))})"
            assert seen.setdefault(key, row["context"]) == row["context"]


@pytest.mark.parametrize("profile", ["base", "reading"])
def test_what_trains_the_base_model_shares_no_table_with_the_full_profile(full, profile):
    assert not tables(generate_rows(2000, seed=1, profile=profile)) & tables(full)


def test_the_reading_profile_never_pairs_a_question_with_its_sql():
    rows = generate_rows(2000, seed=1, profile="reading")
    assert all(bool(row["question"]) != bool(row["answer"]) for row in rows)
    assert {row["construct"] for row in rows if row["answer"]} == {c.name for c in constructs() if c.read}
    assert {row["construct"] for row in rows} == {c.name for c in constructs() if c.read or c.base}


def test_the_base_model_is_never_taught_what_it_reads_and_sees_nothing_of_some_constructs():
    taught = {row["question"] for row in generate_rows(4000, seed=1, profile="base")}
    assert not taught & {row["question"] for row in generate_rows(4000, seed=1, profile="reading")}
    assert not [construct.name for construct in constructs() if construct.read and construct.base]
    assert len([construct for construct in constructs() if not construct.read and not construct.base]) >= 6


def test_the_base_profile_knows_a_part_of_the_constructs():
    known = {row["construct"] for row in generate_rows(3000, profile="base")}
    assert known == {construct.name for construct in constructs() if construct.base}
    assert 0.5 < len(known) / len(constructs()) < 0.85


def test_a_table_belongs_to_one_share_for_good():
    assert for_base("singer(age,name)") == for_base("singer(age,name)")
    shares = [for_base(f"t{n}(a,b)") for n in range(4000)]
    assert 0.2 < sum(shares) / len(shares) < 0.3
