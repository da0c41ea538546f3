"""Objects from files: YAML or JSON, single, multi-document or ``List``, followed as they change.

A file that cannot be read, or one object in it that cannot be served, is a problem that names file, document and
field; what the file last said when it was good goes on being served, and other files are not touched by it.

A namespace that an object names and no Namespace object defines is taken to exist: a folder of manifests
rarely holds what the cluster already has.
"""

from __future__ import annotations

import difflib
import json
import logging
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import trio
import yaml

from kdns.control.sink import Sink
from kdns.errors import Problem
from kdns.files import follow
from zones.decode import convert_json, decode_json, Decoder, key_of, SERVICE_NAME_LABEL
from zones.errors import BadObject
from zones.json_errors import NOT_JSON
from zones.objects import Kind, Namespace, Object, ObjectKey, Service, ServiceImport
from zones.selectors import Scope
from zones.shapes import API_VERSIONS, Head, HeadMeta

log = logging.getLogger(__name__)

SUFFIXES: Final = frozenset({".yaml", ".yml", ".json"})
MAX_FILE_OCTETS: Final = 512 * 2**20

_KINDS: Final = {kind.value: kind for kind in Kind}

STEP_OBJECTS: Final = 200
"""Objects applied between two looks at the network: some milliseconds."""

MAX_DEPTH: Final = 100
"""Nesting in YAML: the API's objects stay below 30, and libyaml's composer crashes at some ten thousands."""

MAX_ALIASED_NODES: Final = 200_000
"""Nodes that the aliases of one YAML file may stand for together."""

Stamp = tuple[int, int, int]


class Loaded(msgspec.Struct):
    """What one file says: its objects by kind and name, the namespaces that it defines and those that it only names,
    what is wrong in it, and what was passed over."""

    objects: dict[tuple[Kind, ObjectKey], Object] = msgspec.field(default_factory=dict)
    defined: set[bytes] = msgspec.field(default_factory=set)
    named: set[bytes] = msgspec.field(default_factory=set)
    problems: list[Problem] = msgspec.field(default_factory=list)
    warnings: list[str] = msgspec.field(default_factory=list)
    notes: list[str] = msgspec.field(default_factory=list)


