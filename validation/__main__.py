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

        from validation.case import exhausted
        from validation.case.errors import ExitCode
        from validation.cli import main

    # torch and ten thousand checks are objects by the million and few cycles: by default Python looks for them all the time.
    gc.set_threshold(50_000, 20, 20)
    try:
        code = main()
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read the output has gone (`| head`): the run did not finish, and there is nobody to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = ExitCode.INFRASTRUCTURE
    except OSError as error:
        if not exhausted.told(error):
            raise
        # What is still to be written has nowhere to go.
        sys.stderr.write(f"error: the output cannot be written ({error.strerror}); make room where it goes\n")
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = ExitCode.ENVIRONMENT
    except KeyboardInterrupt:
        sys.stderr.write("error: interrupted\n")
        code = ExitCode.INTERRUPTED
    # All that ends in order has ended; taking torch's modules apart one by one would cost another second.
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
