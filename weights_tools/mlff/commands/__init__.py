# SPDX-License-Identifier: MIT
"""The sub-commands of `mlff`, one a file: add_parser(subparsers) describes it, run(arguments) does it."""
