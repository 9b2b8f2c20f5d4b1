"""Every error a user can meet. A leaf: imports nothing of fedloop.

    FedloopError                 one clear line for the user; exit code 1
    ├── SettingsError            a configuration file or ``--set`` is wrong (exit code 2)
    ├── DataError                an image, mask, table or folder is wrong
    ├── ModelError               a network cannot be built, loaded or fed
    ├── WireError                a message breaks the wire schema
    │   └── EgressError          ... on its way out of a site
    ├── RoundError               a federated round could not be completed
    ├── SelectionError           a query strategy cannot rank this pool
    └── RunFolderError           a run folder is missing, foreign or half-written

Each error carries a ``code``: the only text that may leave a site (the message itself can name
files and stays in the site's log).
"""

from __future__ import annotations

from typing import ClassVar


class FedloopError(Exception):
    """Base class. ``str(error)`` is one line that names the culprit and the remedy."""

    code: ClassVar[str] = "fedloop"
    exit_code: ClassVar[int] = 1


class SettingsError(FedloopError):
    """A configuration file, ``--set`` argument or site policy is wrong."""

    code = "settings"
    exit_code = 2


class DataError(FedloopError):
    """An image, mask, table or folder cannot be used."""

    code = "data"


class ModelError(FedloopError):
    """A network cannot be built, loaded or fed with these data."""

    code = "model"


class WireError(FedloopError):
    """A message between coordinator and site breaks the wire schema."""

    code = "wire"


class EgressError(WireError):
    """A site was about to send something that is not on the allow-list."""

    code = "egress"


class RoundError(FedloopError):
    """A federated round could not be completed."""

    code = "round"


class SelectionError(FedloopError):
    """A query strategy cannot rank this pool."""

    code = "selection"


class RunFolderError(FedloopError):
    """A run folder is missing, belongs to something else, or is incomplete."""

    code = "run-folder"
