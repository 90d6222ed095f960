"""`python -m validation`."""

import atexit
import os
import sys

from validation.cli import main

if __name__ == "__main__":
    code = main()
    # All that ends in order has ended; taking torch's modules apart one by one would cost another second.
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
