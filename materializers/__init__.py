"""How the artifacts that ZenML cannot store by itself are stored, and shown in its dashboard."""
