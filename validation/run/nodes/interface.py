"""Through which network interface this machine reaches another node. No torch."""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import socket
import struct
from pathlib import Path

_ASK_ADDRESS = 0x8915  # SIOCGIFADDR
_ANSWER = 256
_NAME = 15
_IPV6 = Path("/proc/net/if_inet6")


def of_address(address: str) -> str | None:
    """The interface that has this address of the machine, None if none has. An IPv4 address in IPv6 is the former."""
    wanted = ipaddress.ip_address(address.partition("%")[0])
    wanted = getattr(wanted, "ipv4_mapped", None) or wanted
    if wanted.is_loopback:
        return "lo"
    if isinstance(wanted, ipaddress.IPv6Address):
        return _of_ipv6(wanted)
    return next((name for _, name in socket.if_nameindex() if _ipv4(name) == wanted), None)


def _ipv4(name: str) -> ipaddress.IPv4Address | None:
    """The first IPv4 address of an interface (netdevice(7))."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking, contextlib.suppress(OSError):
        answer = fcntl.ioctl(asking, _ASK_ADDRESS, struct.pack(f"{_ANSWER}s", name.encode()[:_NAME]))
        return ipaddress.IPv4Address(answer[20:24])
    return None


def _of_ipv6(wanted: ipaddress.IPv6Address) -> str | None:
    for line in _IPV6.read_text().splitlines() if _IPV6.exists() else ():
        digits, *_, name = line.split()
        if ipaddress.IPv6Address(bytes.fromhex(digits)) == wanted:
            return name
    return None


def variables(address: str) -> dict[str, str]:
    """What tells gloo and NCCL to take the interface with this address; nothing if none is known to have it.

    NCCL takes every interface whose name begins so, unless `=` stands before it.
    """
    name = of_address(address)
    return {} if name is None else {"GLOO_SOCKET_IFNAME": name, "NCCL_SOCKET_IFNAME": f"={name}"}
