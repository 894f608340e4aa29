from __future__ import annotations

import ipaddress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from embedway.media.addresses import InvalidHost, canonical_host, is_public, parse_address

CLOSED = (
    *("0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "100.127.255.255", "127.0.0.1", "127.255.255.254"),
    *("169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.1", "192.0.0.9", "192.0.2.1", "192.88.99.1"),
    *("192.168.1.1", "198.18.0.1", "198.19.255.255", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.255"),
    *("240.0.0.1", "255.255.255.255"),
    *("::", "::1", "::127.0.0.1", "::8.8.8.8", "::ffff:127.0.0.1", "::ffff:169.254.169.254", "::ffff:8.8.8.8"),
    *("64:ff9b::127.0.0.1", "64:ff9b::10.0.0.1", "64:ff9b::169.254.169.254", "64:ff9b:1::8.8.8.8", "100::1"),
    *(
        "2001::1",
        "2001:2::1",
        "2001:10::1",
        "2001:20::1",
        "2001:1ff::1",
        "2001:db8::1",
        "2002:7f00:1::",
        "2002:808:808::",
    ),
    *("3fff::1", "3fff:fff:ffff::", "4000::1", "5f00::1", "fc00::1", "fd12:3456::1", "fe80::1", "fe80::1%eth0"),
    *("fec0::1", "ff02::1", "ff0e::1"),
)
PUBLIC = (
    *("1.1.1.1", "8.8.8.8", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "126.255.255.255"),
    *("169.253.255.255", "172.15.255.255", "172.32.0.0", "192.0.1.0", "192.167.255.255", "198.17.255.255"),
    *("198.20.0.0", "223.255.255.255"),
    *("2001:200::1", "2001:4860:4860::8888", "2003::1", "2606:4700::1111", "2a00:1450::1", "3ffe::1"),
    *("64:ff9b::8.8.8.8",),
)


@pytest.mark.parametrize("text", CLOSED)
def test_addresses_of_this_machine_of_private_and_of_special_networks_are_not_public(text: str) -> None:
    assert not is_public(ipaddress.ip_address(text))


@pytest.mark.parametrize("text", PUBLIC)
def test_all_others_are_public_up_to_the_edges(text: str) -> None:
    assert is_public(ipaddress.ip_address(text))


@given(st.ip_addresses())
@example(ipaddress.ip_address("192.0.0.8"))
def test_nothing_is_public_that_python_knows_as_closed(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    if is_public(address) and address not in ipaddress.ip_network("64:ff9b::/96"):
        assert not address.is_private
        assert not address.is_multicast
        assert not address.is_reserved


@pytest.mark.parametrize(
    ("spelled", "canonical"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("127.0.0.1.", "127.0.0.1"),
        ("127.1", "127.0.0.1"),
        ("127.0.1", "127.0.0.1"),
        ("2130706433", "127.0.0.1"),
        ("017700000001", "127.0.0.1"),
        ("0x7f000001", "127.0.0.1"),
        ("0X7F.1", "127.0.0.1"),
        ("0x7f.0.0.0x1", "127.0.0.1"),
        ("0177.0.0.01", "127.0.0.1"),
        ("１２７.０.０.１", "127.0.0.1"),
        ("127。0。0。1", "127.0.0.1"),
        ("0", "0.0.0.0"),
        ("[::1]", "::1"),
        ("0:0:0:0:0:0:0:1", "::1"),
        ("[::FFFF:127.0.0.1]", str(ipaddress.ip_address("::ffff:7f00:1"))),
        ("LocalHost", "localhost"),
        ("Example.COM.", "example.com"),
        ("BÜCHER.example", "xn--bcher-kva.example"),
        ("ｅxample.com", "example.com"),
        ("my_host-1.internal", "my_host-1.internal"),
        ("a" * 63 + ".b", "a" * 63 + ".b"),
    ],
)
def test_every_spelling_of_a_host_becomes_one(spelled: str, canonical: str) -> None:
    assert canonical_host(spelled) == canonical


@pytest.mark.parametrize(
    "spelled",
    [
        *(
            "",
            ".",
            "..",
            "a..b",
            ".a",
            "a..",
            "-a.com",
            "a b",
            "a/b",
            "a@b",
            "a\\b",
            "a%2eb",
            "%31.1",
            "a\tb",
            "a\n",
            "*",
        ),
        *(
            "a" * 64,
            ".".join(["abc"] * 64),
            "1.2.3.4.5",
            "256.1.1.1",
            "1.2.3.0x",
            "08.1.1.1",
            "a.b.0x1ff",
            "1.2.3.999",
        ),
        *("[::1", "::1]", "[::1%eth0]", "fe80::1%25eth0", "[1.2.3.4]:", "1::2::3", "[]", "a:b", "\ud800", "ab--\u200b"),
    ],
)
def test_what_is_no_host_is_refused(spelled: str) -> None:
    with pytest.raises(InvalidHost):
        canonical_host(spelled)


@given(st.text(max_size=40))
def test_a_canonical_host_stays_as_it_is(text: str) -> None:
    try:
        host = canonical_host(text)
    except InvalidHost:
        return
    assert canonical_host(host) == host
    assert host.isascii()


@given(st.ip_addresses(v=4), st.sampled_from(["{}", "{:#x}", "0{:o}"]))
def test_an_ipv4_address_is_itself_however_it_is_spelled(address: ipaddress.IPv4Address, form: str) -> None:
    assert parse_address(canonical_host(form.format(int(address)))) == address
