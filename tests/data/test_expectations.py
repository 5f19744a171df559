"""The real Great Expectations, on rows with faults."""

import re

import pytest
from datasets import Dataset

from text2sql.config import DataSection
from text2sql.data.check import check_rows
from text2sql.data.expectations import SUITE, failure_texts, hold_against_suite, too_many_rejected

CONTEXT = "CREATE TABLE head (name VARCHAR, age INTEGER)"


def rows(answers):
    columns = ("question", "context", "answer")
    return Dataset.from_list(
        [
            {**dict(zip(columns, (f"Question {i} <b>?", CONTEXT, answer), strict=True)), "row_id": 100 + i}
            for i, answer in enumerate(answers)
        ]
    )


@pytest.fixture(scope="module")
def report():
    given = rows(["SELECT age FROM head", "SELECT <script> FROM head", "DROP TABLE head", "SELECT x.y FROM head"])
    data = DataSection(max_rejected=0.5)
    return hold_against_suite(given, check_rows(given, data), data)


def test_each_expectation_counts_the_rows_that_miss_it(report):
    missed = {line.what: line.unexpected for line in report.expectations if line.unexpected}
    assert missed == {
        "the answer parses": 1,
        "the answer is one statement that only reads": 1,
        "the answer runs on its own schema": 1,
    }
    assert report.success
    assert {line.required for line in report.expectations} == {0.0, 0.5, 1.0}


def test_a_stricter_share_fails(report):
    given = rows(["SELECT age FROM head", "SELECT x.y FROM head"])
    strict = hold_against_suite(given, check_rows(given, DataSection()), DataSection(max_rejected=0.1))
    assert not strict.success
    assert [line.what for line in strict.expectations if not line.success] == ["the answer runs on its own schema"]


def test_the_page_names_every_expectation_and_loads_nothing(report):
    assert not re.search(r"<(script|img|link|iframe)[^>]*\b(src|href)=", report.html)
    for line in report.expectations:
        if f"what: {line.what}, faults" in SUITE.read_text():
            assert line.what in report.html
    assert "<script> FROM" not in report.html


def test_all_faults_of_the_check_have_an_expectation():
    known = set(re.findall(r"(\w+)[,\]]", " ".join(re.findall(r"faults: (\[.*\])", SUITE.read_text()))))
    said = check_rows.__doc__.partition("Reasons:")[2].partition("Raises:")[0]
    assert known == set(re.findall(r"\b[a-z]+_[a-z_]+\b|\bduplicate\b|\btimeout\b", said.replace("data.benchmark", "")))


def test_rows_beyond_repair_are_counted_without_duplicates():
    given = rows(["SELECT age FROM head"] * 2 + ["SELECT x.y FROM head"])
    given = given.map(lambda row: {**row, "question": "The same?"} if "age" in row["answer"] else row)
    checked = check_rows(given, DataSection())
    assert checked.counts == {"duplicate": 1, "does_not_run": 1}
    assert too_many_rejected(checked, DataSection(max_rejected=0.5)) is None
    problem = too_many_rejected(checked, DataSection(max_rejected=0.4))
    assert problem.startswith("1 of 2 rows (50.0%) are beyond repair (duplicate 1, does_not_run 1)")
    texts = failure_texts(checked, hold_against_suite(given, checked, DataSection()))
    assert texts["rejected.jsonl"].count("\n") == 2
    assert "<html" in texts["validation.html"]


def test_no_row_that_can_be_used_is_too_few_whatever_may_be_rejected():
    checked = check_rows(rows(["DROP TABLE head", "SELECT x.y FROM head"]), DataSection())
    problem = too_many_rejected(checked, DataSection(max_rejected=1.0))
    assert problem.startswith("none of the 2 rows is valid (not_read_only 1, does_not_run 1); the first, for example: ")
