"""Prove that a worker's pod can work here: the claims, atomic renames, the libraries."""

import os
import pathlib
import sys
import tempfile


def check_storage(root: pathlib.Path) -> str:
    """Write, sync, rename and link a file as the stages do, in a folder that goes again."""
    with tempfile.TemporaryDirectory(
        prefix=".clusterfit-test-", dir=root, ignore_cleanup_errors=True
    ) as folder:
        beside = pathlib.Path(folder, "file.partial")
        whole = pathlib.Path(folder, "file.txt")
        with beside.open("w") as file:
            file.write("clusterfit\n")
            file.flush()
            os.fsync(file.fileno())
        beside.rename(whole)
        handle = os.open(folder, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)
        try:
            os.link(whole, pathlib.Path(folder, "link"))
        except OSError as error:
            why = "it has no hard links, with which a stage claims its run"
            raise OSError(f"{why}: {error}") from None
        read = whole.read_text()
    if read != "clusterfit\n":
        raise OSError(f"{whole} came back as {read!r}")
    return "written, synced, renamed, linked and read back"


def check_data(root: pathlib.Path) -> str:
    """See that the data root can be listed and not written."""
    entries = len(list(root.iterdir()))
    if os.access(root, os.W_OK):
        raise OSError("it is writable, want a read-only mount")
    return f"{entries} entries, read-only"


def check_libraries() -> str:
    """Import what the stages stand on."""
    import faiss
    import torch

    return f"torch {torch.__version__}, faiss {faiss.__version__}, CUDA {torch.cuda.is_available()}"


def main() -> int:
    """Print one line a check, and exit 1 when one fails."""
    status = 0
    who = f"user {os.getuid()}, groups {sorted({os.getgid(), *os.getgroups()})}"
    for what, check in (
        ("storage claim", lambda: check_storage(pathlib.Path("/storage"))),
        ("data claim", lambda: check_data(pathlib.Path("/data"))),
        ("libraries", check_libraries),
    ):
        try:
            print(f"ok: {what}: {check()}")
        except (OSError, ImportError) as error:
            print(f"failed: {what} as {who}: {error}", file=sys.stderr)
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
