"""`python -m validation`."""

from validation.case import surroundings

if __name__ == "__main__":
    with surroundings.Starting():
        # Before anything is imported that a file of this folder or of PYTHONPATH could stand for.
        surroundings.refuse()

        import atexit
        import gc
        import os
        import sys

        from validation.case import ending, interrupts
        from validation.cli import main

    # torch and ten thousand checks are objects by the million and few cycles: by default Python looks for them all the time.
    gc.set_threshold(50_000, 20, 20)
    interrupts.listen()
    code = ending.code_of(main)
    # All that ends in order has ended; taking torch's modules apart one by one would cost another second.
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    interrupts.end()
    os._exit(code)
