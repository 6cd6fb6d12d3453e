# SPDX-License-Identifier: MIT
"""The exceptions that carry a sentence for the user: what failed, what was found, what was expected."""

from importlib import import_module
from importlib.util import find_spec


class MlffError(Exception):
    """Any failure that is the input's and not the program's; the text is one sentence."""


class UsageError(MlffError):
    """The command line asks for something that cannot be; exit code 2."""


class ModelFileError(MlffError):
    """A model file that is missing, damaged or contradicts itself."""


class MissingLibraryError(MlffError, OSError):
    """libmlff.so is not where it should be, or cannot be loaded."""


class LibraryError(MlffError):
    """A failure that the C library reported, with its sentence and the name of its status."""

    def __init__(self, message: str, status: str = ""):
        super().__init__(message)
        self.status = status


class MissingDependencyError(MlffError, ImportError):
    """A package that one of the optional extras brings is not installed."""


def require(module: str, what: str, extra: str) -> None:
    """Raises MissingDependencyError where `module` cannot be imported; `what` needs it, `mlff[extra]` brings it."""
    try:
        import_module(module)
    except ImportError as error:
        found = "is not installed" if find_spec(module.partition(".")[0]) is None else f"cannot be imported ({error})"
        raise MissingDependencyError(
            f"{what} needs the package {module}, which {found}; pip install '.[{extra}]' in mlff's checkout brings it"
        ) from None


class ConversionError(MlffError):
    """A checkpoint that the converter does not understand; names what it met."""
