"""`python -m ci`."""

from validation.case import surroundings

if __name__ == "__main__":
    with surroundings.Starting():
        # Before anything is imported that a file of this folder or of PYTHONPATH could stand for.
        surroundings.refuse()

        import gc
        import os
        import sys

        from ci.cli import main
        from validation.case import ending, interrupts
        from validation.case.errors import ExitCode

    # Checks by the hundred thousand are objects without cycles; by default Python looks for some half of the time.
    gc.set_threshold(50_000, 20, 1_000)
    interrupts.listen()
    code = ending.code_of(main)
    if code == ExitCode.INTERRUPTED:
        sys.stderr.flush()
        interrupts.end()
        # Python would end with -2 if the interrupt came in code that is made at run time, as methods of dataclasses are.
        os._exit(code)
    sys.exit(code)
