"""Ranks divided over nodes, interfaces, and files on their way."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import pytest

from validation.run.nodes import interface
from validation.run.nodes.channel import Lost
from validation.run.nodes.files import Incoming
from validation.run.nodes.shares import Share, at, divided


@pytest.mark.parametrize("ranks", range(1, 20))
@pytest.mark.parametrize("nodes", [1, 2, 3, 8])
def test_every_rank_has_one_node_and_no_node_much_more_than_another(ranks: int, nodes: int) -> None:
    found = divided(ranks, nodes)
    assert [rank for share in found for rank in share.ranks] == list(range(ranks))
    assert [share.node for share in found] == list(range(min(ranks, nodes)))
    counts = [share.count for share in found]
    assert max(counts) - min(counts) <= 1
    assert all(at(rank, found) is share for share in found for rank in share.ranks)
    assert at(ranks, found) is None
    assert at(None, found) is None


def test_ranks_are_told_as_a_reader_counts_them() -> None:
    assert [share.words for share in (Share(1, 3, 1), Share(1, 2, 4))] == ["rank 3", "ranks 2 to 5"]


def test_the_loopback_address_is_that_of_the_loopback_interface() -> None:
    for address in ("127.0.0.1", "127.0.0.2", "::1", "::ffff:127.0.0.1"):
        assert interface.variables(address) == {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "=lo"}


def test_the_interface_with_an_address_is_found_and_no_address_of_others() -> None:
    """Of every interface that has one here."""
    for _, name in socket.if_nameindex():
        own = interface._ipv4(name)
        if own is not None and not own.is_loopback:
            assert interface.of_address(str(own)) == name
    assert interface.of_address("192.0.2.1") is None
    assert interface.variables("192.0.2.1") == {}


def test_an_ipv6_address_is_found_in_what_the_kernel_lists(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    listed = tmp_path / "if_inet6"
    listed.write_text("20010db8000000000000000000000007 03 40 00 80     eth0\n")
    monkeypatch.setattr(interface, "_IPV6", listed)
    assert interface.of_address("2001:db8::7%eth0") == "eth0"
    assert interface.of_address("2001:db8::8") is None


def test_a_file_is_there_when_it_is_whole(tmp_path: Path) -> None:
    incoming = Incoming()
    incoming.begin({"name": "a/b.txt", "size": 5}, tmp_path)
    incoming.piece(b"hal")
    assert not (tmp_path / "a" / "b.txt").exists()
    incoming.piece(b"lo")
    assert (tmp_path / "a" / "b.txt").read_bytes() == b"hallo"
    incoming.begin({"name": "empty", "size": 0}, tmp_path)
    assert (tmp_path / "empty").read_bytes() == b""


def test_what_did_not_come_to_its_end_is_dropped(tmp_path: Path) -> None:
    incoming = Incoming()
    incoming.begin({"name": "half", "size": 5}, tmp_path)
    incoming.piece(b"ha")
    incoming.give_up()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["../up", "/root", "a/../b", "", ".hidden", "a//b", "a/.", "x\n"])
def test_a_name_that_leads_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(Lost, match="nobody asked for"):
        Incoming().begin({"name": name, "size": 1}, tmp_path)


def test_more_than_was_announced_or_of_another_kind_is_refused(tmp_path: Path) -> None:
    incoming = Incoming()
    with pytest.raises(Lost):
        incoming.piece(b"x")
    with pytest.raises(Lost):
        incoming.begin({"name": "rank-0.pid", "size": 1}, tmp_path, re.compile(r"rank-\d+\.json"))
    incoming.begin({"name": "a", "size": 1}, tmp_path)
    with pytest.raises(Lost):
        incoming.begin({"name": "b", "size": 1}, tmp_path)
    with pytest.raises(Lost):
        incoming.piece(b"xy")
