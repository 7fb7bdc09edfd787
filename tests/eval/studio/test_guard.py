"""Requests of other pages are refused: foreign hosts, foreign origins, bodies that a form could send."""

import pytest

from dcache.eval.studio.guard import is_loopback, refusal

LOCAL, JSON = "127.0.0.1:7861", {"content-type": "application/json"}


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": LOCAL}, None),
        ({"host": "localhost:7861"}, None),
        ({"host": "[::1]:7861"}, None),
        ({}, 403),
        ({"host": ""}, 403),
        ({"host": "evil.example:7861"}, 403),
        ({"host": "127.0.0.1.evil.example"}, 403),
        ({"host": "192.168.0.7:7861"}, 403),
        ({"host": "[broken"}, 403),
        ({"host": LOCAL, "origin": f"http://{LOCAL}"}, None),
        ({"host": LOCAL, "origin": "http://evil.example"}, 403),
        ({"host": LOCAL, "origin": "http://127.0.0.1:9999"}, 403),
        ({"host": LOCAL, "origin": "null"}, 403),
        ({"host": LOCAL, "origin": "http://[broken"}, 403),
        ({"host": LOCAL, "sec-fetch-site": "same-origin"}, None),
        ({"host": LOCAL, "sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}, 403),
        ({"host": LOCAL, "sec-fetch-site": "same-site", "sec-fetch-mode": "cors"}, 403),
        # A link of another page that leads here.
        ({"host": LOCAL, "sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}, None),
    ],
)
def test_who_may_read(headers: dict[str, str], status: int | None) -> None:
    refused = refusal("GET", headers, "127.0.0.1")
    assert (refused and refused[0]) == status


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (JSON, None),
        ({"content-type": "application/json; charset=utf-8"}, None),
        ({}, 415),
        ({"content-type": "text/plain"}, 415),
        ({"content-type": "application/x-www-form-urlencoded"}, 415),
        (JSON | {"origin": "http://evil.example"}, 403),
        (JSON | {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}, 403),
    ],
)
def test_who_may_start_work(headers: dict[str, str], status: int | None) -> None:
    refused = refusal("POST", {"host": LOCAL} | headers, "127.0.0.1")
    assert (refused and refused[0]) == status


@pytest.mark.parametrize(
    ("host", "name", "answered"),
    [
        ("0.0.0.0", "192.168.0.7:7861", True),
        ("0.0.0.0", "localhost:7861", True),
        ("0.0.0.0", "evil.example:7861", False),
        ("studio.lan", "studio.lan:7861", True),
        ("studio.lan", "evil.example", False),
    ],
)
def test_a_server_for_others_answers_to_addresses_and_its_own_name(
    host: str, name: str, answered: bool
) -> None:
    assert (refusal("GET", {"host": name}, host) is None) == answered


@pytest.mark.parametrize(
    ("host", "alone"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("LocalHost", True),
        ("", False),
        ("::", False),
    ],
)
def test_which_hosts_are_this_machine_alone(host: str, alone: bool) -> None:
    assert is_loopback(host) is alone
