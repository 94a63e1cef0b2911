"""Who asks: a client with a token of ours, or one that a configured issuer vouches for."""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evergreen.contract import ConfigurationError, StepError, utc_now
from evergreen.serving.metrics import TOKENS_STALE
from evergreen.serving.requests import OverloadedError
from evergreen.serving.tokens import PREFIX, Token, digest_of, read_tokens
from evergreen.settings import get_settings

log = logging.getLogger(__name__)

REFRESH_SECONDS = 2.0
"""A token that is taken back opens nothing after so long."""
_ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
"""What an issuer may sign with: never a secret that the server would have to know too."""
_KEYS_SECONDS = 60.0
"""So often, at most, an issuer is asked for keys again because of one that is not known."""
_KEYS_LAST_SECONDS = 3600.0
"""A key that its issuer has withdrawn vouches for nobody after so long."""
_NOBODY = digest_of("")
_VOUCHED = "jwt:"
"""What the name of a client that an issuer vouches for begins with: no token's client may have a colon in its name, so
that limits, logs and feedback never take one for the other."""
_LONGEST_SUBJECT = 255
"""Characters of ``sub``, as OpenID Connect has it; cut, two subjects would be one."""


@dataclass(frozen=True)
class Client:
    """Who has shown who it is.

    Parameters
    ----------
    name
        The token's client; or ``jwt:`` and the subject that the issuer names.
    models
        Those it may ask; None is all.
    requests_per_second
        Its own limit; None is that of the model.
    """

    name: str
    models: frozenset[str] | None = None
    requests_per_second: float | None = None

    def may_ask(self, model: str) -> bool:
        """Tell whether it may ask a model."""
        return self.models is None or model in self.models


class TokenBook:
    """The tokens that are known, read again every few seconds by a thread; without PostgreSQL those of before."""

    def __init__(self, read: Callable[[], list[Token]] = read_tokens) -> None:
        self._read = read
        self._tokens: Mapping[str, Token] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="tokens", daemon=True)
        self.tokens_read = False
        """Whether the table has been read at all."""
        self.stale_since: float | None = None
        """Since when the table could not be read."""

    def start(self) -> None:
        """Read the table, and go on reading it."""
        self.refresh()
        self._thread.start()

    def stop(self) -> None:
        """Stop reading."""
        self._stop.set()

    def refresh(self) -> None:
        """Read the table; if that cannot be, what was known goes on to count."""
        try:
            self._tokens = {token.id: token for token in self._read()}
        except Exception as error:  # whatever it is: a thread that ended would never learn what is taken back
            if self.stale_since is None:
                log.warning("tokens of before go on to count: %s", error, exc_info=not isinstance(error, StepError))
            self.stale_since = self.stale_since or time.monotonic()
        else:
            self.tokens_read, self.stale_since = True, None
        TOKENS_STALE.set(self.stale_since is not None)

    def client_of(self, token: str) -> Client | None:
        """Return whose a token is, or None.

        Raises
        ------
        OverloadedError
            If the table has not been read yet, or cannot be read and did not have the token before: nobody knows
            whether it is good.
        """
        _, _, rest = token.partition("_")
        identity, _, secret = rest.partition("_")
        known = self._tokens.get(identity)
        if known is None and (not self.tokens_read or self.stale_since is not None):
            raise OverloadedError("tokens", "the tokens cannot be read now", retry_after=math.ceil(REFRESH_SECONDS))
        # compared whether or not there is such a token: how long that takes tells nothing
        same = hmac.compare_digest(digest_of(secret), known.digest if known else _NOBODY)
        if known is None or not same or not known.valid(utc_now()):
            return None
        return Client(known.client, known.models, known.requests_per_second)

    def _follow(self) -> None:
        while not self._stop.wait(REFRESH_SECONDS):
            self.refresh()


