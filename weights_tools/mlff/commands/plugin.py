# SPDX-License-Identifier: MIT
"""mlff plugin: where mlffplugin.so is."""

from __future__ import annotations


def add_parser(subparsers) -> None:
    parser = subparsers.add_parser(
        "plugin",
        help="print the path of mlffplugin.so",
        description="Print the path of mlffplugin.so, for LAMMPS: `plugin load $(mlff plugin)`. The environment "
        "variable MLFF_PLUGIN names another one.",
    )
    parser.set_defaults(run=run)


def run(_arguments) -> int:
    from .._library import plugin_path

    print(plugin_path())
    return 0
