"""Addresses that only this machine reaches: the fake controller has no password."""

from __future__ import annotations

import argparse
import ipaddress


def is_loopback(host: str) -> bool:
    """Returns whether `host` is an IPv4 address of the loopback, written as numbers: a name could
    lead anywhere."""
    try:
        return ipaddress.IPv4Address(host).is_loopback
    except ValueError:
        return False


def loopback(host: str) -> str:
    """Returns an argument of the command line if it `is_loopback`."""
    if not is_loopback(host):
        raise argparse.ArgumentTypeError(f"{host!r} is no loopback address, 127.x.y.z")
    return host
