"""The nftables table that brings queries here while they are answered, and leaves them to the cluster when not.

Everything is decided by the kernel: no process has to notice that another died. ``docs/node.md`` says how it came to be
as it is.

| chain                | what it does                                                                                  |
|----------------------|-----------------------------------------------------------------------------------------------|
| ``take``             | pods' queries stay here, past conntrack, while a socket is open and the lease runs            |
| ``take_own``         | the same for the node's own, whose socket cannot be asked: the lease alone                    |
| ``reply``            | answers pass conntrack by, lease or none; a probe's renews the lease, a refusal ends it       |
| ``alias``            | without a lease the local address is another name of the Service's, before conntrack          |
| ``note_*``, ``back`` | and its answers get the local address again, after NAT                                        |
| ``own_source``       | the node's own queries to the cluster do not leave with an address that other nodes have, too |
"""

from __future__ import annotations

import hashlib
from typing import Final

from nodelocal.network.plan import LEASE_SECONDS, Plan, PROBE_PORT

TABLE: Final = "nodelocal"
FAMILY: Final = "inet"
MARKER: Final = "kdns_rules_"
"""How the name of the empty set begins that tells our table from another of its name; the rest is the text's hash."""

_FAMILIES: Final = (("4", "ip", "ipv4_addr"), ("6", "ip6", "ipv6_addr"))
_REFUSED: Final = {
    # an ICMP error that quotes a UDP datagram to port 53: where the quoted header begins differs by family
    "4": "icmp type destination-unreachable icmp code port-unreachable @th,64,8 0x45 @th,136,8 17 @th,240,16 53",
    "6": "icmpv6 type destination-unreachable icmpv6 code port-unreachable @th,112,8 17 @th,400,16 53",
}


def body(plan: Plan) -> str:
    """Return what stands in the table, without the set that marks it."""
    by_family = {
        "4": [one for one in plan.ours if ":" not in one],
        "6": [one for one in plan.ours if ":" in one],
    }
    lines: list[str] = []
    for family, _, kind in _FAMILIES:
        elements = f" elements = {{ {', '.join(by_family[family])} }};" if by_family[family] else ""
        lines.append(f"set ours{family} {{ type {kind};{elements} }}")
        lines.append(f"set alive{family} {{ type {kind}; size 16; flags dynamic, timeout; timeout {LEASE_SECONDS}s; }}")
    has_alias = bool(plan.aliases)
    fall = ["jump alias"] if has_alias else []
    ports = "meta l4proto { tcp, udp } th dport 53"

    def chain(name: str, *rules: str, hook: str = "") -> None:
        inner = [f"type {hook};", *rules] if hook else rules
        lines.extend((f"chain {name} {{", *(f"\t{line}" for line in inner), "}"))

    if has_alias:
        chain(
            "alias",
            *(
                f"{_ip(one)} daddr {one} meta mark set meta mark | {plan.mark:#x} {_ip(one)} daddr set {other}"
                for one, other in plan.aliases
            ),
        )
        chain("back", *(f"{_ip(one)} saddr {other} {_ip(one)} saddr set {one}" for one, other in plan.aliases))
    chain("take", *(f"socket transparent 0 {ip} daddr @alive{n} notrack return" for n, ip, _ in _FAMILIES), *fall)
    chain(
        "take_own",
        # The probe reaches the socket with or without a lease: over TCP as over UDP.
        *(f"{ip} daddr @ours{n} meta l4proto {{ tcp, udp }} th sport {PROBE_PORT} notrack return"
          for n, ip, _ in _FAMILIES),
        *(f"{ip} daddr @alive{n} notrack return" for n, ip, _ in _FAMILIES),
        *fall,
    )  # fmt: skip
    chain(
        "reply",
        "notrack",
        *(f"{ip} daddr @ours{n} udp dport {PROBE_PORT} @th,92,4 0 update @alive{n} {{ {ip} saddr }}"
          for n, ip, _ in _FAMILIES),
        *(f"{ip} saddr @alive{n} tcp flags & (rst | ack) == rst | ack tcp sequence 0 delete @alive{n} {{ {ip} saddr }}"
          for n, ip, _ in _FAMILIES),
    )  # fmt: skip
    chain(
        "prerouting",
        'ct state untracked return comment "over lo: decided in output"',
        f"{ports} jump take",
        hook="filter hook prerouting priority raw",
    )
    chain(
        "output",
        f"{ports} jump take_own",
        *(f"{ip} saddr @ours{n} meta l4proto {{ tcp, udp }} th sport 53 jump reply" for n, ip, _ in _FAMILIES),
        *(f"{ip} saddr @alive{n} {_REFUSED[n]} delete @alive{n} {{ {ip} saddr }}" for n, ip, _ in _FAMILIES),
        hook="filter hook output priority raw",
    )
    if has_alias:
        note = [f"meta mark & {plan.mark:#x} != 0 ct mark set ct mark | {plan.mark:#x} return"]
        # One port that asks at both addresses: the answer has the name that was asked at last.
        note += [
            f"ct direction original ct mark & {plan.mark:#x} != 0 {_ip(other)} daddr {other} {ports} "
            f"ct mark set ct mark & {0xFFFFFFFF ^ plan.mark:#x}"
            for _, other in plan.aliases
        ]
        back = f"ct mark & {plan.mark:#x} != 0 ct direction reply jump back"
        chain("note_prerouting", *note, hook="filter hook prerouting priority mangle")
        chain("note_output", *note, hook="filter hook output priority mangle")
        chain("back_forwarded", back, hook="filter hook postrouting priority 110")
        chain("back_own", back, hook="filter hook input priority 110")
    chain(
        "own_source",
        *(f"{ip} saddr @ours{n} ct status dnat masquerade" for n, ip, _ in _FAMILIES),
        hook="nat hook postrouting priority srcnat - 5",
    )
    return "\n".join(lines)


def marker(plan: Plan) -> str:
    """Return the name of the set that says which rules stand in the table."""
    return MARKER + hashlib.sha256(body(plan).encode()).hexdigest()[:12]


def script(plan: Plan) -> str:
    """Return what ``nft -f`` takes: the table as it should be, in place of what it was, in one transaction."""
    table = f"table {FAMILY} {TABLE}"
    inner = "\n".join(f"\t{line}" for line in (f"set {marker(plan)} {{ type ipv4_addr; }}", *body(plan).split("\n")))
    return f"{table}\ndelete {table}\n{table} {{\n{inner}\n}}\n"


def _ip(address: str) -> str:
    return "ip6" if ":" in address else "ip"