class ManifestReader:
    """Reads manifest files into objects of *kinds*; others are of no use."""

    def __init__(self, decoder: Decoder, scope: Scope, kinds: Collection[Kind]) -> None:
        self._decoder = decoder
        self._scope = scope
        self._kinds = frozenset(kinds)

    def read(self, path: Path) -> Loaded:
        """Read one file; whatever is wrong with it is in the result."""
        loaded = Loaded()
        try:
            if path.stat().st_size > MAX_FILE_OCTETS:
                raise OSError(0, f"larger than {MAX_FILE_OCTETS} octets")
            data = path.read_bytes()
        except OSError as exc:
            loaded.problems.append(Problem(str(path), exc.strerror or str(exc), "a readable file"))
            return loaded
        try:
            if path.suffix == ".json":
                self._read_json(data, str(path), loaded)
            else:
                self._read_yaml(data, str(path), loaded)
        except Exception as exc:  # noqa: BLE001 - PyYAML raises all sorts of things for what tags make of values
            loaded.problems.append(Problem(str(path), f"{type(exc).__name__}: {exc}", "an object of Kubernetes"))
        return loaded

    # -- JSON -----------------------------------------------------------------------------------------------------

    def _read_json(self, data: bytes, where: str, loaded: Loaded) -> None:
        try:
            json.loads(data, object_pairs_hook=_without_duplicates)
            whole = msgspec.json.decode(data, type=_JsonList)
        except (ValueError, msgspec.DecodeError, RecursionError) as exc:
            loaded.problems.append(Problem(where, str(exc), "one JSON object"))
            return
        if (whole.kind or "").endswith("List") and whole.items is not None:
            for number, item in enumerate(whole.items):
                self._take_json(item, f"{where}: items[{number}]", loaded, whole)
        else:
            self._take_json(msgspec.Raw(data), where, loaded, whole)

    def _take_json(self, text: msgspec.Raw, where: str, loaded: Loaded, whole: _JsonList) -> None:
        try:
            head = msgspec.json.decode(text, type=Head)
        except NOT_JSON as exc:
            loaded.problems.append(Problem(where, str(exc), "an object of Kubernetes"))
            return
        if head.kind is None and whole.kind != "List":
            # items of a typed list, as an API server sends them, leave their kind and version out
            head.kind = (whole.kind or "").removesuffix("List")
            head.api_version = whole.api_version
        self._take(head, where, loaded, lambda kind: decode_json(kind, text))

    # -- YAML -----------------------------------------------------------------------------------------------------

    def _read_yaml(self, data: bytes, where: str, loaded: Loaded) -> None:
        try:
            _check_expansion(data)
            documents = list(yaml.load_all(data, Loader=_Loader))
        except yaml.MarkedYAMLError as exc:
            mark = exc.problem_mark
            line = f" line {mark.line + 1}" if mark is not None else ""
            loaded.problems.append(Problem(f"{where}:{line}".rstrip(":"), str(exc.problem), "YAML without errors"))
            return
        except (yaml.YAMLError, ValueError, RecursionError) as exc:
            text = " ".join(str(exc).split())[:200] or type(exc).__name__
            loaded.problems.append(Problem(where, text, "YAML without errors"))
            return
        for number, document in enumerate(documents, start=1):
            place = f"{where}: document {number}" if len(documents) > 1 else where
            self._take_value(document, place, loaded)

    def _take_value(self, value: object, where: str, loaded: Loaded) -> None:
        if value is None:
            return  # an empty document, as between two separators
        try:
            head = msgspec.convert(value, Head)
        except msgspec.ValidationError as exc:
            loaded.problems.append(Problem(where, str(exc), "an object of Kubernetes"))
            return
        if isinstance(value, dict) and (head.kind or "").endswith("List") and isinstance(value.get("items"), list):
            for number, item in enumerate(value["items"]):
                if isinstance(item, dict) and head.kind != "List":
                    item.setdefault("kind", (head.kind or "").removesuffix("List"))
                    item.setdefault("apiVersion", head.api_version)
                self._take_value(item, f"{where}: items[{number}]", loaded)
            return
        self._take(head, where, loaded, lambda kind: convert_json(kind, value))

    # -- either ---------------------------------------------------------------------------------------------------

    def _take(self, head: Head, where: str, loaded: Loaded, shape: Callable[[Kind], Any]) -> None:
        if not head.kind:
            loaded.problems.append(Problem(f"{where}: kind", repr(head.kind), "the kind of an object"))
            return
        meta = head.metadata or HeadMeta()
        kind = _KINDS.get(head.kind)
        if kind not in self._kinds or head.api_version not in API_VERSIONS[kind]:
            use = "of no use to DNS"
            if kind is not None and head.api_version in API_VERSIONS[kind]:
                use = f"of use with --{'clusterset' if kind is Kind.SERVICE_IMPORT else 'external'}-zone alone"
            told = f"{where}: {head.api_version or 'no apiVersion'}, {head.kind}: {use}; skipped"
            near = difflib.get_close_matches(head.kind, _KINDS, 1, 0.85) if kind is None else []
            if near:
                loaded.warnings.append(f"{told}; is {near[0]} meant?")
            else:
                loaded.notes.append(told)
            return
        key = key_of(kind, meta)
        named = f"{where}: {kind.value} {key.namespace.decode()}/{key.name.decode()}".replace(" /", " ")
        try:
            shaped = shape(kind)
            new = self._decoder.build(shaped)
        except BadObject as exc:
            loaded.problems.append(Problem(f"{named}: {exc.field}", repr(exc.found), exc.expected))
            return
        if (kind, key) in loaded.objects:
            loaded.warnings.append(f"{named}: defined before in this file; the last one counts")
        if isinstance(new, Service) and not (new.cluster_ips or new.is_headless or new.external_name):
            loaded.warnings.append(f"{named}: no clusterIP, so its name has no address")
        if isinstance(new, ServiceImport) and not (new.ips or new.is_headless):
            loaded.warnings.append(f"{named}: no spec.ips, so its name has no address")
        labels = (shaped.metadata.labels if shaped.metadata else None) or {}
        # An imported slice (multicluster) has a label of that name under another prefix.
        if kind is Kind.ENDPOINT_SLICE and not any(label.endswith("/service-name") for label in labels):
            loaded.warnings.append(f"{named}: no label {SERVICE_NAME_LABEL}, so it belongs to no Service")
        if new is not None:
            loaded.objects[kind, key] = new
        if kind is Kind.NAMESPACE:
            loaded.defined.add(key.name)
        elif self._scope.admits(Kind.NAMESPACE, "", key.namespace.decode(), None):
            loaded.named.add(key.namespace)


