# SPDX-License-Identifier: MIT
"""The exceptions that carry a sentence for the user: what failed, what was found, what was expected."""


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


class ConversionError(MlffError):
    """A checkpoint that the converter does not understand; names what it met."""
