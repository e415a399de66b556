"""The settings of an endpoint: a server of the user's own that answers for a model. None of them changes what is asked.

What it serves is asked of it when a run is planned, and becomes the model's identity. The key itself is in no setting:
settings are written into plans and releases.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from gra_hpc.config.fields import Most, unfrozen


@dataclass
class EndpointConfig:
    """An OpenAI-compatible server that answers in the place of an engine of ours."""

    url: str = unfrozen("")
    """Address up to its version, as `https://host/v1`. Empty: the model has engines of ours."""
    model: str = unfrozen("")
    """Name it serves the model under. Empty: the only one it serves."""
    key_env: str = unfrozen("")
    """Variable that holds its key. Empty: none, or `key_file`."""
    key_file: str = unfrozen("")
    """File that holds its key: yours, mode 0600. Empty: none, or `key_env`."""
    concurrency: int = unfrozen(8, ge=1, le=10_000)
    """Calls in flight, of each job that runs."""
    requests_per_minute: float = unfrozen(0.0, ge=0, le=1_000_000)
    """Calls begun in a minute, of each job that runs. 0: no limit."""
    timeout_s: int = unfrozen(600, ge=1, le=Most.SECONDS)
    """Longest time for one answer; then the call is asked again."""
    patience_s: int = unfrozen(1800, ge=0, le=Most.SECONDS)
    """Longest time without any answer from it while calls wait; then the attempt ends, with what it answered."""
    proxy: str = unfrozen("")
    """HTTP proxy through which it is asked, without a password in it. Empty: directly."""


def unfit(endpoint: EndpointConfig) -> tuple[str, str, str] | None:
    """What of an endpoint's texts cannot be: its setting, what it is (no secret), what was expected; none: all may be.

    Secrets within an address would be written wherever the address is.
    """
    for key, address in (("url", endpoint.url), ("proxy", endpoint.proxy)):
        if "@" in address.split("://", 1)[-1].split("/", 1)[0]:
            return key, "(with a name or a password)", "an address without them: the key goes by key_env or key_file"
        if address and not re.fullmatch(r"https?://[^\s/?#@]+(/[^\s?#]*)?", address):
            return key, address.split("?")[0], "http(s)://HOST[:PORT][/PATH], without ?query"
    if endpoint.key_env and not re.fullmatch(r"[A-Za-z_]\w*", endpoint.key_env):
        return "key_env", "(no name of a variable)", "the NAME of the variable, not the key itself"
    if endpoint.key_env and endpoint.key_file:
        return "key_file", endpoint.key_file, "either key_env or key_file"
    return None


def versioned(url: str) -> str:
    """An address with the version that most servers have, where it has none; empty: it has one.

    A server that answers 404 may just not have been asked at the right place.
    """
    path = url.split("://", 1)[-1].partition("/")[2]
    return "" if re.search(r"(^|/)v\d", path) else f"{url.rstrip('/')}/v1"
