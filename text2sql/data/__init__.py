"""Rows in: load, synthesise, check, split, render as prompts."""
