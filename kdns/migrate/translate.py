"""From the server blocks of a Corefile to options of kdns, or of nodelocal; every directive is accounted for.

| a directive                               | becomes                                                                |
|-------------------------------------------|------------------------------------------------------------------------|
| one whose work an option does             | that option                                                            |
| one whose work is always done here        | a note that says so                                                    |
| one that has no counterpart               | a note that names it, and what to do instead                           |
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from typing import Any, Final

from kdns.migrate.corefile import Directive, ServerBlock
from kdns.migrate.imported import Imported, Note
from kdns.options import collector_from_text

BUILT_IN: Final = {
    "loop": "always on: nodelocal looks for loops by itself, and no upstream may be this server",
    "loadbalance": "always on: addresses take turns",
    "reload": "the file that --config names is followed by itself, and read again on SIGHUP",
    "any": "always on: ANY gets one record (RFC 8482)",
    "minimal": "always on: answers are minimal",
    "bufsize": "always on: 1232 octets over UDP (RFC 9715)",
    "nsid": "no identity is told",
    "chaos": "no version is told to class CH",
    "metadata": "nothing needs it here",
    "pprof": "no profiler is served",
    "trace": "no traces are made",
    "debug": "never turned on: errors are logged with what caused them",
    "cancel": "always on: questions end before their clients give up",
    "multisocket": "--workers says how many processes answer",
    "shed": "always on: clients take turns where more comes than there is time for",
}
NO_COUNTERPART: Final = {
    "template": "no answers made of patterns: static records (record) for names that are known",
    "file": "no zone files: static records (record), or a server of their own behind a stub of nodelocal",
    "auto": "no zone files: a server of their own behind a stub of nodelocal",
    "secondary": "kdns is nobody's secondary",
    "dnssec": "answers are not signed",
    "sign": "answers are not signed",
    "acl": "no access rules: a NetworkPolicy",
    "view": "no views: two servers",
    "etcd": "no etcd",
    "dns64": "no DNS64",
    "erratic": "for tests only",
    "whoami": "for tests only",
    "route53": "no clouds' zones",
    "azure": "no clouds' zones",
    "clouddns": "no clouds' zones",
    "geoip": "no places of clients",
    "grpc": "no gRPC",
    "quic": "no QUIC",
    "tsig": "no keys: transfers are allowed by address",
    "nomad": "no Nomad",
}
_IN_HOSTS: Final = {
    "fallthrough": "what a hosts file lacks is looked for elsewhere",
    "reload": "hosts files are followed as they change",
    "ttl": "names of a hosts file have the TTL of --ttl; a record may have its own",
}
_IN_FORWARD: Final = {
    "max_concurrent": "1024 questions are on their way at most",
    "policy": "servers are asked by how well they answer",
    "max_fails": "one that does not answer is asked last for a while",
    "health_check": "servers are watched by the questions themselves",
    "expire": "connections stay open while they are used",
    "prefer_udp": "UDP first, unless an upstream is tcp:// or tls://",
    "failfast_all_unhealthy_upstreams": "all are tried, within what clients wait",
    "failover": "REFUSED, SERVFAIL and silence go to the next server",
    "next": "REFUSED, SERVFAIL and silence go to the next server",
    "max_age": "connections stay open while they are used",
}
_IN_KUBERNETES: Final = {
    "startup_timeout": "clients are answered from the start on",
    "apiserver_qps": "requests are few: one watch for each kind",
    "apiserver_burst": "requests are few: one watch for each kind",
    "apiserver_max_inflight": "requests are few: one watch for each kind",
    "upstream": "CNAMEs are followed by themselves",
    "resyncperiod": "--compare-every compares",
    "transfer": "",
}


_KEY: Final = re.compile(r"^(?:(dns|tls|https|grpc|quic)://)?(.*?)(?::(\d+))?$")


class Translator:
    """Translates what stands in *where* for *program*."""

    def __init__(self, where: str, program: str) -> None:
        self._where = where
        self._imported = Imported(program, {}, [], set())
        self._is_node = program == "nodelocal"
        self._zones: list[str] = []
        self._port = 53
        self._scheme = "dns"
        self._line = 0
        self._bound_at = 0

    def translate(self, blocks: list[ServerBlock]) -> Imported:
        """Translate a whole file; nothing raises, what cannot be kept is noted."""
        for block in blocks:
            self._zones, self._port, self._scheme = [], 53, "dns"
            for key in block.keys:
                match = _KEY.match(key)
                assert match is not None  # it matches everything
                scheme, zone, port = match.groups()
                self._scheme = scheme or "dns"
                self._port = int(port or (853 if scheme == "tls" else 53))
                self._zones.append(_network_or_zone(zone))
            if self._scheme not in ("dns", "tls"):
                self._note(block.line, f"{self._scheme}://: no counterpart; DNS over TLS is listen-tls", is_lost=True)
            binds = [one for one in block.directives if one.name == "bind"]
            bound = [argument for one in binds for argument in one.arguments]
            self._bound_at = binds[0].line if binds else block.line
            for address in [one for one in bound if one != "except"] or ["[::]"] * (not self._is_node):
                self._listen(address)
            for directive in block.directives:
                self._line = directive.line
                self._one(directive)
        if self._is_node:
            self._find_the_cluster()
        return self._imported

    def _find_the_cluster(self) -> None:
        """Have the servers of the reverse zones be those of the cluster: a Corefile with its addresses filled in."""
        options = self._imported.options
        stubs = dict(stub.split("=", 1) for stub in options.get("stub", ()))
        servers = stubs.get("in-addr.arpa") or stubs.get("ip6.arpa")
        if "cluster" in options or servers is None:
            return
        zones = [zone for zone, its in stubs.items() if its == servers]
        options["cluster"] = servers.split(",")
        if names := [zone for zone in zones if not zone.endswith(".arpa")]:
            options["cluster-zone"] = names
        options["stub"] = [f"{zone}={its}" for zone, its in stubs.items() if zone not in zones]
        if not options["stub"]:
            del options["stub"]
        if "service-address" not in options:
            text = "with --setup-network, --service-address says which addresses of the cluster's DNS to answer at, too"
            self._note(self._bound_at, text)

    # -- what is written ------------------------------------------------------------------------------------------

    def _set(self, name: str, value: Any) -> None:
        self._imported.settled.add(self._line)
        self._imported.options[name] = value

    def _add(self, name: str, *values: str) -> None:
        self._imported.settled.add(self._line)
        some = self._imported.options.setdefault(name, [])
        some += [value for value in values if value not in some]

    def _note(self, line: int, text: str, *, is_lost: bool = False) -> None:
        self._imported.notes.append(Note(self._where, line, text, is_lost))

    def _done(self, directive: Directive, text: str) -> None:
        self._note(directive.line, f"{directive.name}: {text}")

    def _lost(self, directive: Directive, text: str) -> None:
        self._note(directive.line, f"{directive.name}: no counterpart; {text}", is_lost=True)

    # -- directives -----------------------------------------------------------------------------------------------

    def _one(self, directive: Directive) -> None:
        handler: Callable[[Directive], None] | None = getattr(self, f"_on_{directive.name}", None)
        if handler is not None:
            handler(directive)
        elif directive.name in BUILT_IN:
            self._done(directive, BUILT_IN[directive.name])
        else:
            self._lost(directive, NO_COUNTERPART.get(directive.name, "nothing here does its work"))

    def _on_bind(self, directive: Directive) -> None:
        """The listeners are written from it already."""
        self._imported.settled.add(directive.line)

    def _listen(self, address: str) -> None:
        if self._is_node and self._is_of_the_service(address):
            return
        found = self._imported.options.setdefault("listen-tls" if self._scheme == "tls" else "listen", [])
        for one in address.replace("__PILLAR__LOCAL__DNS__", "169.254.20.10").split(","):
            text = (
                f"[{one}]:{self._port}" if ":" in one.strip("[]") and not one.startswith("[") else f"{one}:{self._port}"
            )
            if text not in found:
                found.append(text)

    def _is_of_the_service(self, address: str) -> bool:
        """Take an address that is the cluster DNS Service's and not the node's own: nodelocal is told of it apart."""
        self._imported.options.setdefault("setup-network", True)
        if "__PILLAR__DNS__SERVER__" in address:
            text = "bind __PILLAR__DNS__SERVER__: set service-address to the address of the cluster DNS Service"
            if not any(note.text == text for note in self._imported.notes):
                self._note(self._bound_at, text)
            if "__PILLAR__LOCAL__DNS__" not in address:
                return True
        try:
            found = ipaddress.ip_address(address.strip("[]"))
        except ValueError:
            return False
        if found.is_link_local or address.startswith("fd00:a9fe"):
            return False
        some = self._imported.options.setdefault("service-address", [])
        some += [address] if address not in some else []
        return True

    def _on_errors(self, directive: Directive) -> None:
        self._set("log-errors", True)
        for inner in directive.block:
            self._done(inner, "of errors: each is logged by itself")

    def _on_log(self, directive: Directive) -> None:
        self._set("log-queries", True)
        for inner in directive.block:
            self._lost(inner, "of log: all queries are logged, in CoreDNS's usual form")

    def _on_dnstap(self, directive: Directive) -> None:
        target = next(iter(directive.arguments), "")
        if target.startswith(("unix://", "/")):
            collector = f"unix:{target.removeprefix('unix://')}"
        elif target.startswith("tcp://"):
            collector = target
        else:
            self._lost(directive, "dnstap goes to a Unix socket or to tcp://ADDR:PORT")
            return
        try:
            collector_from_text(collector)
        except ValueError as exc:
            self._lost(directive, f"dnstap goes to an address, not a name ({exc})")
            return
        self._set("dnstap", collector)
        self._done(directive, "whole messages are sent, as with full")

    def _on_health(self, directive: Directive) -> None:
        self._admin(directive.arguments[0] if directive.arguments else ":8080")
        for inner in directive.block:
            if inner.name == "lameduck" and inner.arguments and (found := re.fullmatch(r"(\d+)s", inner.arguments[0])):
                self._line = inner.line
                self._set("lameduck", int(found[1]))
            else:
                self._lost(inner, "of health: whole seconds of lameduck alone")

    def _on_prometheus(self, directive: Directive) -> None:
        self._admin(directive.arguments[0] if directive.arguments else ":9153")

    def _on_ready(self, directive: Directive) -> None:
        self._admin(directive.arguments[0] if directive.arguments else ":8181")

    def _admin(self, address: str) -> None:
        self._imported.settled.add(self._line)
        host, _, port = address.rpartition(":")
        host = host.replace("__PILLAR__LOCAL__DNS__", "127.0.0.1")
        self._add("admin", f"{host or '[::]'}:{port}")

    def _on_kubernetes(self, directive: Directive) -> None:
        if self._is_node:
            self._lost(directive, "nodelocal has no objects: this is a Corefile of the cluster's own DNS, for kdns")
            return
        zones = [_network_or_zone(zone) for zone in directive.arguments] or self._zones
        for zone in zones:
            self._add("reverse" if zone.endswith((".arpa", "/")) or "/" in zone else "zone", zone)
        for inner in directive.block:
            self._line = inner.line
            self._in_kubernetes(inner)

    def _in_kubernetes(self, inner: Directive) -> None:
        match inner.name, inner.arguments:
            case "endpoint", [_, *_] if "kubeconfig" in self._imported.options:
                self._done(inner, "of kubernetes: the kubeconfig says which server")
            case "endpoint", [url, *_]:
                self._set("api-server", url)
            case "kubeconfig", [file, *context]:
                if self._imported.options.pop("api-server", None) is not None:
                    self._done(inner, "of kubernetes: it says which server, in place of endpoint")
                self._set("kubeconfig", file)
                if context:
                    self._set("context", context[0])
            case "namespaces", names:
                self._add("namespace", *names)
            case "labels", words:
                self._set("labels", " ".join(words))
            case "namespace_labels", words:
                self._set("namespace-labels", " ".join(words))
            case "pods", [mode] if mode in ("disabled", "insecure", "verified"):
                self._set("pods", mode)
            case "endpoint_pod_names", _:
                self._set("endpoint-pod-names", True)
            case "ttl", [seconds] if seconds.isdigit():
                self._set("ttl", int(seconds))
            case "noendpoints", _:
                self._set("endpoints", "none")
            case "ignore", ["empty_service"]:
                self._set("ignore-empty-service", True)
            case "multicluster", zones:
                self._add("clusterset-zone", *zones)
            case "fallthrough", zones:
                of = f" for {' '.join(zones)}" if zones else ""
                self._done(inner, f"reverse names that the cluster lacks go to the upstreams, if there are some{of}")
            case "tls", _:
                self._lost(inner, "of kubernetes: credentials are those of a kubeconfig")
            case name, _ if name in _IN_KUBERNETES:
                self._done(inner, _IN_KUBERNETES[name])
            case _:
                self._lost(inner, "of kubernetes: nothing here does its work")

    def _on_forward(self, directive: Directive) -> None:
        if len(directive.arguments) < 2:
            self._lost(directive, "a forward without servers")
            return
        source, *targets = directive.arguments
        name = next((one.arguments[0] for one in directive.block if one.name == "tls_servername" and one.arguments), "")
        force_tcp = any(one.name == "force_tcp" for one in directive.block)
        servers = [_server(target, name, force_tcp=force_tcp) for target in targets]
        zone = self._zones[0] if source == "." and self._zones else source
        is_cluster = any("PILLAR__CLUSTER__DNS" in target for target in targets)
        if self._is_node and is_cluster:
            self._set("cluster", ["kubernetes"])
            if not zone.endswith(".arpa"):
                self._add("cluster-zone", _pillars(zone))
        elif any("__PILLAR__UPSTREAM__SERVERS__" in target for target in targets):
            self._add("upstream", "/etc/resolv.conf")
        elif zone in (".", ""):
            self._add("upstream", *servers)
        elif self._is_node:
            self._add("stub", f"{_pillars(zone)}={','.join(servers)}")
        else:
            self._lost(
                directive, f"kdns asks its upstreams for all zones alike; nodelocal: --stub {zone}={','.join(servers)}"
            )
        for inner in directive.block:
            if inner.name in ("force_tcp", "tls_servername"):
                self._imported.settled.add(inner.line)
            elif inner.name in _IN_FORWARD:
                self._done(inner, f"of forward: {_IN_FORWARD[inner.name]}")
            elif inner.name == "tls":
                self._done(
                    inner, "of forward: tls:// servers are checked against the system's authorities, or --tls-ca"
                )
            else:
                self._lost(inner, "of forward: nothing here does its work")

    def _on_cache(self, directive: Directive) -> None:
        if not self._is_node:
            self._done(directive, "what is of the cluster needs none; what is outside is nodelocal's to keep")
        else:
            seconds = [argument for argument in directive.arguments if argument.isdigit()]
            if seconds:
                self._set("max-ttl", max(int(seconds[0]), self._imported.options.get("max-ttl", 0)))
            else:
                self._done(directive, "always on, by memory: --cache-size")
        for inner in directive.block:
            self._line = inner.line
            numbers = [int(argument) for argument in inner.arguments if argument.isdigit()]
            if self._is_node and inner.name == "success" and len(numbers) > 1:
                self._set("max-ttl", max(numbers[1], self._imported.options.get("max-ttl", 0)))
            elif self._is_node and inner.name == "denial" and len(numbers) > 1:
                self._set("max-negative-ttl", max(numbers[1], self._imported.options.get("max-negative-ttl", 0)))
            elif inner.name == "serve_stale":
                self._done(inner, "of cache: always on in nodelocal, --max-stale says for how long")
            elif inner.name == "disable":
                self._done(inner, "of cache: nodelocal is told of changes of the cluster's names, and keeps them")
            elif not self._is_node:
                self._done(inner, "of cache: what is of the cluster needs none")
            else:
                self._done(inner, "of cache: nodelocal keeps by memory (--cache-size) and renews what is asked for")

    def _on_hosts(self, directive: Directive) -> None:
        for argument in directive.arguments:
            if "/" in argument:
                self._add("hosts", argument)
        for inner in directive.block:
            self._line = inner.line
            try:
                address = ipaddress.ip_address(inner.name)
            except ValueError:
                if inner.name == "no_reverse":
                    self._lost(inner, "of hosts: reverse names are given as well")
                else:
                    self._done(inner, f"of hosts: {_IN_HOSTS.get(inner.name, 'nothing needs it here')}")
                continue
            kind = "A" if address.version == 4 else "AAAA"
            self._add("record", *(f"{name} {kind} {address}" for name in inner.arguments))

    def _on_rewrite(self, directive: Directive) -> None:
        words = [word for word in directive.arguments if word not in ("stop", "continue")]
        match words:
            case ["name", "exact", source, target] | ["name", source, target]:
                self._add("rewrite", f"{source.rstrip('.')}={target.rstrip('.')}")
            case ["name", "suffix", source, target, *_]:
                self._add("rewrite", f"*.{source.strip('.')}=*.{target.strip('.')}")
            case _:
                self._lost(directive, f"names alone, whole or by suffix ({directive.text})")
        for inner in directive.block:
            self._done(inner, "of rewrite: answers have the name that was asked for")

    def _on_k8s_external(self, directive: Directive) -> None:
        self._add("external-zone", *directive.arguments)
        for inner in directive.block:
            self._done(inner, "of k8s_external: by itself")

    def _on_transfer(self, directive: Directive) -> None:
        for inner in directive.block:
            self._line = inner.line
            for argument in inner.arguments:
                if argument == "*":
                    self._add("transfer-to", "0.0.0.0/0", "::/0")
                else:
                    self._add("transfer-to", argument)
                    self._add("notify", argument)
        self._imported.settled.add(directive.line)

    def _on_tls(self, directive: Directive) -> None:
        if len(directive.arguments) >= 2:
            self._set("tls-cert", directive.arguments[0])
            self._set("tls-key", directive.arguments[1])
        else:
            self._lost(directive, "a certificate and a key")

    def _on_autopath(self, directive: Directive) -> None:
        self._done(directive, "nodelocal does it for its node's pods, for every client's own search path: --expand")

    def _on_import(self, directive: Directive) -> None:
        self._lost(directive, f"import that file as well: {' '.join(directive.arguments)}")


def _network_or_zone(zone: str) -> str:
    zone = _pillars(zone)
    if zone == ".":
        return zone
    return zone.rstrip(".")


def _pillars(text: str) -> str:
    return text.replace("__PILLAR__DNS__DOMAIN__", "cluster.local")


def _server(target: str, name: str, *, force_tcp: bool) -> str:
    scheme, found, rest = target.partition("://")
    if not found:
        if force_tcp and "/" not in target:
            return f"tcp://{target}"
        return target
    if scheme == "tls":
        return f"tls://{rest}" + (f"#{name}" if name else "")
    return f"tcp://{rest}" if force_tcp else rest
