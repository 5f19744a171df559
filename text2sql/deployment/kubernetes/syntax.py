"""What Kubernetes takes as a quantity, a name or a label. Each check raises ValueError in the words of its user.

The rules are those of k8s.io/apimachinery (resource.ParseQuantity, util/validation), without asking a cluster.
"""

from __future__ import annotations

import re
from decimal import Decimal

_LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_DNS_LABEL = re.compile(_LABEL)
_DNS_SUBDOMAIN = re.compile(rf"{_LABEL}(\.{_LABEL})*")
_QUALIFIED = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")
_ENV = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_QUANTITY = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)(Ki|Mi|Gi|Ti|Pi|Ei|[numkMGTPE]|[eE][-+]?[0-9]+)?")
_IMAGE = re.compile(
    r"(?P<name>[a-z0-9]+([._-]+[a-z0-9]+)*(:[0-9]+(?=/))?(/[a-z0-9]+([._-]+[a-z0-9]+)*)*)"
    r"(:(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}))?(@(?P<digest>sha256:[0-9a-f]{64}))?"
)
_DECIMAL = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY = {"Ki": 1, "Mi": 2, "Gi": 3, "Ti": 4, "Pi": 5, "Ei": 6}


def parse_quantity(text: str) -> Decimal:
    """The number that a quantity stands for: cores, or bytes."""
    found = _QUANTITY.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is no Kubernetes quantity; {_near(text)}")
    number, suffix = Decimal(found[1]), found[2] or ""
    if suffix in _BINARY:
        return number * Decimal(1024) ** _BINARY[suffix]
    exponent = int(suffix[1:]) if len(suffix) > 1 else _DECIMAL[suffix]
    return number.scaleb(exponent)


def _near(text: str) -> str:
    unit = re.fullmatch(r"([0-9.]+) *([kKmMgGtTpP])[iI]?[bB]?", text)
    if unit is None:
        return "write e.g. 500m or 4 for cores, 32Gi for memory"
    number, letter = unit[1], unit[2].upper()
    return f"write {number}{letter}i for powers of 1024, {number}{letter.replace('K', 'k')} for powers of 1000"


def check_quantity(text: str) -> str:
    """A quantity above 0."""
    if parse_quantity(text) <= 0:
        raise ValueError(f"{text!r} must be above 0")
    return text


def check_name(text: str) -> str:
    """A DNS-1123 subdomain: the name of a claim, a secret, a service account."""
    if len(text) > 253 or not _DNS_SUBDOMAIN.fullmatch(text):
        raise ValueError(f"{text!r} is no Kubernetes name; use a-z, 0-9, - and ., and begin and end with a-z or 0-9")
    return text


def check_label_name(text: str) -> str:
    """A DNS-1123 label: the name of a namespace."""
    if len(text) > 63 or not _DNS_LABEL.fullmatch(text):
        raise ValueError(
            f"{text!r} is no DNS label; use at most 63 of a-z, 0-9 and -, and begin and end with a-z or 0-9"
        )
    return text


def check_label_key(text: str) -> str:
    """A label's key, with or without a prefix: nvidia.com/gpu.product. A resource's name has the same form."""
    prefix, slash, name = text.rpartition("/")
    if len(name) > 63 or not _QUALIFIED.fullmatch(name) or (slash and (not prefix or len(prefix) > 253)):
        raise ValueError(f"{text!r} is no label key; write name or prefix/name, the name of at most 63 characters")
    if slash and not _DNS_SUBDOMAIN.fullmatch(prefix):
        raise ValueError(f"{text!r} is no label key; its prefix must be a domain such as nvidia.com")
    return text


def check_label_value(text: str) -> str:
    """A label's value; may be empty."""
    if text and (len(text) > 63 or not _QUALIFIED.fullmatch(text)):
        raise ValueError(
            f"{text!r} is no label value; use at most 63 of A-Z, a-z, 0-9, -, _ and ., and no slash or space"
        )
    return text


def check_env(text: str) -> str:
    """The name of an environment variable."""
    if not _ENV.fullmatch(text):
        raise ValueError(f"{text!r} is no name for an environment variable; use A-Z, 0-9 and _")
    return text


def check_image(text: str) -> str:
    """An image with an exact tag or digest."""
    found = _IMAGE.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is no image; write registry/name:tag or registry/name@sha256:…")
    if found["digest"] is None and found["tag"] in (None, "latest"):
        raise ValueError(f"{text!r} may be another image tomorrow; pin a tag other than latest, or a digest")
    return text
