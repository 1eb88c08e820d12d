"""``python -m pandastack.cli``: the command by its interpreter, for where PATH does not lead to it."""

from pandastack.cli import main

if __name__ == "__main__":
    main()
