"""The code interpreter of a sandbox: Jupyter kernels behind a small HTTP API on port 49999.

server → contexts → context → kernel → languages; results turns the kernels' messages into our events.
"""
