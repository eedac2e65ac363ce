"""``python -m sagellm_control`` is the command ``sagellm-control``."""

from .cli import main

if __name__ == "__main__":
    main()
