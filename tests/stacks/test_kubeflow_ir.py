"""What Kubeflow Pipelines is sent."""
from __future__ import annotations
from typing import Any
import pytest
from tests.stacks import compiled

@pytest.mark.filterwarnings("ignore")
def test_x(kubeflow_place, settings_for_clusters):
    p = compiled.configured("train", settings_for_clusters, kubeflow_place)
    snap, stack = compiled.snapshot_of(p, settings_for_clusters, kubeflow_place)
    a, n = compiled.submit(snap, stack, "_upload_and_run_pipeline")
    spec, platform = compiled.ir(n["pipeline_file_path"])
    import yaml
    open("/tmp/ir.yaml","w").write(yaml.safe_dump(spec)+"---\n"+yaml.safe_dump(platform))
