"""What routers and agents share, and the command line."""

import os

# NumPy asks the kernel for huge pages for large arrays. Where memory is in pieces, finding one takes up to
# 600 ms, in the middle of a request.
os.environ.setdefault("NUMPY_MADVISE_HUGEPAGE", "0")
