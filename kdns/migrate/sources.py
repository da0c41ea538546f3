"""What can be imported: a Corefile, a ConfigMap that has one, kube-dns's ConfigMap."""

from __future__ import annotations

import json

import yaml

from kdns.errors import ConfigError, Problem
from kdns.migrate.corefile import read_corefile, ServerBlock
from kdns.migrate.imported import Imported, Note
from kdns.migrate.translate import Translator


def import_text(text: str, where: str, program: str | None = None) -> Imported:
    """Read a Corefile, or a ConfigMap that has one or has ``stubDomains``. Raises ConfigError."""
    if (found := _config_map(text)) is not None:
        data, lines = found
        if "Corefile" in data:
            imported = import_text("\n" * lines["Corefile"] + data["Corefile"], where, program)
            for path in imported.options.get("hosts", ()):
                if (key := path.rpartition("/")[2]) in data:
                    text = f"hosts {path}: the key {key} of this ConfigMap; mount it there"
                    imported.notes.append(Note(where, lines["Corefile"], text, is_lost=False))
            return imported
        return _from_kube_dns(data, lines, where)
    blocks = read_corefile(text, where)
    chosen = program or ("nodelocal" if _is_node_cache(blocks) else "kdns")
    return Translator(where, chosen).translate(blocks)


def _config_map(text: str) -> tuple[dict[str, str], dict[str, int]] | None:
    if "ConfigMap" not in text:
        return None
    try:
        documents = [
            one for one in yaml.safe_load_all(text) if isinstance(one, dict) and one.get("kind") == "ConfigMap"
        ]
    except yaml.YAMLError:
        return None
    for document in documents:
        data = document.get("data") or {}
        keys = [key for key in ("Corefile", "stubDomains", "upstreamNameservers") if key in data]
        if keys:
            starts = {
                key: next(
                    at
                    for at, line in enumerate(text.splitlines(), 1)
                    if line.strip().lstrip('"').startswith((f"{key}:", f'{key}":'))
                )
                for key in keys
            }
            return data, starts
    return None


def _from_kube_dns(data: dict[str, str], lines: dict[str, int], where: str) -> Imported:
    """Read what kube-dns's ConfigMap has (``stubDomains``, ``upstreamNameservers``): JSON in strings."""
    imported = Imported("nodelocal", {}, [], set())
    for key, name in (("upstreamNameservers", "upstream"), ("stubDomains", "stub")):
        if key not in data:
            continue
        try:
            value = json.loads(data[key])
        except ValueError as exc:
            raise ConfigError([Problem(f"{where}:{lines[key]}", f"{key}: {exc}", "JSON")]) from exc
        if key == "stubDomains":
            value = [f"{zone}={','.join(map(str, servers))}" for zone, servers in value.items()]
        imported.options[name] = value
        imported.settled.add(lines[key])
    return imported


def _is_node_cache(blocks: list[ServerBlock]) -> bool:
    words = [word for block in blocks for one in block.directives for word in (*one.arguments, one.name)]
    has_cluster = any(one.name == "kubernetes" for block in blocks for one in block.directives)
    return not has_cluster and any("__PILLAR__" in word or word.startswith("169.254.") for word in words)
