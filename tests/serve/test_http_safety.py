"""Who may ask for what, against a running server."""

import socket
from contextlib import suppress
from itertools import chain, repeat

import httpx
import pytest
from starlette.datastructures import Headers

from manymask.errors import PlanError
from manymask.serve.http_safety import Access, read_token
from manymask.serve.limits import Limits
from tests.serve.files import encode, make_cells
from tests.serve.live_server import TOKEN, LiveServer, run_server

BEARER = {"Authorization": f"Bearer {TOKEN}"}


def ask(live: LiveServer, text: str) -> bytes:
    """The answer to bytes that no client would send."""
    with socket.create_connection(("127.0.0.1", live.access.port), timeout=20) as line:
        line.sendall(text.encode())
        return b"".join(iter(lambda: line.recv(65536), b""))


@pytest.fixture
def stranger(live):
    """A client without a token."""
    with httpx.Client(base_url=live.url) as client:
        yield client


def test_without_a_token_nothing_is_told(live, stranger):
    for path in ("/", "/api/session", "/api/images", "/metrics", "/openapi.json", "/static/x.js", "/nothing", "/v2"):
        answer = stranger.get(path)
        assert answer.status_code == 401
        assert "token" in answer.json()["detail"]
        assert answer.headers["www-authenticate"] == "Bearer"
    assert stranger.post("/api/images/example").status_code == 401


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": "Bearer"},
        {"Authorization": f"Bearer {TOKEN}x"},
        {"Cookie": "manymask_1=x"},
        {"Cookie": '"\\'},
    ],
)
def test_a_wrong_token_opens_nothing(live, stranger, headers):
    assert stranger.get("/api/session", headers=headers).status_code == 401
    cookie = {"Cookie": f"{live.access.cookie_name}=wrong"}
    assert stranger.get("/api/session", headers=cookie).status_code == 401
    assert stranger.get("/", params={"token": "wrong"}).status_code == 401
    assert stranger.get("/api/session", params={"token": TOKEN}).status_code == 401  # only the page takes it so


@pytest.mark.parametrize("foreign", ['theme={"dark":true}', "x=a b", "word", 'q="un', "_xsrf=2|abc|d"])
def test_cookies_of_other_programs_of_the_machine_do_not_matter(live, foreign):
    own = f"{live.access.cookie_name}={live.access.session}"
    for cookie in (f"{foreign}; {own}", f"{own}; {foreign}"):
        assert live.access.is_known(Headers({"cookie": cookie}))
    assert not live.access.is_known(Headers({"cookie": foreign}))


def test_health_needs_no_token_and_tells_nothing(stranger):
    for path in ("/health", "/v2/health/live", "/v2/health/ready"):
        assert stranger.get(path).json() == {"status": "ok"}


def test_the_link_works_once_and_leaves_a_cookie(live, stranger):
    link = {"token": live.access.link_token}
    answer = stranger.get("/", params=link)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert stranger.get("/api/session").status_code == 200  # the client keeps the cookie
    with httpx.Client(base_url=live.url) as other:
        assert other.get("/", params=link).status_code == 401
        assert other.get("/", params={"token": TOKEN}).status_code == 303  # that of programs opens any number of pages


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "[::2]", "", "localhost@x"]
)
def test_foreign_hosts_are_refused(live, stranger, host):
    for path in ("/api/session", "/health"):
        answer = stranger.get(path, headers={**BEARER, "Host": host})
        assert answer.status_code in (400, 403)  # h11 refuses what is no name at all
    assert answer.status_code == 400 or "--allow-host" in answer.json()["detail"]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:8000", "LOCALHOST", "[::1]", "[::1]:8000", "127.0.0.1:1"])
