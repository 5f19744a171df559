"""Where pipelines run: a YAML file a stack, and the code that reads, renders, registers and schedules them."""
