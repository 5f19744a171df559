"""Kubernetes' own rules, without asking a cluster."""

from __future__ import annotations

from decimal import Decimal

import pytest

from text2sql.deployment.kubernetes import syntax


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("500m", "0.5"),
        ("4", "4"),
        ("0.5", "0.5"),
        (".5", "0.5"),
        ("32Gi", str(32 * 1024**3)),
        ("1.5Gi", str(3 * 1024**3 // 2)),
        ("2G", "2000000000"),
        ("500k", "500000"),
        ("1E", "1000000000000000000"),
        ("1e3", "1000"),
        ("12E2", "1200"),
    ],
)
def test_quantities(text: str, number: str):
    assert syntax.parse_quantity(text) == Decimal(number)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("32GB", "write 32Gi for powers of 1024, 32G for powers of 1000"),
        ("32 Gi", "write 32Gi"),
        ("64gb", "write 64Gi"),
        ("10K", "write 10Ki for powers of 1024, 10k for powers of 1000"),
        ("lots", "write e.g. 500m or 4 for cores"),
        ("", "is no Kubernetes quantity"),
        ("1..5", "is no Kubernetes quantity"),
        ("-1", "is no Kubernetes quantity"),
        ("0", "must be above 0"),
        ("0Gi", "must be above 0"),
    ],
)
def test_what_is_no_quantity(text: str, told: str):
    with pytest.raises(ValueError, match=told):
        syntax.check_quantity(text)


GOOD = {
    "check_name": ["a", "text2sql-work", "a.b-c.d", "1a", "a" * 253],
    "check_label_name": ["zenml", "a-1", "a" * 63],
    "check_label_key": ["gpu", "nvidia.com/gpu.product", "a/B_c", "x" * 63],
    "check_label_value": ["", "NVIDIA-A10G", "v1.2_3", "x" * 63],
    "check_env": ["HF_TOKEN", "_x", "a1"],
    "check_image": ["a/b:1", "r.example.com:5000/a/b:v1.2-3", "a@sha256:" + "0" * 64, "a:1@sha256:" + "f" * 64],
}
BAD = {
    "check_name": ["", "A", "a_b", "-a", "a-", "a..b", "a/b", "a" * 254],
    "check_label_name": ["", "a.b", "A", "a" * 64],
    "check_label_key": ["", "/a", "a/", "a/b/c", "A.com/x", "a b", "x" * 64],
    "check_label_value": ["a/b", "a b", "-a", "a-", "x" * 64],
    "check_env": ["", "1A", "A-B", "A.B"],
    "check_image": ["", "a", "a/b", "a:latest", "A/b:1", "http://a/b:1", "a b:1", "a@sha256:12"],
}


@pytest.mark.parametrize(("check", "text"), [(check, text) for check, texts in GOOD.items() for text in texts])
def test_what_kubernetes_takes(check: str, text: str):
    assert getattr(syntax, check)(text) == text


@pytest.mark.parametrize(("check", "text"), [(check, text) for check, texts in BAD.items() for text in texts])
def test_what_kubernetes_refuses(check: str, text: str):
    with pytest.raises(ValueError, match=r"\S"):
        getattr(syntax, check)(text)
