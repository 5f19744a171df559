"""What the server is told: by flags, else by environment (TEXT2SQL_PORT=8000), else by these defaults."""

from __future__ import annotations

import difflib
import ipaddress
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from text2sql.errors import ConfigError

PREFIX = "TEXT2SQL_"
_NOT_OURS = frozenset({"TEXT2SQL_CACHE", "TEXT2SQL_VERBOSE"})
"""Variables of the same prefix that other parts of the project read."""

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class ServerSettings(BaseSettings):
    """How to serve. Frozen; a list is written as JSON in the environment."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="forbid", use_attribute_docstrings=True, protected_namespaces=()
    )

    host: str = "127.0.0.1"
    """Address to listen on; another than loopback needs keys."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """Port to listen on; 0 takes a free one."""
    model: str = "results/merged_model"
    """Folder of a merged model or an adapter, or a hub name."""
    base: str | None = None
    """For an adapter: where its base is now."""
    revision: str | None = None
    """Commit, tag or branch of a hub model."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model."""
    served_name: str | None = None
    """What /v1/models calls the model; the folder's name when empty."""
    model_version: str | None = None
    """What X-Model-Version says in every reply; left out when empty."""
    engine: Literal["transformers", "vllm"] = "transformers"
    """Who generates: transformers in this process, or a vLLM server."""
    engine_url: str | None = None
    """A vLLM server that runs already, http://host:port; without it one is started and kept."""
    engine_model: str | None = None
    """What is asked for there, such as an adapter of --lora-modules; the first that it names when empty."""
    vllm_python: Path = Path(".venv-vllm/bin/python")
    """The Python of vLLM's environment, which `make vllm` sets up."""
    vllm_log: Path = Path("vllm.log")
    """Where vLLM's own words go."""
    vllm_startup_seconds: Seconds = 300.0
    """Seconds that vLLM may take to start."""
    vllm_hang_seconds: Seconds = 120.0
    """Seconds without a sign of life after which vLLM is started again; more than its longest prompt takes."""
    vllm_arguments: tuple[str, ...] = ()
    """More of vLLM's own arguments, such as `["--max-model-len", "4096"]`; not those that are set here."""
    prompt_template: Path | None = None
    """File with the prompt; overrides what the model's folder says."""

    batch_size: PositiveInt = 16
    """Answers that are generated together."""
    queue_size: PositiveInt = 128
    """Answers that may wait in the engine beyond those."""
    cache_tokens: PositiveInt = 32_768
    """Tokens that the answers generated together may take in memory (transformers)."""
    prefix_tokens: NonNegativeInt = 8_192
    """Tokens of prompts' beginnings that are kept for prompts to come, of the same API key (transformers); 0: none."""
    drafts: NonNegativeInt = 5
    """Tokens guessed ahead a step from what was read and written before, which changes no answer (transformers)."""
    max_in_flight: PositiveInt = 256
    """Questions in work at once, the waiting ones included; more are answered 429."""
    max_batch: Annotated[int, Field(ge=1, le=256)] = 32
    """Questions in one request to /generate/batch."""
    max_new_tokens: PositiveInt = 512
    """Longest answer in tokens; requests for more get this."""

    api_keys: Path | None = None
    """File of hashed keys, made by `python -m text2sql key`; read again whenever it changes."""
    allow_anonymous: bool = False
    """Listen beyond loopback without keys."""
    allowed_hosts: tuple[str, ...] = ()
    """Host headers that are answered; empty: loopback's own without keys, any with keys."""
    rate_limit: str | None = None
    """Questions a key may ask, such as 60/minute; a key may have a rate of its own."""

    max_body_bytes: PositiveInt = 1 << 20
    """Longest request."""
    max_upload_bytes: PositiveInt = 16 << 20
    """Longest file for /schema."""
    max_json_depth: PositiveInt = 16
    """Deepest nesting of a request's JSON."""
    body_timeout: Seconds = 15.0
    """Seconds in which a request's head must have arrived, and then its body."""
    request_timeout: Seconds = 60.0
    """Seconds in which it is answered, or it ends with 504."""

    database: str | None = None
    """SQLite file or read-only SQLAlchemy URL that answers may be run on."""
    query_seconds: Seconds = 5.0
    """Seconds a query may run there."""
    query_rows: PositiveInt = 1_000
    """Rows of a result that are kept."""
    guard_processes: PositiveInt = 4
    """Processes that check answers and run queries, a query each; of several, one is kept for checks."""

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severity that is logged."""
    log_content: bool = False
    """Log questions, schemas and answers too; they are the users' data."""
    shutdown_delay: Annotated[float, Field(ge=0, le=600)] = 0.0
    """Seconds between SIGTERM, when /readyz turns 503, and the end of listening: what a load balancer needs."""
    drain_seconds: Seconds = 60.0
    """Seconds that requests in work then have to finish."""

    @field_validator("rate_limit")
    @classmethod
    def _rate_is_readable(cls, rate: str | None) -> str | None:
        if rate:
            from text2sql.serving.limits import parse_rate

            parse_rate(rate)
        return rate or None

    @field_validator("vllm_arguments")
    @classmethod
    def _arguments_are_not_ours(cls, arguments: tuple[str, ...]) -> tuple[str, ...]:
        from text2sql.serving.vllm_command import check_arguments

        check_arguments(arguments)
        return arguments

    @property
    def on_loopback(self) -> bool:
        """Whether only this machine can connect."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def server_settings(flags: Mapping[str, Any], environment: Mapping[str, str] | None = None) -> ServerSettings:
    """The settings from flags (None: not given) and the process's environment.

    Raises:
        ConfigError: every problem at once.
    """
    known = set(ServerSettings.model_fields)
    problems = [
        f"{name}: no such setting{_meant(name)}"
        for name in (os.environ if environment is None else environment)
        if name.startswith(PREFIX) and name not in _NOT_OURS and name.removeprefix(PREFIX).lower() not in known
    ]
    try:
        settings = ServerSettings(**{key: value for key, value in flags.items() if value is not None})
    except ValidationError as error:
        problems += [f"{'.'.join(map(str, e['loc']))}: {e['msg']}, and is {e['input']!r}" for e in error.errors()]
    except ValueError as error:  # pydantic-settings: a list that is no JSON
        problems.append(str(error))
    if problems:
        raise ConfigError(problems)
    if not settings.on_loopback and settings.api_keys is None and not settings.allow_anonymous:
        words = (
            f"host {settings.host} can be reached from elsewhere, and there are no keys: make one with "
            "`python -m text2sql key NAME --file keys.txt` and give --api-keys keys.txt, or allow everybody with "
            "--set allow_anonymous=true"
        )
        raise ConfigError([words])
    return settings


def assignments(texts: Sequence[str]) -> dict[str, Any]:
    """Of KEY=VALUE; a value that is YAML becomes what it says.

    Raises:
        ConfigError: one has no = or no such key.
    """
    import yaml

    found: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or key not in ServerSettings.model_fields:
            raise ConfigError([f"--set {text}: write KEY=VALUE with a setting of the server{_meant(key)}"])
        try:
            found[key] = yaml.safe_load(value)
        except yaml.YAMLError:
            found[key] = value
    return found


def _meant(name: str) -> str:
    near = difflib.get_close_matches(name.removeprefix(PREFIX).lower(), ServerSettings.model_fields, n=1)
    written = near[0] if near and not name.startswith(PREFIX) else f"{PREFIX}{near[0].upper()}" if near else ""
    return f"; did you mean {written}?" if written else ""
