"""The pods of this node: which namespace an address is in, and whether its search path is the ordinary one.

| a pod                                                    | its search path                                        |
|----------------------------------------------------------|--------------------------------------------------------|
| ``dnsPolicy: ClusterFirst``, not on the host's network   | the ordinary one                                       |
| with search domains or ndots in its ``dnsConfig``        | its own: transparent expansion is not for it           |
| any other ``dnsPolicy``                                  | its own                                                |
| on the host's network, or of an address that two have    | not told from others: nobody                           |
"""

from __future__ import annotations

from collections.abc import Iterable

from zones.objects import Pod, SearchPath
from zones.records import address_from_text


class NodePods:
    """The pods by name and by address."""

    def __init__(self) -> None:
        self.is_synced = False
        self.trouble = "the node's pods are not known yet"
        self._by_name: dict[tuple[bytes, bytes], Pod] = {}
        self._by_address: dict[bytes, list[Pod]] = {}

    def __len__(self) -> int:
        return len(self._by_name)

    def at(self, address: str) -> Pod | None:
        """Return the one pod with *address* (text form), None where there is none, or more than one."""
        try:
            octets = address_from_text(address.partition("%")[0])
        except ValueError:
            return None
        pods = self._by_address.get(octets, ())
        return pods[0] if len(pods) == 1 and pods[0].search_path is not SearchPath.UNKNOWN else None

    def put(self, pod: Pod) -> None:
        """Add or replace a pod."""
        self.delete(pod.namespace, pod.name)
        self._by_name[pod.namespace, pod.name] = pod
        for address in pod.addresses:
            self._by_address.setdefault(address, []).append(pod)

    def delete(self, namespace: bytes, name: bytes) -> None:
        """Remove a pod; one that is not there changes nothing."""
        old = self._by_name.pop((namespace, name), None)
        if old is None:
            return
        for address in old.addresses:
            pods = self._by_address[address]
            pods.remove(old)
            if not pods:
                del self._by_address[address]

    def keep_only(self, names: Iterable[tuple[bytes, bytes]]) -> None:
        """Remove what a complete list did not have."""
        kept = set(names)
        for namespace, name in [key for key in self._by_name if key not in kept]:
            self.delete(namespace, name)
