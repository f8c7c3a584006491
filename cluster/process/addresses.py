"""Addresses of this machine only."""

import ipaddress


def is_loopback(host: str) -> bool:
    """Whether an address, or the name of one, is of this machine only."""
    if host.lower() == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback
