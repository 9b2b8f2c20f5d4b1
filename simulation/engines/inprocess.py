"""The default engine: a Flower grid in this process. No Ray, no ports, one deterministic order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from client.app import ERROR_CODE, SITE_FOLDER_KEY
from client.app import app as site_app
from server.app import make_app

RUN_ID = 1
COORDINATOR_NODE = 1
FIRST_SITE_NODE = 1000


class InProcessGrid(Grid):
    """Runs each site's ClientApp when its reply is pulled, so that one reply exists at a time.

    Args:
        sites: site name → site folder.
        client_app: what every site runs.
    """

    def __init__(self, sites: Mapping[str, Path], client_app: ClientApp = site_app) -> None:
        self._app = client_app
        self._contexts = {
            FIRST_SITE_NODE + i: Context(
                run_id=RUN_ID,
                node_id=FIRST_SITE_NODE + i,
                node_config={SITE_FOLDER_KEY: str(sites[name])},
                state=RecordDict(),
                run_config={},
            )
            for i, name in enumerate(sorted(sites))
        }
        self._run = Run.create_empty(run_id=RUN_ID)
        self._waiting: dict[str, Message] = {}
        self._sent = 0
        # Flower builds messages only inside a task; in-process there is just this one.
        TaskIdentity.task_id, TaskIdentity.run_id = 1, RUN_ID
        TaskIdentity.node_id = COORDINATOR_NODE

    def set_run(self, run: Run) -> None:
        self._run = run

    @property
    def run(self) -> Run:
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Sequence[int]:
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> Sequence[str]:
        ids = []
        for message in messages:
            if message.metadata.dst_node_id not in self._contexts:
                ids.append("")  # what a SuperLink answers for an unknown node
                continue
            self._sent += 1
            message_id = f"message-{self._sent}"
            # Flower sets the id while it sends; its setter is only open to its own classes.
            message.metadata.__dict__["_message_id"] = message_id
            self._waiting[message_id] = message
            ids.append(message_id)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Sequence[Message]:
        pulled = []
        for message_id in list(message_ids):
            message = self._waiting.pop(message_id, None)
            if message is not None:
                pulled.append(self._answer(message))
        return pulled

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Sequence[Message]:
        del timeout  # nothing waits here
        return self.pull_messages(self.push_messages(messages))

    def _answer(self, message: Message) -> Message:
        context = self._contexts[message.metadata.dst_node_id]
        try:
            return self._app(message, context)
        except Exception as error:  # what a SuperNode makes of it, and in its words
            reason = f"{type(error)}:<'{error}'>"
            return Message(Error(code=ERROR_CODE, reason=reason), reply_to=message)


def run_campaign(
    folder: Path,
    sites: Mapping[str, Path],
    *,
    progress: Callable[[str], None] = lambda _: None,
    client_app: ClientApp = site_app,
) -> None:
    """Run (or resume) the campaign described in ``folder/campaign.yaml`` over ``sites``.

    Raises:
        FedloopError: whatever stopped the campaign; complete steps stay on disk.
    """
    grid = InProcessGrid(sites, client_app)
    context = Context(run_id=RUN_ID, node_id=0, node_config={}, state=RecordDict(), run_config={})
    make_app(folder, progress=progress)(grid, context)
