"""`python -m lipsep` is `lipsep`."""

from lipsep.cli import main

if __name__ == "__main__":
    main()
