"""What the commands of these tests import, and what ZenML imports when a step of theirs begins. None of it asks ZenML's
store, whose address each command has in its environment; the modules of steps do.
"""

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import bitsandbytes  # noqa: F401
    import great_expectations  # noqa: F401
    import s3fs  # noqa: F401
    import trl.trainer.sft_trainer  # noqa: F401
    import zenml.entrypoints.entrypoint  # noqa: F401
    from zenml.integrations.registry import integration_registry

    import materializers.dataset
    import materializers.figures
    import materializers.model_folder  # noqa: F401
    import stacks.kubeflow_orchestrator  # noqa: F401

    integration_registry.activate_integrations()
