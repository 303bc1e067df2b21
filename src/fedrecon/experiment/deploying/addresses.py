"""Addresses of the form HOST:PORT, and which of them stay on this machine."""

import ipaddress

from fedrecon.errors import RunError


def split_address(address: str) -> tuple[str, int]:
    """The host and the port of an address.

    Args:
        address: HOST:PORT, with brackets around the host of IPv6: `"[::1]:443"`.

    Raises:
        RunError: The address is of another form.
    """
    host, colon, port = address.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    valid = colon and bare and port.isascii() and port.isdigit() and 0 < int(port) < 65536
    if (
        not valid
        or (":" in bare) != host.startswith("[")
        or any(c.isspace() or c in "/@;{}\"'" for c in bare)
    ):
        raise RunError(f"address must be HOST:PORT, such as fed.example.org:443, got {address!r}")
    return bare, int(port)


def host_of(address: str) -> str:
    """The host of an address, without brackets."""
    return split_address(address)[0]


def is_loopback(address: str) -> bool:
    """Whether an address is of this machine's loopback interface, so that nothing leaves the machine."""
    host = host_of(address)
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name, which may stand for any machine
        return False
