"""A file a step: convert, call the library, return. The library does the work and knows nothing of ZenML."""
