"""SQL as a language: parse and normalise, schemas, build and fill a database, run a query safely."""
