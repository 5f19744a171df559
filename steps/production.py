"""ZenML's stage `production` and what serves, kept together: a deployment may die between the two."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from steps.console import tell, warn

if TYPE_CHECKING:
    from text2sql.config import Settings
    from text2sql.deployment.target import Target

STAGE = "production"


def mark(settings: Settings, version: str) -> None:
    """The version that was in production until now is archived; one that is there already stays."""
    from zenml.client import Client

    found = Client().get_model_version(settings.name, int(version))
    if str(found.stage) != STAGE:
        found.set_stage(STAGE, force=True)
    _note(settings, version)


def mark_what_serves(settings: Settings) -> str | None:
    """Mark the version that serves, where whoever took it live could not; its number if that was so.

    What was marked last is noted, so that ZenML is asked only when something is new. Its troubles are told and no more:
    what serves does not depend on them.
    """
    from text2sql.deployment.targets import target_of
    from text2sql.errors import DeploymentError

    try:
        target = target_of(settings)
        if _unmarked(target, settings) is None:
            return None
        with target.alone():  # else another deployment could take the next version live meanwhile, and mark it
            version = _unmarked(target, settings)
            if version is None or _is_marked(settings, version):
                return None
            mark(settings, version)
    except DeploymentError:  # another deployment is under way, or there is no cluster here
        return None
    except Exception as error:  # noqa: BLE001 - ZenML's own, its store's and its server's
        warn_unmarked("what serves", error)
        return None
    tell(f"version {version} serves, and is marked as {STAGE} now")
    return version


def warn_unmarked(what: str, error: Exception) -> None:
    """In one line."""
    warn(f"WARNING: {what} could not be marked in ZenML ({' '.join(str(error).split())[:200]})")


def _unmarked(target: Target, settings: Settings) -> str | None:
    """The version that serves, or would if it were not stopped, unless it is known to be marked."""
    status = target.status()
    if status.current is None or not status.settled or status.current.state not in ("up", "stopped"):
        return None
    version = status.current.release.version
    return version if version.isdecimal() and _noted(settings) != version else None


def _is_marked(settings: Settings, version: str) -> bool:
    from zenml.client import Client

    if str(Client().get_model_version(settings.name, int(version)).stage) != STAGE:
        return False
    _note(settings, version)
    return True


def _noted(settings: Settings) -> Any:
    from text2sql.deployment.state import read_json, state_folder

    return read_json(state_folder(settings.name).marked).get("version") if settings.deploy.target == "local" else None


def _note(settings: Settings, version: str) -> None:
    """Beside what the local deployment keeps. A cluster has no such place, and ZenML is asked each time."""
    from text2sql.deployment.state import state_folder, write_json

    if settings.deploy.target == "local":
        folder = state_folder(settings.name)
        folder.make()
        write_json(folder.marked, {"version": version})
