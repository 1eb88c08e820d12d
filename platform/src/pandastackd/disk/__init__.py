"""Disk: the data directory, reflink clones, atomic publication and free-space admission.

Knows the file system and nothing above it: no VMM, no network, no tenant.
"""