class Scan(msgspec.Struct):
    """What a look at the files found: those that are there, those that were read anew, and roots that are gone."""

    files: dict[Path, Stamp]
    read: dict[Path, Loaded]
    missing: list[Path]


class ManifestSource:
    """Feeds a sink from *paths*, files and folders, and follows them.

    A path that is gone as a whole is a fault, not a wish: what it last held is served until it is back. A file that
    is gone from a folder is gone.
    """

    def __init__(self, paths: Sequence[Path], reader: ManifestReader, sink: Sink) -> None:
        self._paths = tuple(paths)
        self._reader = reader
        self._sink = sink
        self._stamps: dict[Path, Stamp] = {}
        self._good: dict[Path, Loaded] = {}
        self.problems: dict[Path, list[Problem]] = {}

    def load(self) -> None:
        """Read what is new or has changed, and apply it."""
        for _ in self._take(self._scan(), at_start=True):
            pass
        if not self._good and not self.problems:
            log.warning("%s: no object in any file", ", ".join(map(str, self._paths)))

    async def run(self) -> None:
        """Follow the files until cancelled; ``load`` has been called before."""

        async def look() -> None:
            scan = await trio.to_thread.run_sync(self._scan)
            for _ in self._take(scan):
                await trio.lowlevel.checkpoint()

        await follow(self._paths, look, lambda text: self._sink.trouble("manifests", text))

    def _scan(self) -> Scan:
        """Look at the files and read those that changed; runs in a thread, and touches nothing."""
        files = dict(stamped(self._paths))
        read = {path: self._reader.read(path) for path, stamp in files.items() if self._stamps.get(path) != stamp}
        return Scan(files, read, [path for path in self._paths if not path.exists()])

    def _take(self, scan: Scan, *, at_start: bool = False) -> Iterator[None]:
        """Apply what a scan found, in steps between which queries may be answered."""
        for root in self._paths:
            self._sink.trouble(f"--manifests {root}", "no such file or folder" if root in scan.missing else None)
        gone = [
            path
            for path in self._stamps
            if path not in scan.files and not any(path == root or root in path.parents for root in scan.missing)
        ]
        for path in gone:
            del self._stamps[path]
            self._good.pop(path, None)
            self.problems.pop(path, None)
            self._sink.trouble(str(path), None)
        for path, loaded in scan.read.items():
            self._stamps[path] = scan.files[path]
            for warning in loaded.warnings:
                log.warning("%s", warning)
            for note in loaded.notes:
                log.info("%s", note)
            if loaded.problems:
                self.problems[path] = loaded.problems
                first, more = loaded.problems[0], len(loaded.problems) - 1
                text = str(first).removeprefix(f"{path}: ") + (f" (and {more} more)" if more else "")
                if not at_start:  # at the start problems end the program, which prints them all
                    self._sink.trouble(str(path), text, sort=text)
            else:
                self.problems.pop(path, None)
                self._good[path] = loaded
                self._sink.trouble(str(path), None)
        if gone or scan.read or not self._sink.is_synced:
            yield from self._apply()

    def _apply(self) -> Iterator[None]:
        wanted: dict[tuple[Kind, ObjectKey], Object] = {}
        origins: dict[tuple[Kind, ObjectKey], Path] = {}
        for path in sorted(self._good):
            for entry, new in self._good[path].objects.items():
                before = wanted.get(entry)
                if before is not None and before != new:
                    log.warning("%s: %s is also in %s; this one counts", path, _entry_text(entry), origins[entry])
                wanted[entry] = new
                origins[entry] = path
        defined = {name for loaded in self._good.values() for name in loaded.defined}
        for name in {name for loaded in self._good.values() for name in loaded.named} - defined:
            wanted[Kind.NAMESPACE, ObjectKey(b"", name)] = Namespace(name)
        sink = self._sink
        sink.apply((), [(kind, key) for kind in sink.kinds for key in sink.keys(kind) if (kind, key) not in wanted])
        news = [new for (kind, _), new in wanted.items() if kind in self._sink.kinds]
        for at in range(0, len(news), STEP_OBJECTS):
            yield
            self._sink.apply(news[at : at + STEP_OBJECTS], is_first=not self._sink.is_synced)
        for kind in self._sink.kinds:
            self._sink.complete(kind)