class Issuer:
    """An issuer of JSON Web Tokens, by its published keys.

    Parameters
    ----------
    name, audience
        What ``iss`` and ``aud`` must be.
    keys
        The address of its JSON Web Key Set: http(s), or a file.
    """

    def __init__(self, name: str, audience: str, keys: str) -> None:
        self._name, self._audience, self._address = name, audience, keys
        self._keys: Mapping[str, Any] = {}
        self._asked = self._fetched = float("-inf")
        self._lock = asyncio.Lock()

    async def client_of(self, token: str) -> Client | None:
        """Return the subject of a token that the issuer has signed, or None."""
        import jwt

        try:
            key = await self._key(str(jwt.get_unverified_header(token).get("kid", "")))
            if key is None or key.algorithm_name not in _ALGORITHMS:
                return None
            claims = jwt.decode(
                token,
                key,
                algorithms=[key.algorithm_name],  # its own, whatever the token says
                issuer=self._name,
                audience=self._audience,
                options={"require": ["exp", "sub", "iss", "aud"]},
            )
        except (jwt.PyJWTError, ValueError):
            return None
        subject = str(claims["sub"])
        if not 0 < len(subject) <= _LONGEST_SUBJECT:
            return None
        name = f"{_VOUCHED}{subject}"
        if "models" not in claims:
            return Client(name)
        models = claims["models"]
        # what is no list limits its client in a way that nobody here knows: it is not taken for no limit
        return Client(name, frozenset(map(str, models))) if isinstance(models, list) else None

    async def _key(self, identity: str) -> Any:
        # whoever has a key that is known does not wait while another asks for the keys again
        if identity not in self._keys or (self._are_old() and not self._lock.locked()):
            async with self._lock:
                wanted = identity not in self._keys or self._are_old()
                if wanted and time.monotonic() - self._asked > _KEYS_SECONDS:
                    self._asked = time.monotonic()
                    fetched = await asyncio.to_thread(_fetch_keys, self._address)
                    if fetched is not None:
                        self._keys, self._fetched = fetched, time.monotonic()
        return self._keys.get(identity)

    def _are_old(self) -> bool:
        return time.monotonic() - self._fetched > _KEYS_LAST_SECONDS


def configured_issuer() -> Issuer | None:
    """Return the issuer that the settings name, or None.

    Raises
    ------
    ConfigurationError
        If only some of the three settings are there.
    """
    settings = get_settings()
    named = (settings.serving_jwt_issuer, settings.serving_jwt_audience, settings.serving_jwt_keys)
    if not any(named):
        return None
    issuer, audience, keys = named
    if not (issuer and audience and keys):
        raise ConfigurationError(
            "EVERGREEN_SERVING_JWT_ISSUER, _AUDIENCE and _KEYS go together, and some are not set.",
            "Set all three, or none.",
        )
    return Issuer(issuer, audience, keys)


def _fetch_keys(address: str) -> Mapping[str, Any] | None:
    """Return an issuer's keys by their ids; None if it does not answer, or with something else."""
    import httpx
    import jwt

    try:
        if address.startswith(("https://", "http://")):
            published = httpx.get(address, timeout=5).raise_for_status().json()
        else:
            published = json.loads(Path(address).read_text(encoding="utf-8"))
        if not isinstance(published, dict):
            raise ValueError("no object with the member keys")
        return {str(key.key_id or ""): key for key in jwt.PyJWKSet.from_dict(published).keys}
    except (httpx.HTTPError, OSError, ValueError, jwt.PyJWTError) as error:
        log.warning("the keys of %s: %s", address, error)
        return None


def looks_like_token(text: str) -> bool:
    """Tell whether what a client sends is meant to be a token of ours."""
    return text.startswith(f"{PREFIX}_")


class Limiter:
    """Token buckets: so many requests a second by client and model, with a second's worth at once.

    Parameters
    ----------
    most
        Buckets that are kept. Beyond it the one that was asked longest ago is forgotten, and begins full again.
    """

    def __init__(self, most: int = 10_000) -> None:
        self._most = most
        self._buckets: OrderedDict[tuple[str, str], tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        """Return how many buckets are kept."""
        return len(self._buckets)

    def wait(self, client: str, model: str, rate: float | None) -> float:
        """Return 0 and count a request, or the seconds until there is room for one."""
        if rate is None:
            return 0.0
        now, most = time.monotonic(), max(1.0, rate)
        left, then = self._buckets.pop((client, model), (most, now))
        if len(self._buckets) >= self._most:
            self._buckets.popitem(last=False)
        left = min(most, left + (now - then) * rate)
        if left < 1:
            self._buckets[client, model] = (left, now)
            return (1 - left) / rate
        self._buckets[client, model] = (left - 1, now)
        return 0.0
