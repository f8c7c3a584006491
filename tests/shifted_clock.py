"""A wall clock that a test sets, for this process and for a Redis that it starts."""

import shutil
import subprocess
import time

import pytest

SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>
static long shift(void) {
    long seconds = 0;
    FILE *file = fopen(getenv("CLOCK_SHIFT_FILE"), "r");
    if (file) {
        if (fscanf(file, "%ld", &seconds) != 1) seconds = 0;
        fclose(file);
    }
    return seconds;
}
int gettimeofday(struct timeval *now, void *zone) {
    static int (*real)(struct timeval *, void *);
    if (!real) real = dlsym(RTLD_NEXT, "gettimeofday");
    int code = real(now, zone);
    now->tv_sec += shift();
    return code;
}
int clock_gettime(clockid_t clock, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int code = real(clock, now);
    if (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE) now->tv_sec += shift();
    return code;
}
"""
"""What faketime does, as far as Redis needs it, and to be changed while it runs."""


def build_library(folder):
    """The shim for ``LD_PRELOAD``; None where there is no C compiler.

    It adds the seconds in the file that ``CLOCK_SHIFT_FILE`` names to the wall clock.
    """
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    source, library = folder / "shift.c", folder / "shift.so"
    source.write_text(SOURCE)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return library


class ShiftedClock:
    """The clocks of this process and of Redis; `monotonic` ones are left alone, as a step leaves them."""

    def __init__(self, folder, monkeypatch):
        self._file = folder / "shift"
        self._monkeypatch = monkeypatch
        self._real = time.time
        self._library = build_library(folder)
        self._file.write_text("0")
        if self._library is not None:
            monkeypatch.setenv("CLOCK_SHIFT_FILE", str(self._file))
            monkeypatch.setenv("LD_PRELOAD", str(self._library))

    def set(self, who, seconds):
        """Let ``who`` (Redis, routers, or everybody) be so many seconds ahead."""
        if who != "routers":
            if self._library is None:
                pytest.skip("no C compiler to shift the clock of Redis")
            self._file.write_text(str(seconds))
        if who != "redis":
            self._monkeypatch.setattr(time, "time", lambda: self._real() + seconds)
