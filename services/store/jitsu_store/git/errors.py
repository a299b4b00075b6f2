"""What can go wrong with a repository, as this folder says it; wires/repository.py turns it into errors for callers."""

from __future__ import annotations


class RepositoryError(Exception):
    """Something is wrong with the repository; the message says what, and nothing else."""


class NotARepositoryError(RepositoryError):
    """The directory holds no Git repository that can be opened."""


class CannotOpenError(RepositoryError):
    """The repository cannot be opened now: there is no descriptor or no memory left. That passes."""


class DamagedError(RepositoryError):
    """An object or a branch is missing, or is not what it should be."""

    def __init__(self, message: str, id: bytes = b"") -> None:
        super().__init__(message)
        self.id = id
        """Which object, if it is one."""


class CannotWriteError(RepositoryError):
    """The disk did not take what was written."""


class BranchMovedError(RepositoryError):
    """Another program has moved a branch."""

    def __init__(self, branch: str) -> None:
        super().__init__(f"another program has moved the branch {branch}")
        self.branch = branch


class BranchLockedError(RepositoryError):
    """Another program is moving a branch right now, or has died while it did."""

    def __init__(self, branch: str, lock: str) -> None:
        super().__init__(f"another program is moving the branch {branch}")
        self.branch = branch
        self.lock = lock
        """The file that says so."""
