"""The exceptions that text2sql raises on purpose.

    Text2SQLError                 a user can act on the message: it is shown in one line, without a traceback
    ├── ConfigError               the config is wrong (exit code 2); carries every problem at once
    ├── DataError                 rows cannot be read, or none are left
    ├── SqlError                  a query or a schema cannot be used
    │   ├── ParseError            … it is not SQL
    │   ├── UnsafeSqlError        … it does more than read
    │   │   └── ForbiddenFunctionError  … it calls a function that is not on the list of harmless ones
    │   └── ExecutionError        … the database refuses it
    │       └── QueryTimeoutError … it ran out of time
    ├── DatabaseError             the database that answers are run on cannot be opened or reached
    ├── ModelError                a model, tokenizer or adapter cannot be loaded or used
    │   └── ParityError           … the merged model does not answer like the adapter on its base
    ├── TrainingError             training cannot start or cannot go on
    │   └── TrainingInterrupted   … it was asked to stop, and has saved a checkpoint
    ├── ServingError              the served model cannot answer
    │   ├── RequestError          … this request, ever: too long, or its options make no sense
    │   ├── EngineBusy            … now: its queue is full; carries `retry_after`
    │   ├── EngineTimeout         … in time
    │   ├── GuardBusy             … now: no process is free to check its answer
    │   └── EngineDead            … at all: it did not start, died or was stopped
    ├── DeploymentError           a model version does not go live; what served before goes on
    │   └── GateRefusal           … because its gate did not pass (exit code 3)
    ├── StackError                the ZenML stack is missing or cannot run this pipeline
    └── OutputError               results cannot be written (disk full, no permission)

A message says what is wrong, shows the value, and gives the remedy.
"""

GATE_FAILED = 3
"""What a command ends with that has done its work, and whose gate did not pass."""


class Text2SQLError(Exception):
    """Base of all errors a user can act on; `exit_code` is what the command line ends with."""

    exit_code = 1


class ConfigError(Text2SQLError):
    """Every problem of a config at once, one line each, in `problems`."""

    exit_code = 2

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        super().__init__("\n".join(problems))

    def __reduce__(self) -> tuple[type["ConfigError"], tuple[list[str]]]:
        return type(self), (self.problems,)


class DataError(Text2SQLError):
    """Rows cannot be read, or none are left."""


class SqlError(Text2SQLError):
    """A query or a schema cannot be used."""


class ParseError(SqlError):
    """The text is not SQL."""


class UnsafeSqlError(SqlError):
    """The query does more than read."""


class ForbiddenFunctionError(UnsafeSqlError):
    """The query calls a function that is not on the list of harmless ones."""


class ExecutionError(SqlError):
    """The database refuses the query, or the query ran out of its time, memory or row limit."""


class QueryTimeoutError(ExecutionError):
    """The query ran longer than it may."""


class DatabaseError(Text2SQLError):
    """The database that answers are run on cannot be opened or reached; no query is to blame."""


class ModelError(Text2SQLError):
    """A model, tokenizer or adapter cannot be loaded or used."""


class ParityError(ModelError):
    """The merged model does not answer like the adapter on its base."""


class TrainingError(Text2SQLError):
    """Training cannot start or cannot go on."""


class TrainingInterrupted(TrainingError):
    """Training was asked to stop and has saved a checkpoint; the same command resumes it."""

    exit_code = 130


class ServingError(Text2SQLError):
    """The served model cannot answer."""


class RequestError(ServingError):
    """The request itself is at fault: too long, or options that make no sense. Asking again does not help."""


class EngineBusy(ServingError):
    """The queue is full; nothing of the request was taken. Ask again after `retry_after` seconds."""

    def __init__(self, message: str, retry_after: float = 1.0) -> None:
        self.retry_after = retry_after
        super().__init__(message)

    def __reduce__(self) -> tuple[type["EngineBusy"], tuple[str, float]]:
        return type(self), (str(self), self.retry_after)


class GuardBusy(ServingError):
    """No guard process came free in time, which says nothing about the SQL."""


class EngineTimeout(ServingError):
    """No answer came in time."""


class EngineDead(ServingError):
    """The engine did not start, died or was stopped."""


class DeploymentError(Text2SQLError):
    """A model version does not go live, or what serves cannot be reached."""


class GateRefusal(DeploymentError):
    """The model version's gate did not pass."""

    exit_code = GATE_FAILED


class StackError(Text2SQLError):
    """The ZenML stack is missing or cannot run this pipeline."""


class OutputError(Text2SQLError):
    """Results cannot be written."""
