"""Settings of where a judged model goes live."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PositiveInt, field_validator

from text2sql.config.section import Fraction, Name, Section

PASSWORD_IN_URL = re.compile(r"://[^/@]*:[^@]+@|://.*[?&]\w*(password|passwd|pwd)=", re.IGNORECASE)
"""user:password@ or ?password=, as drivers of databases take them."""


class KubernetesSection(Section):
    """The cluster in which a judged model goes live."""

    context: str | None = None
    """Context of the kubeconfig; empty: in a pod its own account, elsewhere the kubeconfig's current context."""
    namespace: Name = "text2sql"
    """Where the server runs; an administrator makes it."""
    manifests: Path = Path("k8s/overlays/gpu-single")
    """How the server looks: a kustomize folder, or a file that was rendered from one."""
    store: str | None = None
    """Where released models are kept for pods, s3://bucket/models; empty: they fetch from ZenML's artifact store."""
    address: str | None = None
    """What clients use, https://text2sql.example.com; empty: the Service's name in the cluster."""
    reach: Literal["auto", "cluster", "api"] = "auto"
    """How the new server is asked: by the Service's name (cluster) or through the API server; auto: what fits here."""
    nodes: Literal["fixed", "autoscaled"] = "fixed"
    """fixed: GPUs or labels that no node has are an error before anything is created; autoscaled: they may yet come."""
    take_over: bool = False
    """Take fields of Deployment and Service over from whoever else manages them."""


class DeploySection(Section):
    """Where a judged model goes live, and what it must show first."""

    target: Literal["local", "kubernetes"] = "local"
    """local: this machine, as host, port, engine, api_keys, keep_previous and server say; or a Kubernetes cluster."""
    kubernetes: KubernetesSection = KubernetesSection()
    """The cluster."""
    host: Name = "127.0.0.1"
    """Address that clients use; another than loopback needs api_keys."""
    port: Annotated[int, Field(ge=1, le=65535)] = 8000
    """Port that clients use; it stays the same over every deployment."""
    engine: Literal["auto", "transformers", "vllm"] = "auto"
    """auto: vLLM where `make vllm` has set up its environment, else Transformers."""
    api_keys: Path | None = None
    """File of keys made by `python -m text2sql key`; deploying then needs one of them in OPENAI_API_KEY."""
    startup_seconds: Annotated[float, Field(gt=0)] = 600.0
    """A new server that is not ready after this long does not go live; one that hangs for so long is started again."""
    check_seconds: Annotated[float, Field(gt=0)] = 300.0
    """In this time it must have answered every question it is asked before it goes live."""
    parity_rows: PositiveInt = 32
    """Test rows whose answers are compared with those of the evaluated model."""
    min_agreement: Fraction = 0.9
    """Share of these answers that must be the same; evaluation and server may round differently (bf16)."""
    drain_seconds: Annotated[float, Field(gt=0)] = 60.0
    """Time that requests under way have to finish on the old server."""
    keep_previous: Literal["stopped", "running"] = "stopped"
    """running: a rollback is instant, and two models fill the memory."""
    server: dict[Name, str | int | float | bool] = {}  # noqa: RUF012 - pydantic copies it
    """More settings of the server (docs/serving.md), e.g. {batch_size: 32, database: shop.sqlite}; no passwords."""

    @field_validator("server")
    @classmethod
    def _holds_no_password(cls, server: dict[str, str | int | float | bool]) -> dict[str, str | int | float | bool]:
        """ZenML keeps the parameters of steps as plain text, and shows them."""
        for key, value in server.items():
            if isinstance(value, str) and PASSWORD_IN_URL.search(value):
                raise ValueError(
                    f"the URL in {key} has a password, which ZenML would keep as plain text; leave {key} out, and set "
                    f"TEXT2SQL_{key.upper()} in the environment of whoever deploys"
                )
        return server

    @property
    def on_loopback(self) -> bool:
        """Whether only this machine can connect."""
        try:
            return self.host == "localhost" or ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False
