"""`python -m plumbline`: the command `plumbline`."""

from plumbline.commands import main

if __name__ == "__main__":
    main()
