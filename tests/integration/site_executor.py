"""A site's warm executor: takes ClientApp tasks from the SuperNode and runs the installed app.

``python -m tests.integration.site_executor ADDRESS SECRET_FILE``. Nothing of the FAB is installed
or imported: it is looked at, and refused if it holds code.
"""

from __future__ import annotations

import io
import sys
import time
import traceback
import zipfile
from pathlib import Path

from flwr.app import Error, Message
from flwr.common.constant import ErrorCode, SubStatus
from flwr.proto.runtime_pb2 import AcquireTaskRequest
from flwr.supercore.fab import Fab
from flwr.supercore.heartbeat import HeartbeatSender, make_task_heartbeat_fn_http
from flwr.supercore.interceptors import (
    RuntimeTokenHttpInterceptor,
    RuntimeVersionHttpInterceptor,
    SuperExecAuthHttpInterceptor,
)
from flwr.supercore.protobuf.client import ProtobufClientInterceptor
from flwr.supercore.retry import make_simple_http_retry_invoker
from flwr.supercore.runtime import RuntimeHttpClient
from flwr.supercore.superexec.run_superexec import _SUPEREXEC_AUTH_METHODS
from flwr.supernode.runtime.run_clientapp import pull_task_input, push_message, push_task_output

from client.app import app

ALLOWED = {"pyproject.toml", ".info/CONTENT"}
POLL_SECONDS = 0.2


def main(address: str, secret: bytes) -> None:
    guard = SuperExecAuthHttpInterceptor(
        master_secret=secret, protected_methods=_SUPEREXEC_AUTH_METHODS
    )
    tasks = connect(address, guard)
    print("site executor is up", flush=True)
    while True:
        found = tasks.AcquireTask(AcquireTaskRequest(supported_task_types=["flwr-clientapp"]))
        if found.HasField("task") and found.token:
            carry_out(connect(address, RuntimeTokenHttpInterceptor(found.token)))
        else:
            time.sleep(POLL_SECONDS)


def connect(address: str, interceptor: ProtobufClientInterceptor) -> RuntimeHttpClient:
    return RuntimeHttpClient.from_server_address(
        server_address=address,
        insecure=True,
        root_certificates=None,
        interceptors=[RuntimeVersionHttpInterceptor(component_name="flwr-clientapp"), interceptor],
        retry_invoker=make_simple_http_retry_invoker(),
    )


def carry_out(client: RuntimeHttpClient) -> None:
    """One task: pull, check, run, push."""
    heartbeat = HeartbeatSender(make_task_heartbeat_fn_http(client))
    heartbeat.start()
    context, status, details = None, SubStatus.FAILED, "site error"
    try:
        message, context, _, fab = pull_task_input(client)
        if holds_code(fab):
            refusal = Error(code=ErrorCode.INVALID_FAB, reason="the FAB holds code")
            reply = Message(refusal, reply_to=message)
        else:
            reply = app(message=message, context=context)
        push_message(client, reply, context)
        status, details = SubStatus.COMPLETED, ""
        print(message.metadata.message_type, flush=True)
    except Exception:  # to this log only
        traceback.print_exc()
    finally:
        push_task_output(client=client, context=context, sub_status=status, details=details)
        heartbeat.stop()
        client.close()


def holds_code(fab: Fab) -> bool:
    with zipfile.ZipFile(io.BytesIO(fab.content)) as archive:
        return not set(archive.namelist()) <= ALLOWED


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]).read_bytes())
