"""The PandaStack platform: a control plane and a per-host agent for microVM sandboxes.

The modules at this level hold the words every room shares (errors, the life cycle, domain types, settings); each
package below is one room of ARCHITECTURE.md.
"""

__version__ = "0.1.0"
