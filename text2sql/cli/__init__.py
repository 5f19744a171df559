"""The commands of `python -m text2sql`, a file each; heavy imports wait until a command runs."""
