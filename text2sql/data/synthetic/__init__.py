"""A generator of question / CREATE TABLE / SQL rows in the shape of sql-create-context: the embedded default's data.

`domains.yaml` says what the databases are about, `constructs.yaml` what can be asked of them and how; the code draws.
"""

from text2sql.data.synthetic.generate import generate_rows, stream_rows

__all__ = ["generate_rows", "stream_rows"]
