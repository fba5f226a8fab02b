"""Notebooks for boards and for the virtual board; `pynq get-notebooks hwgen` copies them to a working directory."""
