"""Load and quantise a base model, fine-tune an adapter on it, and merge the two."""

import logging

# When it is imported, bitsandbytes asks for a kernel from the model hub; it does without, and says so at length.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