def test_names_of_this_machine_are_taken(stranger, host):
    assert stranger.get("/api/session", headers={**BEARER, "Host": host}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_other_pages_change_nothing(live, stranger, headers):
    answer = stranger.post("/api/images/example", headers={**BEARER, **headers})
    assert answer.status_code == 403
    assert "another page" in answer.json()["detail"]
    assert (
        stranger.get("/api/session", headers={**BEARER, **headers}).status_code == 200
    )  # reading is the browser's care


def test_the_own_page_may(live, stranger):
    headers = {**BEARER, "Origin": live.url, "Sec-Fetch-Site": "same-origin"}
    assert stranger.post("/api/models/current", json={"name": "tiny.ckpt"}, headers=headers).status_code == 200


def test_answers_bind_the_browser(live):
    for path in ("/api/session", "/nothing", "/health"):
        headers = live.client.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'self'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cache-control"] == "no-store"
        assert "access-control-allow-origin" not in headers


@pytest.mark.parametrize(
    "path",
    [
        "/static/../http_app.py",
        "/static/..%2fhttp_app.py",
        "/static/%2e%2e/http_app.py",
        "/static//etc/passwd",
        "/api/images/..%2f..%2f/meta",
        "/api/images/%2e%2e/table.bin",
        "/api/images/../../etc/passwd",
    ],
)
def test_paths_lead_nowhere_else(live, path):
    answer = ask(  # no client's, which would clean the path
        live, f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {TOKEN}\r\nConnection: close\r\n\r\n"
    )
    assert answer.split()[1] in (b"404", b"405")
    assert b"def " not in answer
    assert b"root:" not in answer


def test_bodies_are_bounded(live):
    head = f"POST /api/images HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n"
    assert ask(live, f"{head}Content-Length: {1 << 40}\r\n\r\n").split()[1] == b"413"  # nothing of it is waited for

    kind = {"Content-Type": "application/json"}
    answer = live.client.post("/api/images/x/edits", content=repeat(b" " * 65536, 400), headers=kind)  # 25 MB
    assert answer.status_code == 413
    assert "16 MB" in answer.json()["detail"]
    with suppress(httpx.TransportError):  # who never stops sending may not see the answer
        assert live.client.post("/api/images/x/edits", content=repeat(b" " * 65536), headers=kind).status_code == 413
    assert live.client.get("/health").status_code == 200


def test_uploads_that_never_end_are_ended(tiny_model, tmp_path):
    with run_server(tiny_model, tmp_path / "serve", Limits(body_bytes=1 << 20, idle_seconds=0.3)) as live:
        boundary = "xyz"
        head = b'--xyz\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
        kind = {"Content-Type": f"multipart/form-data; boundary={boundary}"}

        for path in ("/api/images", "/api/predict"):
            answer = live.client.post(path, content=chain([head], repeat(b"\0" * 65536, 25)), headers=kind)
            assert answer.status_code == 413
            assert "1 MB" in answer.json()["detail"]
            with suppress(httpx.TransportError):
                endless = chain([head], repeat(b"\0" * 65536))
                assert live.client.post(path, content=endless, headers=kind).status_code == 413
        answer = ask(
            live,
            f"POST /api/images HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\nContent-Type: "
            f"{kind['Content-Type']}\r\nContent-Length: 1000\r\n\r\n{head.decode()}",
        )
        assert answer.split()[1] == b"408"  # nothing more comes
        assert live.upload(("a.png", encode(make_cells()))).status_code == 200
        assert not list((tmp_path / "serve" / "images").glob("*.new"))


def test_others_need_a_token():
    for host in ("0.0.0.0", "::", "192.168.1.5", "example.org"):
        with pytest.raises(PlanError, match="--token-file"):
            Access.choose(host, 8000, None)
        access = Access.choose(host, 8000, "x" * 16)
        access.check_host("10.0.0.7:8000")  # no name, so that no name server can lie about it
    for host in ("127.0.0.1", "localhost", "::1", "[::1]", "127.8.8.8"):
        assert len(Access.choose(host, 8000, None).token) > 30


@pytest.mark.parametrize("token", ["", "short", "x" * 15, "with a line\nbreak and more", "ä" * 20])
def test_tokens_that_can_be_guessed_or_sent_wrong_are_refused(token):
    with pytest.raises(PlanError, match="at least 16"):
        Access.choose("0.0.0.0", 8000, token)


def test_tokens_are_read_from_files(tmp_path):
    (tmp_path / "token").write_text(" abc\n")
    assert read_token(tmp_path / "token") == "abc"
    with pytest.raises(PlanError, match="nothing"):
        read_token(tmp_path / "nothing")
