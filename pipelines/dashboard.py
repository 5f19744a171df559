"""ZenML's dashboard: of the server that has the runs, or one on this machine, over the store that they are in.

`zenml login --local` would also make every later run go through that server, and fail where it is gone.
"""

from __future__ import annotations

import logging
import os
import sys
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from stacks.place import reachable, zenml_client, zenml_has_run
from text2sql.errors import StackError
from text2sql.progress import working
from text2sql.serving.supervisor import free_port

START_SECONDS = 240
"""A server imports for 20 s on an idle machine."""


def dashboard() -> int:
    """Print where the runs are shown, and open that on a desktop; the exit code."""
    page, is_ours = runs_page()
    if is_ours:
        print("  it runs on; `python run.py --pipeline stop-dashboard` ends it", file=sys.stderr)  # noqa: T201
    print(page, flush=True)  # noqa: T201
    if sys.stdout.isatty() and _has_desktop():
        webbrowser.open(page)
    return 0


def runs_page() -> tuple[str, bool]:
    """The address of the list of runs, and whether it is of this machine's server, which runs from now on.

    Raises:
        StackError: it does not start, or ZenML's server cannot be reached.
    """
    if not zenml_has_run():
        zenml_client()
    address = _local() if _store_is_here() else None
    with reachable():
        client = zenml_client()
    if address is not None:
        _answer_survey(client)
    return f"{address or _remote(client)}/projects/{client.active_project.name}/runs", address is not None


def stop() -> int:
    """End this machine's server; the exit code. `zenml logout --local` ends only one that the client goes through."""
    from zenml.utils.server_utils import get_local_server
    from zenml.zen_server.deploy.deployer import LocalServerDeployer

    if zenml_has_run() and get_local_server() is not None:
        with _no_words_of_zenml(), working("ending ZenML's server"):
            LocalServerDeployer().remove_server()
        print("  stopped", file=sys.stderr)  # noqa: T201
    else:
        print("  nothing runs", file=sys.stderr)  # noqa: T201
    return 0


def _store_is_here() -> bool:
    """Whether the runs are in this machine's own store, be it asked through a local server or not."""
    from zenml.config.global_config import GlobalConfiguration
    from zenml.enums import StoreType
    from zenml.utils.server_utils import get_local_server

    store = GlobalConfiguration().store_configuration
    known = get_local_server()
    return store.type != StoreType.REST or (known is not None and store.url == getattr(known.config, "url", None))


def _local() -> str:
    """Of this machine's server, which is started if it does not answer."""
    from zenml.enums import ServerProviderType
    from zenml.utils.server_utils import get_local_server
    from zenml.zen_server.deploy.daemon.daemon_zen_server import DaemonServerDeploymentConfig, DaemonZenServer
    from zenml.zen_server.deploy.deployer import LocalServerDeployer

    server = get_local_server()
    if server is None or server.status is None or server.status.url is None:
        wanted = DaemonServerDeploymentConfig(provider=ServerProviderType.DAEMON)
        port = getattr(server.config, "port", wanted.port) if server else wanted.port
        wanted = wanted.model_copy(update={"port": _free(port, str(wanted.ip_address))})
        try:
            with _no_words_of_zenml(), working("starting ZenML's server, for half a minute"):
                server = LocalServerDeployer().deploy_server(wanted, timeout=START_SECONDS)
        except (OSError, RuntimeError) as error:
            raise StackError(f"ZenML's server does not start ({' '.join(str(error).split())[:200]})") from error
    if server.status is None or server.status.url is None:
        log = f"{DaemonZenServer.config_path()}/service.log"
        raise StackError(f"ZenML's server did not start within {START_SECONDS} s; its log is {log}")
    return str(server.status.url)


@contextmanager
def _no_words_of_zenml() -> Iterator[None]:
    """Its spinner would cut through ours, and a failure is told in one line."""
    from zenml.console import console

    logging.getLogger("zenml.services").setLevel(logging.CRITICAL)
    quiet, console.quiet = console.quiet, True
    try:
        yield
    finally:
        console.quiet = quiet


def _free(port: int, host: str) -> int:
    """That port, or another where somebody else has it."""
    from zenml.utils.networking_utils import port_available

    return port if port_available(port, host) else free_port()


def _remote(client: Any) -> str:
    info = client.zen_store.get_store_info()
    return str(info.dashboard_url or info.server_url or client.zen_store.url).rstrip("/")


def _answer_survey(client: Any) -> None:
    """A fresh store's dashboard shows nothing before its user has left name and address; here: no, and no mails."""
    user = client.active_user
    if user.email_opted_in is None:
        answered = {**user.user_metadata, "finished_onboarding_survey": True}
        client.update_user(user.id, updated_email_opt_in=False, updated_metadata=answered)


def _has_desktop() -> bool:
    return sys.platform == "darwin" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
