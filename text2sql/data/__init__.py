"""Rows in: load, synthesise, check, repair, split, render as prompts."""

FIELDS = ("question", "context", "answer")
"""The columns that every row has: plain language, CREATE TABLE statements, gold SQL."""
SPLITS = ("train", "validation", "test")
