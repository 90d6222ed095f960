"""`python -m ci`."""

from validation.case import surroundings

if __name__ == "__main__":
    # Before anything is imported that a file of this folder or of PYTHONPATH could stand for.
    surroundings.refuse()

    import sys

    from ci.cli import main

    sys.exit(main())
