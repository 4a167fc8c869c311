"""`python -m lipsep` is `lipsep`."""

from lipsep.cli import main

main()
