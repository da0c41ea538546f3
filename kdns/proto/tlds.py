"""Which labels are public top-level domains: what a namespace should not be called (CVE-2022-2835, CVE-2022-2837)."""

from __future__ import annotations

from functools import cache, lru_cache

from publicsuffixlist import PublicSuffixList


@lru_cache(4096)
def is_public_tld(label: bytes) -> bool:
    """Tell whether *label* (lower case) is a top-level domain of the public DNS, by the list of public suffixes."""
    if not label.isascii():
        return False
    text = label.decode("ascii")
    return "." not in text and _suffixes().publicsuffix(text, accept_unknown=False) == text


@cache
def _suffixes() -> PublicSuffixList:
    """Return the list, read when it is first asked for."""
    return PublicSuffixList(only_icann=True, accept_unknown=False)
