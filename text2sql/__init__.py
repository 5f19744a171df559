"""text2sql: fine-tune, judge and serve text-to-SQL models. This library knows nothing of ZenML."""

__version__ = "0.1.0"
