"""Kernels that only compiled functions call, for tests in Python."""

from numba import njit


def callable_from_python(kernel):
    """Return a function that calls a kernel."""

    def call(*arguments):
        return kernel(*arguments)

    return njit(error_model="numpy")(call)
