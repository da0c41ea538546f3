"""A question to an upstream."""

from __future__ import annotations

import msgspec

from zones.names import Name


class Question(msgspec.Struct, frozen=True, gc=False):
    """What to ask: a name, a type, the DO and CD bits, and EDNS *options* in wire form.

    ``context`` is whatever the asker wants to find again with the reply; equal questions need not share it.
    """

    qname: Name
    qtype: int
    do: bool = False
    cd: bool = False
    options: bytes = b""
    context: object = None

    @property
    def key(self) -> bytes:
        """What equal questions share."""
        qtype = self.qtype
        return b"%b%c%c%c%b" % (self.qname.key, qtype >> 8, qtype & 255, self.do << 1 | self.cd, self.options)
