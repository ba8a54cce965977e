"""Who may ask for what: tokens, Host and Origin, the size of bodies, and headers that bind the browser."""

import asyncio
import hmac
import ipaddress
import json
import logging
import re
import secrets
import socket
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from manymask.errors import PlanError
from manymask.serve.limits import Limits
from manymask.serve.refusals import Refusal

logger = logging.getLogger(__name__)

TOKEN_NAME = "MANYMASK_TOKEN"
"""Environment variable for the token of programs."""
LEAST_TOKEN = 16
"""Characters of a token at the least."""
# What needs no token, and tells nothing.
_OPEN_PATHS = ("/health", "/v2/health/live", "/v2/health/ready")
_UPLOADS = ("/api/images", "/api/predict")
_CHANGING = ("POST", "PUT", "PATCH", "DELETE")

HEADERS = {
    "content-security-policy": "default-src 'self'; img-src 'self' blob: data:; object-src 'none'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
"""Sent with each answer."""


@dataclass
class Access:
    """What opens the server.

    Attributes:
        token: What programs send.
        hosts: Names that browsers may call the server by, beside addresses where ``is_public``.
        is_public: Whether the server listens beyond this machine.
        port: Where it listens.
        link_token: Opens the page once, from the address that the terminal shows.
        session: What the browser's cookie then holds.
    """

    token: str
    hosts: frozenset[str]
    is_public: bool
    port: int
    link_token: str | None = field(default_factory=lambda: secrets.token_urlsafe(24))
    session: str = field(default_factory=lambda: secrets.token_urlsafe(32))

    @classmethod
    def choose(cls, host: str, port: int, token: str | None, allowed_hosts: Collection[str] = ()) -> "Access":
        """What opens a server that listens on ``host``.

        Args:
            host: The address.
            port: The port.
            token: What programs are to send; made where there is none.
            allowed_hosts: Further names that browsers may call the server by.

        Raises:
            PlanError: Others could reach it and there is no token, or the token can be guessed.
        """
        is_public = not _is_loopback(host)
        if token is None and is_public:
            raise PlanError(
                f"with --host {host} others can reach the server, so it needs a token: write one into a file, for "
                "example with python -c 'import secrets; print(secrets.token_urlsafe())', and give --token-file FILE"
            )
        if token is not None and (len(token) < LEAST_TOKEN or not token.isascii() or not token.isprintable()):
            raise PlanError(
                f"the token has {len(token)} characters, expected at least {LEAST_TOKEN} of ASCII; make one with "
                "python -c 'import secrets; print(secrets.token_urlsafe())'"
            )
        names = {"localhost", "127.0.0.1", "::1", host.strip("[]").lower(), *map(str.lower, allowed_hosts)}
        if is_public:
            names |= {socket.gethostname().lower(), socket.getfqdn().lower()}
        return cls(token or secrets.token_urlsafe(32), frozenset(names), is_public, port)

    @property
    def cookie_name(self) -> str:
        """Cookies are shared by all ports of a machine, on which several servers may run."""
        return f"manymask_{self.port}"

    def check_host(self, host: str) -> None:
        """Refuse what a foreign name brought here (DNS rebinding).

        Raises:
            Refusal: It is a name that this server is not called by.
        """
        match = re.fullmatch(r"(?:\[(?P<six>[0-9a-fA-F:.]+)\]|(?P<name>[^:\[\]]+))(?::\d{1,5})?", host)
        name = ((match["six"] or match["name"]) if match else "").lower().rstrip(".")
        if name not in self.hosts and not (self.is_public and _is_address(name)):
            raise Refusal(403, "this server is not called by that name; use the address that it shows, or --allow-host")

    def check_origin(self, headers: Headers, scheme: str) -> None:
        """Refuse what another page sends in its user's name.

        Raises:
            Refusal: It comes from another page.
        """
        origin, site = headers.get("origin"), headers.get("sec-fetch-site", "none")
        if origin is not None and origin.lower() != f"{scheme}://{headers.get('host', '')}".lower():
            raise Refusal(403, "this request comes from another page, which may not change anything here")
        if origin is None and site not in ("same-origin", "none"):
            raise Refusal(403, "this request comes from another page, which may not change anything here")

    def is_known(self, headers: Headers) -> bool:
        """Whether a request has the cookie of the page or the token of programs."""
        kind, _, token = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer":
            return _is_equal(token.strip(), self.token)
        # Not SimpleCookie, which stops at the first foreign value that is not as it should be.
        session = cookie_parser(headers.get("cookie", "")).get(self.cookie_name)
        return session is not None and _is_equal(session, self.session)

    def open_page(self, token: str) -> bool:
        """Whether a token in the page's address opens it: that of the terminal's link does once, that of programs."""
        if self.link_token is not None and _is_equal(token, self.link_token):
            self.link_token = None
            return True
        return _is_equal(token, self.token)


def read_token(file: Path) -> str:
    """The token in a file.

    Raises:
        PlanError: There is no such file, or it holds none.
    """
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise PlanError(f"{file} cannot be read as a token ({error}); write one line of ASCII into it") from error


def _is_equal(first: str, second: str) -> bool:
    return hmac.compare_digest(first.encode("utf-8", "surrogateescape"), second.encode())


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_loopback(host: str) -> bool:
    name = host.strip("[]")
    return name == "localhost" or (_is_address(name) and ipaddress.ip_address(name).is_loopback)


class Safety:
    """The outermost layer: whatever it refuses reaches nothing behind it.

    Args:
        app: What is behind it.
        access: What opens the server.
        limits: How large bodies may be.
    """

    def __init__(self, app: ASGIApp, access: Access, limits: Limits) -> None:
        self.app, self.access, self.limits = app, access, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check a request, then hand it on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                headers.setdefault("cache-control", "no-store")
                if cookie := scope["state"].get("cookie"):
                    headers.append("set-cookie", cookie)
            await send(message)

        scope.setdefault("state", {})
        try:
            if answer := self._check(scope):
                await _answer(send_guarded, *answer)
                return
        except Refusal as error:
            await _answer(send_guarded, error.status, {"detail": str(error)}, close=True)
            return
        body = _Body(receive, self._find_limit(scope), self.limits.idle_seconds, self._describe_limit(scope))

        async def send_unless_refused(message: Message) -> None:
            # Whatever is behind makes of a body that ended early, its own answer is the true one.
            if body.refusal is None or body.is_answered:
                body.is_answered = True
                await send_guarded(message)

        try:
            await self.app(scope, body.receive, send_unless_refused)
        except Refusal:
            if body.refusal is None:
                raise
        if body.refusal is not None and not body.is_answered:
            await _answer(send_guarded, body.refusal.status, {"detail": str(body.refusal)}, close=True)

    def _check(self, scope: Scope) -> "tuple[int, dict[str, str] | str] | None":
        """The answer where there is nothing more to do.

        Raises:
            Refusal: The request may not go on.
        """
        headers, path, method = Headers(scope=scope), scope["path"], scope["method"]
        self.access.check_host(headers.get("host", ""))
        if method in _CHANGING:
            self.access.check_origin(headers, scope["scheme"])
        if path in _OPEN_PATHS:
            return None
        token = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0] if path == "/" else ""
        if token and (self.access.is_known(headers) or self.access.open_page(token)):
            secure = "; Secure" if scope["scheme"] == "https" else ""
            scope["state"]["cookie"] = (
                f"{self.access.cookie_name}={self.access.session}; HttpOnly; SameSite=Strict; Path=/{secure}"
            )
            return 303, "/"  # so that the token is in no history
        if not self.access.is_known(headers):
            raise Refusal(
                401,
                "a token is needed: open the address that manymask serve has shown (its link works once), or send the "
                "header Authorization: Bearer TOKEN",
            )
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > self._find_limit(scope):
            raise Refusal(413, self._describe_limit(scope))
        return None

    def _find_limit(self, scope: Scope) -> int:
        return self.limits.body_bytes if scope["path"] in _UPLOADS else self.limits.json_bytes

    def _describe_limit(self, scope: Scope) -> str:
        megabytes = self._find_limit(scope) / 2**20
        return f"the body is larger than {megabytes:,.0f} MB, which this server takes at once; send less at a time"


