"""The engine that the settings ask for."""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import signal
from typing import TYPE_CHECKING

from text2sql.errors import ConfigError
from text2sql.serving.recipe import Served, chat_wrapper, served_recipe

if TYPE_CHECKING:
    from text2sql.serving.engine import Engine
    from text2sql.serving.settings import ServerSettings
    from text2sql.serving.supervisor import VllmServer

logger = logging.getLogger(__name__)


def build_served(settings: ServerSettings) -> Served:
    """The engine with its model's recipe; nothing is loaded yet but, for a chat template, the tokenizer.

    Raises:
        ModelError: the recipe or its prompt cannot be used.
    """
    recipe = served_recipe(settings)
    return Served(build_engine(settings), recipe, chat_wrapper(recipe, settings.model, settings.revision))


def build_engine(settings: ServerSettings) -> Engine:
    """The engine alone."""
    if settings.engine == "transformers":
        from text2sql.serving.scheduler import Limits
        from text2sql.serving.transformers_engine import TransformersEngine

        return TransformersEngine(
            settings.model,
            base=settings.base,
            revision=settings.revision,
            trust_remote_code=settings.trust_remote_code,
            limits=Limits(
                settings.batch_size, settings.queue_size, settings.cache_tokens, settings.prefix_tokens, settings.drafts
            ),
        )
    from text2sql.config import ModelSection
    from text2sql.serving.vllm_engine import VllmEngine

    tokenizer = ModelSection(
        name=settings.model, revision=settings.revision, trust_remote_code=settings.trust_remote_code
    )
    return VllmEngine(
        settings.engine_url or _vllm_server(settings, port=0),
        tokenizer=tokenizer if settings.engine_url else None,
        api_key=os.environ.get("VLLM_API_KEY"),
        model=settings.engine_model,
        batch_size=settings.batch_size,
        queue_size=settings.queue_size,
        timeout=settings.request_timeout,
    )


def run_vllm(settings: ServerSettings) -> int:
    """vLLM alone, supervised, until a signal; the exit code.

    Raises:
        ConfigError: it is to listen beyond loopback.
        ModelError, EngineDead: it does not start.
    """
    if not settings.on_loopback:
        words = (
            f"host {settings.host}: vLLM has routes that stop it or replace its weights, so it listens on loopback "
            "alone; put the API before it: serve --mode api --engine vllm"
        )
        raise ConfigError([words])
    from text2sql.serving.logs import configure_logs

    configure_logs(settings.log_level)
    return asyncio.run(_supervise(_vllm_server(settings, settings.port)))


async def _supervise(server: VllmServer) -> int:
    told = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    starting, ending = asyncio.create_task(server.start()), asyncio.create_task(told.wait())
    try:
        await asyncio.wait({starting, ending}, return_when=asyncio.FIRST_COMPLETED)
        if not told.is_set():
            await starting
            logger.info("ready", extra={"url": server.url})
            await ending
        return 0
    finally:
        starting.cancel()
        ending.cancel()
        await asyncio.gather(starting, ending, return_exceptions=True)
        await server.stop()


def _vllm_server(settings: ServerSettings, port: int) -> VllmServer:
    from text2sql.serving.checkpoint import find_checkpoint
    from text2sql.serving.supervisor import VllmOptions, VllmServer

    options = VllmOptions(
        python=settings.vllm_python,
        port=port,
        log=settings.vllm_log,
        startup_seconds=settings.vllm_startup_seconds,
        hang_seconds=settings.vllm_hang_seconds,
        arguments=settings.vllm_arguments,
    )
    find = functools.partial(
        find_checkpoint, settings.model, settings.base, settings.revision, settings.trust_remote_code
    )
    return VllmServer(find, options, settings.served_name, progress=logger.info)