def stamped(paths: Iterable[Path]) -> Iterator[tuple[Path, Stamp]]:
    """Yield the manifest files at *paths* in order, with what tells that one has changed."""
    for path in paths:
        for file in _files(path):
            try:
                status = os.stat(file)
            except OSError:
                continue  # gone since it was listed
            yield file, (status.st_mtime_ns, status.st_ino, status.st_size)


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path] if path.exists() else []
    # A mounted ConfigMap keeps its data in folders named ..data and the like; its files are links into them.
    return sorted(
        file
        for file in path.rglob("*")
        if file.suffix in SUFFIXES
        and file.is_file()
        and not any(part.startswith(".") for part in file.relative_to(path).parts)
    )


def _entry_text(entry: tuple[Kind, ObjectKey]) -> str:
    kind, key = entry
    return f"{kind.value} {key.namespace.decode()}/{key.name.decode()}"


class _JsonList(msgspec.Struct, rename="camel"):
    kind: str | None = None
    api_version: str | None = None
    items: list[msgspec.Raw] | None = None


def _without_duplicates(pairs: list[tuple[str, Any]]) -> None:
    """Raise ValueError for a key that stands twice; builds nothing, so large lists stay cheap."""
    if len(pairs) != len({key for key, _ in pairs}):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"duplicate key {key!r}")
            seen.add(key)


_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def _check_expansion(data: bytes) -> None:
    """Raise ValueError for YAML that is nested too deeply, or small and yet stands for something huge."""
    sizes: dict[str, int] = {}
    open_nodes: list[tuple[str | None, int]] = []
    total = aliased = 0
    for event in yaml.parse(data, Loader=_Base):
        match event:
            case yaml.AliasEvent():
                if event.anchor not in sizes:
                    raise ValueError(f"alias *{event.anchor} of something that is not complete there")
                total += sizes[event.anchor]
                aliased += sizes[event.anchor]
                if aliased > MAX_ALIASED_NODES:
                    raise ValueError(f"aliases that stand for more than {MAX_ALIASED_NODES} nodes")
            case yaml.CollectionStartEvent():
                open_nodes.append((event.anchor, total))
                total += 1
                if len(open_nodes) > MAX_DEPTH:
                    raise ValueError(f"nesting of more than {MAX_DEPTH}")
            case yaml.CollectionEndEvent():
                anchor, before = open_nodes.pop()
                if anchor is not None:
                    sizes[anchor] = total - before
            case yaml.ScalarEvent():
                total += 1
                if event.anchor is not None:
                    sizes[event.anchor] = 1


class _Loader(_Base):  # type: ignore[misc]
    """A SafeLoader that refuses a key that stands twice in one mapping, which YAML forbids and PyYAML lets pass."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if key.tag == "tag:yaml.org,2002:merge" or not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"duplicate key {key.value!r}", key.start_mark)
            seen.add(key.value)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep=deep)
        return mapping


# Kubernetes reads YAML through JSON, in which a timestamp is a string.
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in _Base.yaml_implicit_resolvers.items()
}
