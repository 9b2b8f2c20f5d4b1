"""The last look before a message leaves a site."""

from __future__ import annotations

import re
from collections.abc import Sequence

from flwr.app import RecordDict

from fedloop.errors import EgressError, FedloopError, WireError
from fedloop.records import ArraySchema, check_content

MAX_REASON = 160
MAX_NAME = 64
_UNSAFE = re.compile(r"[^A-Za-z0-9 _.,:;'()\[\]=/-]")


def check_outgoing(
    content: RecordDict, *, kind: str, expected: Sequence[ArraySchema], site: str
) -> None:
    """Allow exactly what the wire schema lists for this reply.

    Raises:
        EgressError: naming the site and the key; nothing may be sent then.
    """
    try:
        check_content(content, kind=kind, expected=expected, who=f"site {site!r}")
    except WireError as error:
        raise EgressError(str(error)) from error


def safe_reason(error: Exception, site: str) -> str:
    """The text of an error reply: a code and, for wire errors, the offending schema key.

    An exception's own text may name a file or a patient; it stays in the site's log. Wire errors
    are about names that code, not data, has chosen: those help the coordinator and are bounded in
    length and alphabet.
    """
    code = error.code if isinstance(error, FedloopError) else "internal"
    if isinstance(error, WireError):
        text = f"{code}: {error}"
    else:
        name = site[:MAX_NAME]
        text = f"{code}: site {name!r} could not carry out the request; details are in its own log"
    return plain(text, MAX_REASON)


def plain(text: str, length: int) -> str:
    """Text from the other side, fit for a terminal, a log and a report."""
    return _UNSAFE.sub("?", text[: 4 * length])[:length]
