"""Only what another try may mend is tried again: an exception of the code under test is final, however rarely it comes."""

from __future__ import annotations

import errno

import pytest
import torch
import torch.distributed as dist
from safetensors import SafetensorError

from validation.case.errors import EnvironmentMissing, ExitCode, UsageError
from validation.run.cause import exit_code


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        MemoryError(),
        ConnectionResetError(104, "Connection reset by peer"),
        dist.DistBackendError("NCCL error in: ProcessGroupNCCL.cpp:3699, unhandled system error"),
        dist.DistNetworkError("The client socket has timed out after 300000ms"),
        dist.DistStoreError("wait timeout after 20000ms"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("[gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:33021"),
        RuntimeError("[gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 20000ms for recv operation to complete"),
        RuntimeError("CUDA error: uncorrectable ECC error encountered"),
        torch.AcceleratorError("CUDA error: unknown error"),
        torch.AcceleratorError("CUDA error: uncorrectable NVLink error detected during the execution"),
        torch.AcceleratorError("CUDA error: CUDA-capable device(s) is/are busy or unavailable"),
        KeyboardInterrupt(),
    ],
)
def test_what_another_try_may_mend_is_the_infrastructure(error: BaseException) -> None:
    assert exit_code(error) == ExitCode.INFRASTRUCTURE


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        OSError(errno.EFBIG, "File too large"),
        OSError(errno.EROFS, "Read-only file system"),
        OSError(errno.EMFILE, "Too many open files"),
        BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        SafetensorError('Error while serializing: IoError(Os { code: 122, kind: Other, message: "Disk quota exceeded" })'),
        RuntimeError(
            "[enforce fail at inline_container.cc:857] . PytorchStreamWriter failed writing file data/0: file write failed"
        ),
        RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0"),
        RuntimeError("[gloo/transport/tcp/device.cc:89] socket: Too many open files"),
        RuntimeError("can't start new thread"),
        RuntimeError("Error 803: system has unsupported display driver / cuda driver combination"),
        torch.AcceleratorError("CUDA error: no kernel image is available for execution on the device"),
        OSError("1024 requested and 0 written"),
    ],
)
def test_what_the_machine_lacks_no_other_try_brings(error: Exception) -> None:
    """Full disks, quotas and limits: also in a library's own words."""
    assert exit_code(error) == ExitCode.ENVIRONMENT


def test_a_librarys_error_counts_by_its_cause() -> None:
    """It may say nothing of what the operating system has told it."""
    error = ValueError("the checkpoint could not be saved")
    error.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    assert exit_code(error) == ExitCode.ENVIRONMENT


@pytest.mark.parametrize(
    "error",
    [
        ValueError("No space left on device"),
        RuntimeError("the kernel ended with error code: 28"),
        AssertionError('"Too many open files" is what the model said'),
        AssertionError("found NaN in local grad norm for bucket #0 in backward pass before data-parallel communication"),
        RuntimeError("The size of tensor a (48) must match the size of tensor b (96) at non-singleton dimension 2"),
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        torch.AcceleratorError("CUDA error: device-side assert triggered"),
        ValueError("no kernel image is available"),
        ValueError("timeout must be positive"),
        ZeroDivisionError("in the user's own spec"),
    ],
)
def test_what_the_code_raises_is_final(error: BaseException) -> None:
    assert exit_code(error) == ExitCode.FAIL


@pytest.mark.parametrize(
    ("error", "code"), [(UsageError("no config.json"), ExitCode.USAGE), (EnvironmentMissing("no GPU"), ExitCode.ENVIRONMENT)]
)
def test_an_exception_of_ours_has_its_own_code(error: BaseException, code: ExitCode) -> None:
    assert exit_code(error) == code