class _Body:
    """A body, counted while it comes, which ends where it is too large or does not go on.

    Attributes:
        refusal: Why it was ended.
        is_answered: Whether the answer has begun.
    """

    def __init__(self, receive: Receive, most: int, idle_seconds: float, too_large: str) -> None:
        self._receive, self._most, self._idle_seconds, self._too_large = receive, most, idle_seconds, too_large
        self._num_bytes, self._is_whole = 0, False
        self.refusal: Refusal | None = None
        self.is_answered = False

    async def receive(self) -> Message:
        """The next part.

        Raises:
            Refusal: It is too large, or nothing comes.
        """
        if self._is_whole:  # what comes now is the end of the connection, which may take as long as it likes
            return await self._receive()
        try:
            message = await asyncio.wait_for(self._receive(), self._idle_seconds)
        except TimeoutError:
            sentence = f"nothing came for {self._idle_seconds:g} s; send the request again"
            raise self._refuse(408, sentence) from None
        self._num_bytes += len(message.get("body", b""))
        self._is_whole = not message.get("more_body", False)
        if self._num_bytes > self._most:
            await self._drop_rest()
            raise self._refuse(413, self._too_large)
        return message

    async def _drop_rest(self) -> None:
        """Take as much again and drop it: who is still sending when the connection ends may never see the answer."""
        with suppress(TimeoutError):
            while not self._is_whole and self._num_bytes <= 2 * self._most:
                message = await asyncio.wait_for(self._receive(), self._idle_seconds)
                self._num_bytes += len(message.get("body", b""))
                self._is_whole = not message.get("more_body", False)

    def _refuse(self, status: int, sentence: str) -> Refusal:
        self.refusal = Refusal(status, sentence)
        return self.refusal


async def _answer(send: Send, status: int, content: dict[str, str] | str, *, close: bool = False) -> None:
    """Answer with JSON, or with a place to go to."""
    is_place = isinstance(content, str)
    body = b"" if is_place else json.dumps(content).encode()
    headers = [(b"content-length", str(len(body)).encode())]
    headers += [(b"location", content.encode())] if is_place else [(b"content-type", b"application/json")]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if close:  # the rest of a body that was refused is not read
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
